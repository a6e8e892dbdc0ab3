//! What Postgres says about the records of the demo.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};

use super::broker::{GROUP, TOPIC};
use crate::core::record::{Coordinates, Offset, Partition};

const GONE_LIMIT: Duration = Duration::from_secs(10);

/// The demo's own connection to the worker's database.
#[derive(Debug)]
pub struct Ledger(PgConnection);

/// What the tables hold, by the state of the ledger rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub done: i64,
    pub claimed: i64,
    pub dead: i64,
    /// Dead letters that are not in the topic yet.
    pub unpublished: i64,
}

/// A row of `dead_letters`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRow {
    pub coordinates: Coordinates,
    pub reason: String,
}

impl Ledger {
    pub async fn connect(url: &str) -> Result<Self, sqlx::Error> {
        Ok(Self(PgConnection::connect(url).await?))
    }

    /// All zero until the worker has made the tables.
    pub async fn counts(&mut self) -> Result<Counts, sqlx::Error> {
        let tables_exist: bool =
            sqlx::query_scalar("SELECT to_regclass('dead_letters') IS NOT NULL").fetch_one(&mut self.0).await?;
        if !tables_exist {
            return Ok(Counts::default());
        }
        let (done, claimed, dead, unpublished) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE state = 'd'), count(*) FILTER (WHERE state = 'c'),
                    count(*) FILTER (WHERE state = 'x'),
                    (SELECT count(*) FROM dead_letters WHERE consumer_group = $1 AND published_at IS NULL)
               FROM processed_orders WHERE consumer_group = $1",
        )
        .bind(GROUP)
        .fetch_one(&mut self.0)
        .await?;
        Ok(Counts { done, claimed, dead, unpublished })
    }

    /// The orders whose deliveries have an unknown effect: claimed and not settled.
    ///
    /// Meant for a worker that was killed: waits until the statements that it left under way have ended.
    pub async fn open_claims(&mut self) -> Result<HashSet<String>, sqlx::Error> {
        let start = Instant::now();
        while self.has_other_clients().await? && start.elapsed() < GONE_LIMIT {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let claims: Vec<String> = sqlx::query_scalar(
            "SELECT order_id FROM processed_orders WHERE consumer_group = $1 AND topic = $2 AND state = 'c'",
        )
        .bind(GROUP)
        .bind(TOPIC)
        .fetch_all(&mut self.0)
        .await?;
        Ok(claims.into_iter().collect())
    }

    /// The orders that are settled as notified.
    pub async fn done(&mut self) -> Result<HashSet<String>, sqlx::Error> {
        let done: Vec<String> =
            sqlx::query_scalar("SELECT order_id FROM processed_orders WHERE consumer_group = $1 AND state = 'd'")
                .bind(GROUP)
                .fetch_all(&mut self.0)
                .await?;
        Ok(done.into_iter().collect())
    }

    pub async fn dead_letters(&mut self) -> Result<Vec<DeadRow>, sqlx::Error> {
        let rows: Vec<(i32, i64, String)> = sqlx::query_as(
            "SELECT kpartition, koffset, reason FROM dead_letters WHERE consumer_group = $1 AND topic = $2",
        )
        .bind(GROUP)
        .bind(TOPIC)
        .fetch_all(&mut self.0)
        .await?;
        let row = |(partition, offset, reason)| DeadRow {
            coordinates: Coordinates { partition: Partition(partition), offset: Offset(offset) },
            reason,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn has_other_clients(&mut self) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                               AND backend_type = 'client backend' AND pid <> pg_backend_pid())",
        )
        .fetch_one(&mut self.0)
        .await
    }
}
