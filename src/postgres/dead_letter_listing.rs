//! What operators look through: dead letters by page, counted, and grouped by bug. All by the function `selected_dead_letters`.

use super::dead_letters::{DeadLetterState, reason_from_name};
use super::pool::Postgres;
use crate::core::failure::{LedgerFailure, Reason};
use crate::core::record::{Coordinates, Offset, Partition, Timestamp};

/// Stretches of time that a trend is told by, from the oldest failure of the selection until now.
pub const TREND_BUCKETS: usize = 7;

/// A dead letter without its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedLetter {
    pub id: i64,
    pub coordinates: Coordinates,
    pub order_id: String,
    pub event_type: String,
    pub reason: Reason,
    pub class: String,
    pub error: String,
    /// The same bug, the same value.
    pub group: String,
    pub attempts: u32,
    pub replays: u32,
    pub state: DeadLetterState,
    pub first_failed_at: Timestamp,
    pub last_failed_at: Timestamp,
    pub closed: Option<Closed>,
}

/// How a dead letter was closed, by whom and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub at: Timestamp,
    /// Absent when its order was notified.
    pub by: Option<String>,
    pub reason: Option<String>,
    pub note: Option<String>,
}

/// Dead letters of the same bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterGroup {
    pub group: String,
    pub reason: Reason,
    pub count: u64,
    pub first_failed_at: Timestamp,
    pub last_failed_at: Timestamp,
    pub replays: u64,
    /// The latest of them, and its error.
    pub sample_id: i64,
    pub sample_error: String,
    /// How many failed last in each stretch of time.
    pub trend: Vec<u64>,
}

impl Postgres {
    /// The newest of the selected dead letters whose id is below `before`: stable, whatever is written meanwhile.
    pub async fn letter_page(
        &self,
        filter: &str,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<ListedLetter>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_as!(
            ListedRow,
            r#"SELECT d.id AS "id!", d.kpartition AS "kpartition!", d.koffset AS "koffset!", d.order_id AS "order_id!",
                      d.event_type AS "event_type!", d.reason AS "reason!", d.class AS "class!", d.error AS "error!",
                      d.bug AS "bug!", d.attempts AS "attempts!", d.replays AS "replays!", d.state AS "state!",
                      floor(extract(epoch FROM d.first_failed_at) * 1000)::bigint AS "first_failed_ms!",
                      floor(extract(epoch FROM d.last_failed_at) * 1000)::bigint AS "last_failed_ms!",
                      floor(extract(epoch FROM d.closed_at) * 1000)::bigint AS closed_ms,
                      d.closed_by, d.close_reason, d.close_note
                 FROM selected_dead_letters($1, $2, $3::text::jsonb) d
                WHERE $4::bigint IS NULL OR d.id < $4
                ORDER BY d.id DESC LIMIT $5"#,
            &*self.group,
            &*self.topic,
            filter,
            before,
            i64::from(limit),
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        Ok(lease.end(rows).await?.into_iter().filter_map(ListedRow::letter).collect())
    }

    /// How many dead letters are selected.
    pub async fn count_letters(&self, filter: &str) -> Result<u64, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM selected_dead_letters($1, $2, $3::text::jsonb)"#,
            &*self.group,
            &*self.topic,
            filter,
        );
        let count = self.answer(statement.fetch_one(&mut *lease)).await;
        Ok(lease.end(count).await?.cast_unsigned())
    }

    /// The ids of all selected dead letters, oldest first.
    pub async fn letter_ids(&self, filter: &str) -> Result<Vec<i64>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"SELECT d.id AS "id!" FROM selected_dead_letters($1, $2, $3::text::jsonb) d ORDER BY d.id"#,
            &*self.group,
            &*self.topic,
            filter,
        );
        let ids = self.answer(statement.fetch_all(&mut *lease)).await;
        lease.end(ids).await
    }

    /// The selected dead letters by bug, the largest group first.
    pub async fn letter_groups(&self, filter: &str) -> Result<Vec<LetterGroup>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"WITH chosen AS MATERIALIZED (
               SELECT d.id, d.bug, d.reason, d.replays, extract(epoch FROM d.first_failed_at)::float8 AS first_failed,
                      extract(epoch FROM d.last_failed_at)::float8 AS last_failed
                 FROM selected_dead_letters($1, $2, $3::text::jsonb) d),
             span AS (
               SELECT min(last_failed) AS opening,
                      greatest(extract(epoch FROM clock_timestamp())::float8, max(last_failed) + 1) AS ending FROM chosen),
             counted AS (
               SELECT c.bug, width_bucket(c.last_failed, s.opening, s.ending, $4) AS bucket, count(*) AS letters
                 FROM chosen c CROSS JOIN span s GROUP BY 1, 2),
             grouped AS (
               SELECT bug, min(reason) AS reason, count(*) AS letters, min(first_failed) AS first_failed,
                      max(last_failed) AS last_failed, sum(replays)::bigint AS replays, max(id) AS sample_id
                 FROM chosen GROUP BY bug)
             SELECT g.bug AS "bug!", g.reason AS "reason!", g.letters AS "letters!", g.replays AS "replays!",
                    floor(g.first_failed * 1000)::bigint AS "first_failed_ms!",
                    floor(g.last_failed * 1000)::bigint AS "last_failed_ms!",
                    g.sample_id AS "sample_id!", d.error AS "error!",
                    ARRAY(SELECT coalesce(c.letters, 0) FROM generate_series(1, $4) b
                            LEFT JOIN counted c ON c.bug = g.bug AND c.bucket = b ORDER BY b) AS "trend!"
               FROM grouped g JOIN dead_letters d ON d.id = g.sample_id
              ORDER BY g.letters DESC, g.bug"#,
            &*self.group,
            &*self.topic,
            filter,
            i32::try_from(TREND_BUCKETS).unwrap_or(i32::MAX),
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let groups = lease.end(rows).await?.into_iter().filter_map(|row| {
            Some(LetterGroup {
                reason: reason_from_name(&row.reason)?,
                group: row.bug,
                count: row.letters.cast_unsigned(),
                first_failed_at: Timestamp(row.first_failed_ms),
                last_failed_at: Timestamp(row.last_failed_ms),
                replays: row.replays.cast_unsigned(),
                sample_id: row.sample_id,
                sample_error: row.error,
                trend: row.trend.into_iter().map(i64::cast_unsigned).collect(),
            })
        });
        Ok(groups.collect())
    }
}

pub(super) struct ListedRow {
    pub(super) id: i64,
    pub(super) kpartition: i32,
    pub(super) koffset: i64,
    pub(super) order_id: String,
    pub(super) event_type: String,
    pub(super) reason: String,
    pub(super) class: String,
    pub(super) error: String,
    pub(super) bug: String,
    pub(super) attempts: i32,
    pub(super) replays: i32,
    pub(super) state: String,
    pub(super) first_failed_ms: i64,
    pub(super) last_failed_ms: i64,
    pub(super) closed_ms: Option<i64>,
    pub(super) closed_by: Option<String>,
    pub(super) close_reason: Option<String>,
    pub(super) close_note: Option<String>,
}

impl ListedRow {
    /// None for a reason or a state of a later version.
    pub(super) fn letter(self) -> Option<ListedLetter> {
        let closed = self.closed_ms.map(|at| Closed {
            at: Timestamp(at),
            by: self.closed_by,
            reason: self.close_reason,
            note: self.close_note,
        });
        Some(ListedLetter {
            id: self.id,
            coordinates: Coordinates { partition: Partition(self.kpartition), offset: Offset(self.koffset) },
            order_id: self.order_id,
            event_type: self.event_type,
            reason: reason_from_name(&self.reason)?,
            class: self.class,
            error: self.error,
            group: self.bug,
            attempts: self.attempts.cast_unsigned(),
            replays: self.replays.cast_unsigned(),
            state: DeadLetterState::from_name(&self.state)?,
            first_failed_at: Timestamp(self.first_failed_ms),
            last_failed_at: Timestamp(self.last_failed_ms),
            closed,
        })
    }
}
