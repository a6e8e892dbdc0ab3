//! `dead_letters`: records given up on, and the outbox of the DLQ topic.

use std::sync::{Arc, PoisonError};

use super::ledger::{RowOf, Rows, Tickets};
use super::pool::Postgres;
use super::{history, seconds, stored_record, text};
use crate::core::dead_letter::{Letter, bug_fingerprint};
use crate::core::effect::DeadLetter;
use crate::core::failure::{LedgerFailure, Reason};
use crate::core::input::Ticket;
use crate::core::record::{Coordinates, Epoch, Offset, Partition, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadLetterState {
    Open,
    Replaying,
    Quarantined,
    Discarded,
    Resolved,
}

impl DeadLetterState {
    /// What still needs somebody.
    pub const NOT_CLOSED: [Self; 3] = [Self::Open, Self::Replaying, Self::Quarantined];
}

/// For `herald_dead_letters_unpublished` and the age of the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpublishedFacts {
    pub count: u64,
    pub oldest_failed_at: Option<Timestamp>,
}

/// For `herald_dead_letters{state,reason}` and the age of the oldest that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterCount {
    pub state: DeadLetterState,
    pub reason: Reason,
    pub count: u64,
    pub oldest_failed_at: Timestamp,
}

impl Postgres {
    /// Writes the dead letters and settles their ledger rows; returns the tickets whose letter is durable. A ticket that is
    /// missing was fenced, or its identity was settled otherwise, or a later statement of this epoch was faster.
    ///
    /// No two letters of a batch have the same identity. Burying may be repeated when its answer was lost: the ledger row is
    /// dead already, of the same coordinates and epoch, and keeps its `settled_at`; so the letter is not another failure. It has
    /// the serial that it had before, and so leaves an order to the replay that was scheduled since.
    pub async fn bury(&self, letters: &[DeadLetter]) -> Result<Vec<Ticket>, LedgerFailure> {
        let rows = Rows::of(letters.iter().map(|letter| RowOf::from(&letter.settlement)));
        let columns = LetterColumns::of(letters);
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"WITH fence AS MATERIALIZED (
               SELECT e.kpartition, e.epoch FROM partition_epochs e
                WHERE e.consumer_group = $1 AND e.topic = $2 AND e.kpartition = ANY($3::integer[]) ORDER BY e.kpartition FOR SHARE),
             input AS MATERIALIZED (
               SELECT i.* FROM unnest($4::text[], $5::text[], $6::bytea[], $7::integer[], $8::bigint[], $9::bigint[],
                                      $10::text[], $11::text[], $12::text[], $13::text[], $14::integer[],
                                      $15::float8[], $16::float8[], $17::bytea[], $18::text[], $19::bytea[], $20::bigint[])
                   AS i(order_id, event_type, fingerprint, kpartition, koffset, epoch, reason, class, error, bug, attempts,
                        first_failed_ago, last_failed_ago, record, failures, record_key, serial)
                 JOIN fence USING (kpartition, epoch)),
             moved AS (
               INSERT INTO processed_orders AS l (consumer_group, order_id, event_type, state, fingerprint, topic,
                      kpartition, koffset, epoch, serial, buried, settled_at)
               SELECT $1, order_id, event_type, CASE reason WHEN 'uncertain' THEN 'u' ELSE 'x' END, fingerprint, $2,
                      kpartition, koffset, epoch, serial, true, clock_timestamp()
                 FROM input ORDER BY order_id, event_type
               ON CONFLICT (consumer_group, order_id, event_type) DO UPDATE
               SET (state, epoch, serial, buried, settled_at) = (
                 SELECT excluded.state, excluded.epoch,
                        CASE WHEN l.epoch = excluded.epoch THEN greatest(l.serial, excluded.serial) ELSE excluded.serial END,
                        true, excluded.settled_at WHERE l.state IN ('c', 'p')
                  UNION ALL SELECT l.state, l.epoch, l.serial, l.buried, l.settled_at LIMIT 1)
               WHERE (l.topic, l.kpartition, l.koffset) = (excluded.topic, excluded.kpartition, excluded.koffset)
                 AND ((l.state IN ('c', 'p') AND (l.epoch <> excluded.epoch OR l.serial <= excluded.serial))
                      OR (l.state IN ('x', 'u') AND l.epoch = excluded.epoch))
               RETURNING l.order_id, l.event_type, l.settled_at),
             unparked AS (
               DELETE FROM parked_events q USING moved m
                WHERE q.consumer_group = $1 AND q.order_id = m.order_id AND q.event_type = m.event_type
               RETURNING q.order_id, q.event_type, q.history, q.run_id),
             replayed AS MATERIALIZED (
               SELECT u.order_id, u.event_type, d.record FROM unparked u
                 JOIN dead_letters d ON d.consumer_group = $1 AND d.order_id = u.order_id AND d.event_type = u.event_type
                                    AND d.run_id = u.run_id AND d.state = 'replaying'),
             written AS (
               INSERT INTO dead_letters AS d (consumer_group, topic, kpartition, koffset, record, order_id, event_type,
                      reason, class, error, bug, attempts, first_failed_at, last_failed_at, failed_at, record_key, history)
               SELECT $1, $2, i.kpartition, i.koffset, coalesce(p.record, i.record), i.order_id, i.event_type,
                      i.reason, i.class, i.error, i.bug, i.attempts,
                      clock_timestamp() - i.first_failed_ago * interval '1 second',
                      clock_timestamp() - i.last_failed_ago * interval '1 second', m.settled_at, i.record_key,
                      history_with(coalesce(u.history, '[]'), i.failures::jsonb)
                 FROM input i JOIN moved m USING (order_id, event_type) LEFT JOIN unparked u USING (order_id, event_type)
                 LEFT JOIN replayed p USING (order_id, event_type)
                ORDER BY i.order_id, i.event_type
               ON CONFLICT (consumer_group, topic, kpartition, koffset, digest) DO UPDATE
               SET order_id = excluded.order_id, event_type = excluded.event_type, closed_by = NULL, close_reason = NULL, close_note = NULL,
                   reason = excluded.reason, class = excluded.class, error = excluded.error, bug = excluded.bug,
                   attempts = excluded.attempts, failures = d.failures + 1, closed_at = NULL,
                   replays = d.replays + (d.state = 'replaying')::integer,
                   state = coalesce((SELECT 'quarantined' FROM replays r
                                      WHERE d.state = 'replaying' AND r.id = d.run_id AND d.replays + 1 >= r.replay_cap), 'open'),
                   first_failed_at = least(d.first_failed_at, excluded.first_failed_at),
                   last_failed_at = excluded.last_failed_at, failed_at = excluded.failed_at, published_at = NULL,
                   record_key = excluded.record_key, history = history_with(d.history, excluded.history)
               WHERE d.failed_at <> excluded.failed_at
               RETURNING d.id, d.state, d.error),
             failed_again AS (
               UPDATE replay_letters p
                  SET state = 'ended', outcome = CASE w.state WHEN 'quarantined' THEN 'quarantined' ELSE 'dead_again' END,
                      detail = w.error, ended_at = clock_timestamp()
                 FROM written w WHERE p.dead_letter_id = w.id AND p.state = 'scheduled')
             SELECT order_id AS "order_id!", event_type AS "event_type!" FROM moved"#,
            &*self.group,
            &*self.topic,
            &rows.fenced_partitions(),
            rows.order_ids.as_slice() as _,
            rows.event_types.as_slice() as _,
            rows.fingerprints.as_slice() as _,
            &rows.partitions,
            &rows.offsets,
            &rows.epochs,
            columns.reasons.as_slice() as _,
            columns.classes.as_slice() as _,
            columns.errors.as_slice() as _,
            &columns.bugs,
            &columns.attempts,
            &columns.first_failed_ago,
            &columns.last_failed_ago,
            &columns.records,
            columns.failures.as_slice() as _,
            columns.keys.as_slice() as _,
            &columns.serials,
        );
        let moved = self.answer(statement.fetch_all(&mut *lease)).await;
        let moved = lease.end(moved).await?;
        let settlements = letters.iter().map(|letter| &letter.settlement);
        let tickets = Tickets::of(settlements.map(|settlement| (&settlement.identity, settlement.ticket)));
        moved.iter().map(|row| tickets.of_identity(&row.order_id, &row.event_type)).collect()
    }

    /// Letters that the DLQ topic does not have yet, the oldest of each partition that is still owned, as many of one as of another:
    /// at most `rows`, and as many as fit into `bytes` of stored records but at least one.
    ///
    /// A letter that cannot be read is logged and left out, by this process for good.
    pub async fn unpublished(
        &self,
        owned: &[(Partition, Epoch)],
        rows: u32,
        bytes: u64,
    ) -> Result<Vec<Letter>, LedgerFailure> {
        loop {
            let stored = self.unpublished_rows(owned, rows, bytes).await?;
            let is_empty = stored.is_empty();
            let letters: Vec<Letter> = stored.into_iter().filter_map(|row| self.readable(row)).collect();
            if is_empty || !letters.is_empty() {
                return Ok(letters);
            }
        }
    }

    /// None for what only a later version can read: it must not hold up the letters behind it, nor take their place each time.
    fn readable(&self, row: StoredLetter) -> Option<Letter> {
        let id = row.id;
        match row.letter(&self.topic) {
            Ok(letter) => Some(letter),
            Err(error) => {
                tracing::error!(id, error, "a dead letter stays unpublished");
                self.unreadable_letters.lock().unwrap_or_else(PoisonError::into_inner).push(id);
                None
            }
        }
    }

    async fn unpublished_rows(
        &self,
        owned: &[(Partition, Epoch)],
        rows: u32,
        bytes: u64,
    ) -> Result<Vec<StoredLetter>, LedgerFailure> {
        let unreadable = self.unreadable_letters.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let partitions: Vec<i32> = owned.iter().map(|(partition, _)| partition.0).collect();
        let epochs: Vec<i64> = owned.iter().map(|(_, epoch)| epoch.0).collect();
        let mut lease = self.lease().await?;
        let statement = sqlx::query_as!(
            StoredLetter,
            r#"WITH waiting AS MATERIALIZED (
               SELECT w.id, w.size, w.place
                 FROM unnest($3::integer[], $4::bigint[]) AS o(kpartition, epoch)
                 JOIN partition_epochs e ON e.consumer_group = $1 AND e.topic = $2
                                        AND e.kpartition = o.kpartition AND e.epoch = o.epoch
                CROSS JOIN LATERAL (
                      SELECT d.id, octet_length(d.record) AS size, row_number() OVER (ORDER BY d.id) AS place
                        FROM dead_letters d
                       WHERE d.consumer_group = $1 AND d.topic = $2 AND d.kpartition = o.kpartition
                         AND d.published_at IS NULL AND d.id <> ALL($7::bigint[])
                       ORDER BY d.id LIMIT $5) w
                ORDER BY w.place, w.id LIMIT $5),
             chosen AS MATERIALIZED (
               SELECT id FROM (SELECT id, size, sum(size) OVER (ORDER BY place, id) AS upto FROM waiting) s
                WHERE upto <= $6 OR upto = size)
             SELECT d.id, d.kpartition, d.koffset, d.record, d.reason, d.class, d.error, d.bug, d.attempts, d.replays,
                    floor(extract(epoch FROM d.first_failed_at) * 1000)::bigint AS "first_failed_ms!",
                    floor(extract(epoch FROM d.last_failed_at) * 1000)::bigint AS "last_failed_ms!"
               FROM dead_letters d WHERE d.id = ANY(ARRAY(SELECT id FROM chosen)) ORDER BY d.id"#,
            &*self.group,
            &*self.topic,
            &partitions,
            &epochs,
            i64::from(rows),
            i64::try_from(bytes).unwrap_or(i64::MAX),
            &unreadable,
        );
        let stored = self.answer(statement.fetch_all(&mut *lease)).await;
        lease.end(stored).await
    }

    /// Notes that the DLQ topic has these letters. One that failed again since it was read still has to be published.
    pub async fn mark_published(&self, letters: &[&Letter]) -> Result<(), LedgerFailure> {
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        let failed: Vec<i64> = letters.iter().map(|letter| letter.last_failed_at.0).collect();
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "WITH published AS MATERIALIZED (
               SELECT id FROM dead_letters
                WHERE id = ANY($1::bigint[]) AND published_at IS NULL
                  AND floor(extract(epoch FROM last_failed_at) * 1000)::bigint
                      = ($2::bigint[])[array_position($1::bigint[], id)]
                ORDER BY order_id, event_type, id FOR UPDATE)
             UPDATE dead_letters SET published_at = clock_timestamp() WHERE id = ANY(ARRAY(SELECT id FROM published))",
            &ids,
            &failed,
        );
        let marked = self.answer(statement.execute(&mut *lease)).await;
        lease.end(marked).await.map(drop)
    }

    /// What waits to be published, in all partitions.
    pub async fn unpublished_facts(&self) -> Result<UnpublishedFacts, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT count(*) AS "count!", floor(extract(epoch FROM min(failed_at)) * 1000)::bigint AS oldest_ms
                 FROM dead_letters WHERE consumer_group = $1 AND topic = $2 AND published_at IS NULL"#,
            &*self.group,
            &*self.topic,
        );
        let facts = self.answer(statement.fetch_one(&mut *lease)).await;
        let facts = lease.end(facts).await?;
        Ok(UnpublishedFacts {
            count: u64::try_from(facts.count).unwrap_or_default(),
            oldest_failed_at: facts.oldest_ms.map(Timestamp),
        })
    }

    /// All dead letters of the group and topic, counted. Reads the whole table: for a sample now and then.
    pub async fn dead_letter_counts(&self) -> Result<Vec<DeadLetterCount>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT state, reason, count(*) AS "count!",
                      floor(extract(epoch FROM min(failed_at)) * 1000)::bigint AS "oldest_ms!"
                 FROM dead_letters WHERE consumer_group = $1 AND topic = $2 GROUP BY state, reason"#,
            &*self.group,
            &*self.topic,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let rows = lease.end(rows).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                // A value of a later version has no series here.
                Some(DeadLetterCount {
                    state: DeadLetterState::from_name(&row.state)?,
                    reason: reason_from_name(&row.reason)?,
                    count: u64::try_from(row.count).unwrap_or_default(),
                    oldest_failed_at: Timestamp(row.oldest_ms),
                })
            })
            .collect())
    }
}

/// What a dead letter has beyond its ledger row, one array for each column.
#[derive(Default)]
struct LetterColumns<'a> {
    reasons: Vec<&'static str>,
    classes: Vec<&'static str>,
    errors: Vec<std::borrow::Cow<'a, str>>,
    bugs: Vec<String>,
    attempts: Vec<i32>,
    first_failed_ago: Vec<f64>,
    last_failed_ago: Vec<f64>,
    records: Vec<Vec<u8>>,
    failures: Vec<String>,
    keys: Vec<Option<&'a [u8]>>,
    serials: Vec<i64>,
}

impl<'a> LetterColumns<'a> {
    fn of(letters: &'a [DeadLetter]) -> Self {
        let mut columns = Self::default();
        for letter in letters {
            let bug = bug_fingerprint(letter.reason, &letter.error);
            columns.reasons.push(letter.reason.as_str());
            columns.classes.push(letter.class);
            columns.errors.push(text::bounded(&letter.error));
            columns.bugs.push(bug);
            columns.attempts.push(i32::try_from(letter.attempts).unwrap_or(i32::MAX));
            columns.first_failed_ago.push(seconds(letter.first_failed_ago));
            columns.last_failed_ago.push(seconds(letter.last_failed_ago));
            columns.records.push(stored_record::encode(&letter.record));
            columns.failures.push(history::encode(&letter.failures));
            columns.keys.push(letter.record.key.as_deref());
            columns.serials.push(letter.settlement.serial.0.cast_signed());
        }
        columns
    }
}

struct StoredLetter {
    id: i64,
    kpartition: i32,
    koffset: i64,
    record: Vec<u8>,
    reason: String,
    class: String,
    error: String,
    bug: String,
    attempts: i32,
    replays: i32,
    first_failed_ms: i64,
    last_failed_ms: i64,
}

impl StoredLetter {
    fn letter(self, topic: &Arc<str>) -> Result<Letter, String> {
        let Some(reason) = reason_from_name(&self.reason) else {
            return Err(format!("unknown reason {}", self.reason));
        };
        let coordinates = Coordinates { partition: Partition(self.kpartition), offset: Offset(self.koffset) };
        let record = stored_record::decode(coordinates, self.record).map_err(|error| error.to_string())?;
        Ok(Letter {
            id: self.id,
            topic: Arc::clone(topic),
            record,
            reason,
            class: self.class,
            error: self.error,
            attempts: u32::try_from(self.attempts).unwrap_or_default(),
            first_failed_at: Timestamp(self.first_failed_ms),
            last_failed_at: Timestamp(self.last_failed_ms),
            fingerprint: self.bug,
            replays: u32::try_from(self.replays).unwrap_or_default(),
        })
    }
}

impl DeadLetterState {
    pub const ALL: [Self; 5] = [Self::Open, Self::Replaying, Self::Quarantined, Self::Discarded, Self::Resolved];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Replaying => "replaying",
            Self::Quarantined => "quarantined",
            Self::Discarded => "discarded",
            Self::Resolved => "resolved",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

pub(super) fn reason_from_name(name: &str) -> Option<Reason> {
    Reason::ALL.into_iter().find(|reason| reason.as_str() == name)
}
