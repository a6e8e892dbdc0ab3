//! Dead letters whole: the record, every attempt, and what their order went through otherwise.

use super::dead_letter_listing::{ListedLetter, ListedRow};
use super::history::{self, PastAttempt, PastReplay};
use super::pool::Postgres;
use super::stored_record;
use crate::core::decode::SYNTHETIC_EVENT_TYPE;
use crate::core::failure::LedgerFailure;
use crate::core::input::LedgerState;
use crate::core::record::{Coordinates, Offset, Partition, Record, Timestamp};

/// A dead letter with everything that is known of it.
#[derive(Clone, Debug)]
pub struct WholeLetter {
    pub listed: ListedLetter,
    pub record: Record,
    pub history: Vec<PastAttempt>,
    /// The earliest first.
    pub replays: Vec<PastReplay>,
    pub published_at: Option<Timestamp>,
}

/// What the ledger knows of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    pub event_type: String,
    pub state: LedgerState,
    pub topic: String,
    pub coordinates: Coordinates,
    pub epoch: i64,
    pub claimed_at: Timestamp,
    pub settled_at: Option<Timestamp>,
}

/// A record of an order that waits for its retry or its replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingRecord {
    pub event_type: String,
    pub attempts: u32,
    pub parked_at: Timestamp,
    pub due_at: Timestamp,
    pub is_replay: bool,
    pub record: Record,
    pub history: Vec<PastAttempt>,
}

impl Postgres {
    /// Selected dead letters whole, the oldest first, from the one after `after` on: at most `limit`.
    ///
    /// One whose record cannot be read is logged and left out.
    pub async fn whole_letters(&self, filter: &str, after: i64, limit: u32) -> Result<Vec<WholeLetter>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_as!(
            WholeRow,
            r#"SELECT d.id AS "id!", d.kpartition AS "kpartition!", d.koffset AS "koffset!", d.order_id AS "order_id!",
                      d.event_type AS "event_type!", d.reason AS "reason!", d.class AS "class!", d.error AS "error!",
                      d.bug AS "bug!", d.attempts AS "attempts!", d.replays AS "replays!", d.state AS "state!",
                      floor(extract(epoch FROM d.first_failed_at) * 1000)::bigint AS "first_failed_ms!",
                      floor(extract(epoch FROM d.last_failed_at) * 1000)::bigint AS "last_failed_ms!",
                      floor(extract(epoch FROM d.closed_at) * 1000)::bigint AS closed_ms,
                      d.closed_by, d.close_reason, d.close_note, d.record AS "record!", d.history::text AS "history!",
                      floor(extract(epoch FROM d.published_at) * 1000)::bigint AS published_ms,
                      (SELECT coalesce(jsonb_agg(jsonb_build_object(
                              'replay', r.id, 'to_topic', r.to_topic, 'by', coalesce(r.started_by, r.planned_by),
                              'reason', r.reason, 'outcome', p.outcome, 'detail', p.detail,
                              'begun_ms', floor(extract(epoch FROM p.scheduled_at) * 1000)::bigint,
                              'ended_ms', floor(extract(epoch FROM p.ended_at) * 1000)::bigint) ORDER BY r.id), '[]')::text
                         FROM replay_letters p JOIN replays r ON r.id = p.replay_id
                        WHERE p.dead_letter_id = d.id AND r.started_at IS NOT NULL) AS "past_replays!"
                 FROM selected_dead_letters($1, $2, $3::text::jsonb) d WHERE d.id > $4 ORDER BY d.id LIMIT $5"#,
            &*self.group,
            &*self.topic,
            filter,
            after,
            i64::from(limit),
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        Ok(lease.end(rows).await?.into_iter().filter_map(WholeRow::letter).collect())
    }

    /// The rows of this order in the ledger, one for each event type.
    pub async fn ledger_entries(&self, order_id: &str) -> Result<Vec<LedgerEntry>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT event_type, state, topic, kpartition, koffset, epoch,
                      floor(extract(epoch FROM claimed_at) * 1000)::bigint AS "claimed_ms!",
                      floor(extract(epoch FROM settled_at) * 1000)::bigint AS settled_ms
                 FROM processed_orders WHERE consumer_group = $1 AND order_id = $2 ORDER BY event_type"#,
            &*self.group,
            order_id,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let entries = lease.end(rows).await?.into_iter().filter_map(|row| {
            Some(LedgerEntry {
                state: row.state.chars().next().and_then(LedgerState::from_code)?,
                event_type: row.event_type,
                topic: row.topic,
                coordinates: Coordinates { partition: Partition(row.kpartition), offset: Offset(row.koffset) },
                epoch: row.epoch,
                claimed_at: Timestamp(row.claimed_ms),
                settled_at: row.settled_ms.map(Timestamp),
            })
        });
        Ok(entries.collect())
    }

    /// What waits of this order.
    pub async fn waiting_records(&self, order_id: &str) -> Result<Vec<WaitingRecord>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT event_type, kpartition, koffset, attempts, run_id IS NOT NULL AS "is_replay!", history::text AS "history!", record,
                      floor(extract(epoch FROM parked_at) * 1000)::bigint AS "parked_ms!",
                      floor(extract(epoch FROM due_at) * 1000)::bigint AS "due_ms!"
                 FROM parked_events WHERE consumer_group = $1 AND order_id = $2 ORDER BY event_type"#,
            &*self.group,
            order_id,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let waiting = lease.end(rows).await?.into_iter().filter_map(|row| {
            let coordinates = Coordinates { partition: Partition(row.kpartition), offset: Offset(row.koffset) };
            let record = stored_record::decode(coordinates, row.record)
                .inspect_err(|error| tracing::error!(%error, "a parked record cannot be read"))
                .ok()?;
            Some(WaitingRecord {
                event_type: row.event_type,
                attempts: row.attempts.cast_unsigned(),
                parked_at: Timestamp(row.parked_ms),
                due_at: Timestamp(row.due_ms),
                is_replay: row.is_replay,
                record,
                history: history::decode(&row.history),
            })
        });
        Ok(waiting.collect())
    }

    /// Dead letters without an identity of their own, poison and conflicts, whose bytes hold this text.
    pub async fn synthetic_letters_with(&self, text: &str, limit: u32) -> Result<Vec<i64>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            "SELECT id FROM dead_letters WHERE consumer_group = $1 AND topic = $2 AND event_type = $3
                AND position(convert_to($4, 'UTF8') IN record) > 0 ORDER BY id DESC LIMIT $5",
            &*self.group,
            &*self.topic,
            SYNTHETIC_EVENT_TYPE,
            text,
            i64::from(limit),
        );
        let ids = self.answer(statement.fetch_all(&mut *lease)).await;
        lease.end(ids).await
    }
}

struct WholeRow {
    id: i64,
    kpartition: i32,
    koffset: i64,
    order_id: String,
    event_type: String,
    reason: String,
    class: String,
    error: String,
    bug: String,
    attempts: i32,
    replays: i32,
    state: String,
    first_failed_ms: i64,
    last_failed_ms: i64,
    closed_ms: Option<i64>,
    closed_by: Option<String>,
    close_reason: Option<String>,
    close_note: Option<String>,
    record: Vec<u8>,
    history: String,
    past_replays: String,
    published_ms: Option<i64>,
}

impl WholeRow {
    fn letter(self) -> Option<WholeLetter> {
        let coordinates = Coordinates { partition: Partition(self.kpartition), offset: Offset(self.koffset) };
        let id = self.id;
        let record = stored_record::decode(coordinates, self.record)
            .inspect_err(|error| tracing::error!(id, %error, "a dead letter cannot be read"))
            .ok()?;
        let listed = ListedRow {
            id,
            kpartition: self.kpartition,
            koffset: self.koffset,
            order_id: self.order_id,
            event_type: self.event_type,
            reason: self.reason,
            class: self.class,
            error: self.error,
            bug: self.bug,
            attempts: self.attempts,
            replays: self.replays,
            state: self.state,
            first_failed_ms: self.first_failed_ms,
            last_failed_ms: self.last_failed_ms,
            closed_ms: self.closed_ms,
            closed_by: self.closed_by,
            close_reason: self.close_reason,
            close_note: self.close_note,
        };
        Some(WholeLetter {
            listed: listed.letter()?,
            record,
            history: history::decode(&self.history),
            replays: history::decode_replays(&self.past_replays),
            published_at: self.published_ms.map(Timestamp),
        })
    }
}
