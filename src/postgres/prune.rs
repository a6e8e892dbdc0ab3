//! Retention: the ledger forgets what Kafka can no longer deliver again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::pool::Postgres;
use crate::core::failure::LedgerFailure;

/// 8 MiB of the table for each call.
const PAGES: u32 = 1_024;

impl Postgres {
    /// Deletes at most `limit` rows that were settled longer than `retention` ago, with their closed dead letters; returns how
    /// many. A row with a dead letter that is open or unpublished stays.
    ///
    /// An index on the age would cost every claim, so a call looks at the next part of the table and the one after the last
    /// begins again: call it now and then, and not at all when the source topic keeps its records for ever.
    pub async fn prune(&self, retention: Duration, limit: u32) -> Result<u64, LedgerFailure> {
        let first = self.prune_page.load(Ordering::Relaxed);
        let end = first.saturating_add(PAGES);
        let pruned = self.prune_pages(first, end, retention, limit).await?;
        let next = if pruned.rows >= u64::from(limit) {
            first
        } else if end >= pruned.table_pages {
            0
        } else {
            end
        };
        self.prune_page.store(next, Ordering::Relaxed);
        Ok(pruned.rows)
    }

    /// Rows of the ledger as the planner last estimated them, of all groups: counting them would read the whole table.
    pub async fn ledger_rows(&self) -> Result<u64, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"SELECT greatest(reltuples, 0)::bigint AS "rows!" FROM pg_class WHERE oid = 'processed_orders'::regclass"#
        );
        let rows = self.answer(statement.fetch_one(&mut *lease)).await;
        let rows = lease.end(rows).await?;
        Ok(u64::try_from(rows).unwrap_or_default())
    }

    async fn prune_pages(
        &self,
        first: u32,
        end: u32,
        retention: Duration,
        limit: u32,
    ) -> Result<Pruned, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"WITH old AS MATERIALIZED (
               SELECT l.order_id, l.event_type FROM processed_orders l
                WHERE l.ctid >= $2::text::tid AND l.ctid < $3::text::tid
                  AND l.consumer_group = $1 AND l.state IN ('d', 'x', 'u')
                  AND coalesce(l.settled_at, l.claimed_at) < now() - $4::float8 * interval '1 second'
                  AND (NOT l.buried OR NOT EXISTS (
                      SELECT FROM dead_letters d
                       WHERE d.consumer_group = $1 AND d.order_id = l.order_id AND d.event_type = l.event_type
                         AND (d.state IN ('open', 'replaying', 'quarantined') OR d.published_at IS NULL)))
                ORDER BY l.order_id, l.event_type LIMIT $5 FOR UPDATE OF l SKIP LOCKED),
             deleted AS (
               DELETE FROM processed_orders l USING old
                WHERE l.consumer_group = $1 AND l.order_id = old.order_id AND l.event_type = old.event_type
               RETURNING l.order_id, l.event_type, l.buried),
             letters AS (
               DELETE FROM dead_letters d USING deleted
                WHERE deleted.buried AND d.consumer_group = $1 AND d.order_id = deleted.order_id
                  AND d.event_type = deleted.event_type AND d.state IN ('discarded', 'resolved')
                  AND d.published_at IS NOT NULL)
             SELECT (SELECT count(*) FROM deleted) AS "rows!",
                    pg_relation_size('processed_orders') / current_setting('block_size')::bigint AS "pages!""#,
            &*self.group,
            format!("({first},0)"),
            format!("({end},0)"),
            retention.as_secs_f64().min(1e9),
            i64::from(limit),
        );
        let row = self.answer(statement.fetch_one(&mut *lease)).await;
        let row = lease.end(row).await?;
        Ok(Pruned {
            rows: u64::try_from(row.rows).unwrap_or_default(),
            table_pages: u32::try_from(row.pages).unwrap_or(u32::MAX),
        })
    }
}

struct Pruned {
    rows: u64,
    table_pages: u32,
}
