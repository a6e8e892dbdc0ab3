//! What the table of parked records holds.

use super::World;
use super::wait::{EVENTUALLY, wait_until};

/// A row of `parked_events`.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Row {
    pub kpartition: i32,
    pub koffset: i64,
    pub order_id: String,
    pub event_type: String,
    pub attempts: i32,
}

impl World {
    /// All parked records, by partition and offset.
    pub async fn parked(&self) -> Vec<Row> {
        let statement = "SELECT kpartition, koffset, order_id, event_type, attempts FROM parked_events
                          ORDER BY kpartition, koffset";
        sqlx::query_as(statement).fetch_all(&self.database.pool).await.unwrap()
    }

    /// Waits until this many records are parked.
    pub async fn parked_when(&self, count: usize) -> Vec<Row> {
        wait_until(&format!("{count} records are parked"), EVENTUALLY, async || {
            let rows = self.parked().await;
            if rows.len() == count { Ok(rows) } else { Err(format!("{} are: {rows:?}", rows.len())) }
        })
        .await
    }
}
