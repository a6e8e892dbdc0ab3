//! The rows of both sides, in the same columns.

use herald::core::event::{Fingerprint, Identity};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::*;

/// Order, state, coordinates, epoch, serial, starts, buried, fingerprint.
type LedgerColumns = (String, String, i32, i64, i64, i64, i16, bool, Vec<u8>);
/// Order, coordinates, key, attempts, in hours: due, failed first, failed last; read by a worker.
type ParkedColumns = (String, i32, i64, i64, i32, i64, i64, Option<i64>, bool);
/// Partition, epoch, owner, start, clean end, unclean ends.
type EpochColumns = (i32, i64, String, Option<i64>, bool, i32);

impl World {
    pub(super) async fn assert_rows_are_equal(&self) {
        equal(&self.ledger().await, &self.expected_ledger());
        equal(&self.parked().await, &self.expected_parked());
        equal(&self.epochs().await, &self.expected_epochs());
    }

    async fn ledger(&self) -> Vec<LedgerColumns> {
        let all = "SELECT order_id, state, kpartition, koffset, epoch, serial, starts, buried, fingerprint
                     FROM processed_orders ORDER BY order_id";
        sqlx::query_as(all).fetch_all(&self.database.tables).await.unwrap()
    }

    fn expected_ledger(&self) -> Vec<LedgerColumns> {
        let row = |(identity, row): (&Identity, &tables::Row)| {
            let (state, at) = (row.state.code().to_string(), row.coordinates);
            let (serial, starts) = (row.serial.0.cast_signed(), row.starts.cast_signed());
            let Fingerprint(fingerprint) = row.fingerprint;
            let order_id = identity.order_id.to_string();
            let (partition, offset) = (at.partition.0, at.offset.0);
            (order_id, state, partition, offset, row.epoch.0, serial, starts, row.buried, fingerprint.to_vec())
        };
        let mut rows: Vec<_> = self.tables.ledger.iter().map(row).collect();
        rows.sort();
        rows
    }

    async fn parked(&self) -> Vec<ParkedColumns> {
        let all = "SELECT order_id, kpartition, koffset, key_hash, attempts,
                          round(extract(epoch FROM due_at - clock_timestamp()) / 3600)::bigint AS due_in,
                          round(extract(epoch FROM clock_timestamp() - first_failed_at) / 3600)::bigint AS first_ago,
                          round((extract(epoch FROM clock_timestamp()) - (history -> -1 ->> 'at_ms')::numeric / 1000) / 3600)::bigint
                              AS last_ago,
                          loaded_at IS NOT NULL
                     FROM parked_events ORDER BY order_id";
        let rows = sqlx::query(all).fetch_all(&self.database.tables).await.unwrap();
        let columns = |row: &PgRow| {
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5), row.get(6), row.get(7), row.get(8))
        };
        rows.iter().map(columns).collect()
    }

    fn expected_parked(&self) -> Vec<ParkedColumns> {
        let ago = |at: Now| hours(NOW.saturating_sub(at));
        let row = |(identity, waiting): (&Identity, &tables::Waiting)| {
            let at = waiting.coordinates;
            let (key, attempts) = (waiting.key.0.cast_signed(), waiting.attempts.cast_signed());
            let (order_id, last_failed) = (identity.order_id.to_string(), waiting.last_failed().map(ago));
            let (due_in, first_failed) = (hours(waiting.due.saturating_sub(NOW)), ago(waiting.first_failed));
            let is_loaded = waiting.is_loaded;
            (order_id, at.partition.0, at.offset.0, key, attempts, due_in, first_failed, last_failed, is_loaded)
        };
        self.tables.parked.iter().map(row).collect()
    }

    async fn epochs(&self) -> Vec<EpochColumns> {
        let all = "SELECT kpartition, epoch, owner, start_offset, clean_end, unclean_ends FROM partition_epochs
                    ORDER BY kpartition";
        sqlx::query_as(all).fetch_all(&self.database.tables).await.unwrap()
    }

    fn expected_epochs(&self) -> Vec<EpochColumns> {
        let row = |(partition, ownership): (&Partition, &tables::Ownership)| {
            let tables::Ownership { epoch, owner, start, is_clean_end, unclean_ends } = ownership;
            (partition.0, epoch.0, owner.to_string(), Some(start.0), *is_clean_end, unclean_ends.cast_signed())
        };
        let mut rows: Vec<_> = self.tables.epochs.iter().map(row).collect();
        rows.sort();
        rows
    }
}
