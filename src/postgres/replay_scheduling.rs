//! Letters of a replay move to `parked_events`, are read from there when they are due, and are taken back when it is cancelled.

use super::parked::{LOAD_BYTES, wait};
use super::pool::Postgres;
use super::stored_record;
use crate::core::event::{Fingerprint, Identity};
use crate::core::failure::LedgerFailure;
use crate::core::input::{ParkedRow, ReplayRow};
use crate::core::key::LaneKey;
use crate::core::record::{Coordinates, Epoch, Offset, Partition, Record};

/// A planned letter with its record, to be read before it is scheduled.
#[derive(Clone, Debug)]
pub struct NextLetter {
    pub place: i32,
    pub id: i64,
    /// What it is under now.
    pub identity: Identity,
    /// The edited one, where there is one. Absent when the letter is gone, or cannot be read.
    pub record: Option<Record>,
}

/// A letter to schedule. No two of a batch have the same identity.
#[derive(Clone, Debug)]
pub struct Scheduling {
    pub place: i32,
    pub id: i64,
    pub identity: Identity,
    pub fingerprint: Fingerprint,
    pub key: LaneKey,
    pub record: Record,
}

/// Letters of a replay that ended without being scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedUnscheduled {
    /// Their orders were notified meanwhile.
    pub duplicates: u64,
    /// They are not as they were planned.
    pub left_out: u64,
}

impl Postgres {
    /// The next planned letters of a replay.
    pub async fn next_letters(&self, replay: i64, limit: u32) -> Result<Vec<NextLetter>, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT r.place, r.dead_letter_id, d.order_id AS "order_id?", d.event_type AS "event_type?",
                      d.kpartition AS "kpartition?", d.koffset AS "koffset?", coalesce(r.edited, d.record) AS record
                 FROM replay_letters r LEFT JOIN dead_letters d ON d.id = r.dead_letter_id
                WHERE r.replay_id = $1 AND r.state = 'planned' ORDER BY r.place LIMIT $2"#,
            replay,
            i64::from(limit),
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let next = lease.end(rows).await?.into_iter().map(|row| {
            let at = row.kpartition.zip(row.koffset);
            let at =
                at.map(|(partition, offset)| Coordinates { partition: Partition(partition), offset: Offset(offset) });
            let record = at.zip(row.record).and_then(|(at, stored)| stored_record::decode(at, stored).ok());
            let identity = Identity {
                order_id: row.order_id.unwrap_or_default().into(),
                event_type: row.event_type.unwrap_or_default().into(),
            };
            NextLetter { place: row.place, id: row.dead_letter_id, identity, record }
        });
        Ok(next.collect())
    }

    /// Leaves letters out of a replay, and says how many.
    pub async fn leave_out(&self, replay: i64, places: &[i32], why: &str) -> Result<u64, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "UPDATE replay_letters SET state = 'ended', outcome = 'left_out', detail = $3, ended_at = clock_timestamp()
              WHERE replay_id = $1 AND place = ANY($2::integer[]) AND state = 'planned'",
            replay,
            places,
            why,
        );
        let left = self.answer(statement.execute(&mut *lease)).await;
        lease.end(left).await.map(|done| done.rows_affected())
    }

    /// Parks the letters, due one after another at the replay's rate, as far as the replay runs and they are as they were
    /// planned: dead in the ledger, open in the table, with no later failure. One whose order was notified meanwhile is resolved;
    /// any other is left out. Burials that were decided before, and claims of what was dead then, find another serial. May be repeated,
    /// and by several workers at once: one of them is told what ended with it. A row of the identity that is parked already is of an
    /// order that was settled since, and nobody's.
    pub async fn schedule(&self, replay: i64, letters: &[Scheduling]) -> Result<EndedUnscheduled, LedgerFailure> {
        let columns = Columns::of(letters);
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"WITH run AS MATERIALIZED (
               SELECT r.id, r.rate, r.override_cap, greatest(coalesce(r.next_due_at, clock_timestamp()), clock_timestamp()) AS base
                 FROM replays r WHERE r.id = $1 AND r.state = 'running' AND NOT r.to_topic FOR UPDATE),
             chosen AS MATERIALIZED (
               SELECT i.place, i.id, i.order_id, i.event_type, i.fingerprint, i.key_hash, i.record, p.failed_at,
                      d.kpartition, d.koffset, (d.order_id = i.order_id AND d.event_type = i.event_type) AS is_same,
                      d.failed_at = p.failed_at AND (d.state = 'open' OR d.state = 'quarantined' AND run.override_cap) AS is_fit,
                      CASE d.state
                           WHEN 'discarded' THEN format('it was discarded by %s at %s', d.closed_by,
                                to_char(d.closed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'))
                           WHEN 'resolved' THEN 'its order was notified'
                           ELSE 'it is not as it was planned' END AS why
                 FROM run
                CROSS JOIN unnest($4::integer[], $5::bigint[], $6::text[], $7::text[], $8::bytea[], $9::bigint[], $10::bytea[])
                      AS i(place, id, order_id, event_type, fingerprint, key_hash, record)
                 JOIN replay_letters p ON p.replay_id = run.id AND p.place = i.place AND p.state = 'planned'
                 JOIN dead_letters d ON d.id = i.id
                ORDER BY i.order_id, i.event_type FOR UPDATE OF p, d),
             fit AS MATERIALIZED (
               SELECT c.* FROM chosen c
                WHERE c.is_fit AND (NOT c.is_same OR EXISTS (
                      SELECT FROM processed_orders l
                       WHERE l.consumer_group = $2 AND l.order_id = c.order_id AND l.event_type = c.event_type))),
             moved AS (
               INSERT INTO processed_orders AS l (consumer_group, order_id, event_type, state, fingerprint, topic, kpartition,
                      koffset, epoch, buried, settled_at)
               SELECT $2, order_id, event_type, 'p', fingerprint, $3, kpartition, koffset, 0, true,
                      CASE WHEN is_same THEN failed_at END
                 FROM fit ORDER BY order_id, event_type
               ON CONFLICT (consumer_group, order_id, event_type) DO UPDATE
               SET state = 'p', fingerprint = excluded.fingerprint, topic = excluded.topic, kpartition = excluded.kpartition,
                   koffset = excluded.koffset, serial = l.serial + 1, starts = 0, buried = true,
                   epoch = CASE WHEN (l.topic, l.kpartition) = (excluded.topic, excluded.kpartition) THEN l.epoch ELSE 0 END
               WHERE l.state IN ('x', 'u') AND l.settled_at = excluded.settled_at
                  OR l.state = 'x' AND excluded.settled_at IS NULL
               RETURNING l.order_id, l.event_type),
             scheduled AS MATERIALIZED (
               SELECT f.*, run.id AS run_id, run.base + (row_number() OVER (ORDER BY f.place) - 1) * interval '1 second' / run.rate AS due_at
                 FROM run CROSS JOIN fit f JOIN moved m USING (order_id, event_type)),
             parked AS (
               INSERT INTO parked_events AS q (consumer_group, topic, kpartition, koffset, order_id, event_type, key_hash, run_id,
                      attempts, due_at, first_failed_at, record)
               SELECT $2, $3, kpartition, koffset, order_id, event_type, key_hash, run_id, 0, due_at, clock_timestamp(), record
                 FROM scheduled ORDER BY order_id, event_type
               ON CONFLICT (consumer_group, order_id, event_type) DO UPDATE
               SET (topic, kpartition, koffset, key_hash, run_id, attempts, due_at, first_failed_at, record) =
                   (excluded.topic, excluded.kpartition, excluded.koffset, excluded.key_hash, excluded.run_id, excluded.attempts,
                    excluded.due_at, excluded.first_failed_at, excluded.record),
                   parked_at = excluded.parked_at, loaded_at = NULL, last_error = NULL, history = '[]'),
             replaying AS (
               UPDATE dead_letters d
                  SET state = 'replaying', run_id = s.run_id, order_id = s.order_id, event_type = s.event_type
                 FROM scheduled s WHERE d.id = s.id),
             notified AS MATERIALIZED (
               SELECT f.id, f.place FROM fit f
                 JOIN processed_orders l ON l.consumer_group = $2 AND l.order_id = f.order_id AND l.event_type = f.event_type
                WHERE l.state = 'd' AND l.fingerprint = f.fingerprint),
             resolved AS (
               UPDATE dead_letters d SET state = 'resolved', closed_at = clock_timestamp(), replays = d.replays + 1, run_id = $1
                 FROM notified n WHERE d.id = n.id),
             marked AS (
               UPDATE replay_letters p
                  SET state = CASE WHEN s.place IS NULL THEN 'ended' ELSE 'scheduled' END,
                      outcome = CASE WHEN s.place IS NOT NULL THEN NULL WHEN n.place IS NOT NULL THEN 'duplicate' ELSE 'left_out' END,
                      detail = CASE WHEN s.place IS NULL AND n.place IS NULL THEN c.why END,
                      scheduled_at = clock_timestamp(), ended_at = CASE WHEN s.place IS NULL THEN clock_timestamp() END
                 FROM chosen c LEFT JOIN scheduled s ON s.place = c.place LEFT JOIN notified n ON n.place = c.place
                WHERE p.replay_id = $1 AND p.place = c.place
               RETURNING p.outcome),
             paced AS (
               UPDATE replays r
                  SET next_due_at = run.base + (SELECT count(*) FROM scheduled) * interval '1 second' / run.rate
                 FROM run WHERE r.id = run.id)
             SELECT count(*) FILTER (WHERE outcome = 'duplicate') AS "duplicates!",
                    count(*) FILTER (WHERE outcome = 'left_out') AS "left_out!" FROM marked"#,
            replay,
            &*self.group,
            &*self.topic,
            &columns.places,
            &columns.ids,
            columns.order_ids.as_slice() as _,
            columns.event_types.as_slice() as _,
            columns.fingerprints.as_slice() as _,
            &columns.keys,
            &columns.records,
        );
        let ended = self.answer(statement.fetch_one(&mut *lease)).await;
        let ended = lease.end(ended).await?;
        Ok(EndedUnscheduled { duplicates: ended.duplicates.cast_unsigned(), left_out: ended.left_out.cast_unsigned() })
    }

    /// Replayed records that are due, of the partitions that are still owned, but for those that are held in memory: at most
    /// `limit`, and as many as fit. None of a key that waits for a retry, and none of a replay that was paused, unless it was read
    /// before. Removes those that were settled otherwise, whatever became of their replay.
    pub async fn load_replays(
        &self,
        owned: &[(Partition, Epoch)],
        held: &[Coordinates],
        limit: usize,
    ) -> Result<Vec<ReplayRow>, LedgerFailure> {
        let partitions: Vec<i32> = owned.iter().map(|(partition, _)| partition.0).collect();
        let epochs: Vec<i64> = owned.iter().map(|(_, epoch)| epoch.0).collect();
        let held_partitions: Vec<i32> = held.iter().map(|at| at.partition.0).collect();
        let held_offsets: Vec<i64> = held.iter().map(|at| at.offset.0).collect();
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"WITH fence AS MATERIALIZED (
               SELECT e.kpartition, e.epoch FROM partition_epochs e
                 JOIN unnest($3::integer[], $4::bigint[]) AS o(kpartition, epoch) USING (kpartition, epoch)
                WHERE e.consumer_group = $1 AND e.topic = $2 ORDER BY e.kpartition FOR SHARE OF e),
             due AS MATERIALIZED (
               SELECT q.*, f.kpartition, f.epoch,
                      sum(q.size) FILTER (WHERE q.is_parked) OVER (
                        ORDER BY q.due_at, q.order_id, q.event_type ROWS UNBOUNDED PRECEDING) AS upto
                 FROM fence f
                CROSS JOIN LATERAL (
                      SELECT p.order_id, p.event_type, p.koffset, p.run_id, p.due_at, octet_length(p.record) AS size, l.starts,
                             l.state IS NOT NULL AS is_parked
                        FROM parked_events p
                        LEFT JOIN LATERAL (
                             SELECT o.state, o.starts FROM processed_orders o
                              WHERE o.consumer_group = $1 AND o.order_id = p.order_id AND o.event_type = p.event_type
                                AND o.state = 'p' AND (o.topic, o.kpartition, o.koffset) = ($2, p.kpartition, p.koffset)
                             OFFSET 0) l ON true
                       WHERE p.consumer_group = $1 AND p.topic = $2 AND p.kpartition = f.kpartition AND p.run_id IS NOT NULL
                         AND p.due_at <= clock_timestamp()
                         AND (p.kpartition, p.koffset) NOT IN (SELECT * FROM unnest($6::integer[], $7::bigint[]))
                         AND (p.loaded_at IS NOT NULL OR l.state IS NULL
                              OR EXISTS (SELECT FROM replays r WHERE r.id = p.run_id AND r.state = 'running'))
                         AND NOT EXISTS (
                             SELECT FROM parked_events b
                              WHERE b.consumer_group = $1 AND b.topic = $2 AND b.kpartition = f.kpartition
                                AND b.key_hash = p.key_hash AND b.run_id IS NULL)
                       ORDER BY p.due_at, p.order_id, p.event_type LIMIT $5) q
                ORDER BY q.due_at, q.order_id, q.event_type LIMIT $5),
             removed AS (
               DELETE FROM parked_events p USING due
                WHERE NOT due.is_parked AND p.consumer_group = $1 AND p.order_id = due.order_id AND p.event_type = due.event_type
                  AND (p.topic, p.kpartition, p.koffset, p.run_id, p.due_at)
                    = ($2, due.kpartition, due.koffset, due.run_id, due.due_at)),
             loaded AS (
               UPDATE parked_events p SET loaded_at = clock_timestamp() FROM due
                WHERE due.is_parked AND (due.upto <= $8 OR due.upto = due.size)
                  AND p.consumer_group = $1 AND p.order_id = due.order_id AND p.event_type = due.event_type
                  AND p.run_id IS NOT NULL
               RETURNING p.order_id, p.event_type, p.kpartition, p.koffset, p.key_hash, p.attempts, p.record,
                         p.first_failed_at, due.epoch, due.due_at, due.starts)
             SELECT q.order_id, q.event_type, q.kpartition, q.koffset, q.key_hash, q.attempts, q.record, q.epoch AS "epoch!",
                    q.starts AS "starts!",
                    greatest(extract(epoch FROM clock_timestamp() - q.first_failed_at), 0)::float8 AS "first_failed_ago!"
               FROM loaded q ORDER BY q.due_at"#,
            &*self.group,
            &*self.topic,
            &partitions,
            &epochs,
            i64::try_from(limit).unwrap_or(i64::MAX),
            &held_partitions,
            &held_offsets,
            LOAD_BYTES,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        let replays = lease.end(rows).await?.into_iter().filter_map(|row| {
            let at = Coordinates { partition: Partition(row.kpartition), offset: Offset(row.koffset) };
            let identity = Identity { order_id: row.order_id.into(), event_type: row.event_type.into() };
            let record = stored_record::decode(at, row.record)
                .inspect_err(|error| tracing::error!(%error, "a replayed record stays parked"))
                .ok()?;
            let row_of = ParkedRow {
                identity,
                record,
                attempts: row.attempts.cast_unsigned(),
                starts: row.starts.cast_unsigned(),
                first_failed_ago: wait(row.first_failed_ago),
                last_failed_ago: Some(wait(row.first_failed_ago)),
            };
            Some(ReplayRow { epoch: Epoch(row.epoch), key: LaneKey(row.key_hash.cast_unsigned()), row: row_of })
        });
        Ok(replays.collect())
    }

    /// Whether a cancelled replay has letters that are still to be taken back, or to end.
    pub async fn has_cancelled_letters(&self) -> Result<bool, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"SELECT EXISTS (
               SELECT FROM replays r JOIN replay_letters p ON p.replay_id = r.id AND p.state <> 'ended'
                WHERE r.consumer_group = $1 AND r.topic = $2 AND r.state = 'cancelled') AS "has!""#,
            &*self.group,
            &*self.topic,
        );
        let has = self.answer(statement.fetch_one(&mut *lease)).await;
        lease.end(has).await
    }

    /// Gives back what cancelled replays have scheduled and no worker has read: dead again in the ledger, open in the table.
    /// What was read goes on to its end.
    pub async fn take_back_cancelled(&self) -> Result<(), LedgerFailure> {
        self.end_cancelled_publishing().await?;
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "WITH back AS MATERIALIZED (
               SELECT q.order_id, q.event_type
                 FROM replays r
                 JOIN replay_letters p ON p.replay_id = r.id AND p.state = 'scheduled'
                 JOIN dead_letters d ON d.id = p.dead_letter_id
                 JOIN parked_events q ON q.consumer_group = $1 AND q.order_id = d.order_id AND q.event_type = d.event_type
                  AND q.run_id = r.id AND q.loaded_at IS NULL
                 JOIN processed_orders l ON l.consumer_group = $1 AND l.order_id = q.order_id AND l.event_type = q.event_type
                WHERE r.consumer_group = $1 AND r.topic = $2 AND r.state = 'cancelled'
                ORDER BY q.order_id, q.event_type FOR UPDATE OF l),
             unparked AS (
               DELETE FROM parked_events q USING back b
                WHERE q.consumer_group = $1 AND q.order_id = b.order_id AND q.event_type = b.event_type
                  AND q.run_id IS NOT NULL AND q.loaded_at IS NULL
               RETURNING q.order_id, q.event_type, q.run_id),
             opened AS (
               UPDATE dead_letters d SET state = CASE WHEN d.replays >= r.replay_cap THEN 'quarantined' ELSE 'open' END
                 FROM unparked u JOIN replays r ON r.id = u.run_id
                WHERE d.consumer_group = $1 AND d.order_id = u.order_id AND d.event_type = u.event_type
                  AND d.run_id = u.run_id AND d.state = 'replaying'
               RETURNING d.id, d.run_id, d.order_id, d.event_type, d.reason, d.failed_at),
             dead AS (
               UPDATE processed_orders l
                  SET state = CASE o.reason WHEN 'uncertain' THEN 'u' ELSE 'x' END, settled_at = o.failed_at
                 FROM opened o
                WHERE l.consumer_group = $1 AND l.order_id = o.order_id AND l.event_type = o.event_type AND l.state = 'p'),
             planned AS (
               UPDATE replay_letters p SET state = 'ended', outcome = 'cancelled', ended_at = clock_timestamp()
                 FROM replays r
                WHERE r.consumer_group = $1 AND r.topic = $2 AND r.state = 'cancelled' AND p.replay_id = r.id AND p.state = 'planned')
             UPDATE replay_letters p SET state = 'ended', outcome = 'cancelled', ended_at = clock_timestamp()
               FROM opened o WHERE p.replay_id = o.run_id AND p.dead_letter_id = o.id AND p.state = 'scheduled'",
            &*self.group,
            &*self.topic,
        );
        let taken = self.answer(statement.execute(&mut *lease)).await;
        lease.end(taken).await.map(drop)
    }
}

/// One array for each column.
#[derive(Default)]
struct Columns<'a> {
    places: Vec<i32>,
    ids: Vec<i64>,
    order_ids: Vec<&'a str>,
    event_types: Vec<&'a str>,
    fingerprints: Vec<&'a [u8]>,
    keys: Vec<i64>,
    records: Vec<Vec<u8>>,
}

impl<'a> Columns<'a> {
    fn of(letters: &'a [Scheduling]) -> Self {
        let mut columns = Self::default();
        for letter in letters {
            columns.places.push(letter.place);
            columns.ids.push(letter.id);
            columns.order_ids.push(&letter.identity.order_id);
            columns.event_types.push(&letter.identity.event_type);
            columns.fingerprints.push(&letter.fingerprint.0);
            columns.keys.push(letter.key.0.cast_signed());
            columns.records.push(stored_record::encode(&letter.record));
        }
        columns
    }
}
