//! `parked_events`: records whose retry is far away. A row is the record's custody: its partition's offset has moved on.

use std::collections::HashMap;
use std::time::Duration;

use super::ledger::{RowOf, Rows, Tickets};
use super::pool::Postgres;
use super::{history, stored_record, text};
use crate::core::effect::{ParkedKey, Parking};
use crate::core::event::Identity;
use crate::core::failure::LedgerFailure;
use crate::core::input::{LoadedLane, ParkedLane, ParkedRow, Rest, Ticket};
use crate::core::key::LaneKey;
use crate::core::record::{Coordinates, Offset, Partition, Timestamp};

/// Records of one key that are read at once.
const ROWS_PER_KEY: i64 = 32;
/// Rows of which the keys are told apart in one statement.
const ROWS_PER_PART: i64 = 20_000;
/// Payload bytes that are read at once, beyond one record.
pub(super) const LOAD_BYTES: i64 = 4 << 20;

/// For the gauges of parking: what all workers together have parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkedFacts {
    /// Records that wait for a retry, or behind such a one.
    pub retries: u64,
    /// Records that wait for a replay.
    pub replays: u64,
    pub keys: u64,
    pub oldest_parked_at: Option<Timestamp>,
    pub next_due_at: Option<Timestamp>,
}

impl Postgres {
    /// Parks the records, or parks them again; returns the tickets whose row is durable. A ticket that is missing was fenced,
    /// or its identity was settled otherwise, or a later statement of this epoch was faster. One that comes out of the table is of
    /// a replay still; what such a replay left behind makes no replay of one that comes from Kafka.
    ///
    /// No two of a batch have the same identity. Parking may be repeated: it has the serial that it had before, and so leaves a replay as
    /// it was scheduled since.
    pub async fn park(&self, parkings: &[Parking]) -> Result<Vec<Ticket>, LedgerFailure> {
        let rows = Rows::of(parkings.iter().map(|parking| RowOf::from(&parking.settlement)));
        let columns = ParkedColumns::of(parkings);
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"WITH fence AS MATERIALIZED (
               SELECT e.kpartition, e.epoch FROM partition_epochs e
                WHERE e.consumer_group = $1 AND e.topic = $2 AND e.kpartition = ANY($3::integer[])
                ORDER BY e.kpartition FOR SHARE),
             input AS MATERIALIZED (
               SELECT i.* FROM unnest($4::text[], $5::text[], $6::bytea[], $7::integer[], $8::bigint[], $9::bigint[],
                                      $10::bigint[], $11::integer[], $12::float8[], $13::float8[], $14::text[], $15::bytea[],
                                      $16::text[], $17::boolean[], $18::bigint[])
                   AS i(order_id, event_type, fingerprint, kpartition, koffset, epoch,
                        key_hash, attempts, wait, first_failed_ago, error, record, failures, was_parked, serial)
                 JOIN fence USING (kpartition, epoch)),
             moved AS (
               INSERT INTO processed_orders AS l (consumer_group, order_id, event_type, state, fingerprint, topic,
                      kpartition, koffset, epoch, serial)
               SELECT $1, order_id, event_type, 'p', fingerprint, $2, kpartition, koffset, epoch, serial
                 FROM input ORDER BY order_id, event_type
               ON CONFLICT (consumer_group, order_id, event_type) DO UPDATE
               SET state = 'p', epoch = excluded.epoch, serial = excluded.serial, starts = 0
               WHERE (l.topic, l.kpartition, l.koffset) = (excluded.topic, excluded.kpartition, excluded.koffset)
                 AND (l.state = 'p' OR l.state = 'c' AND l.epoch <> 0)
                 AND (l.epoch <> excluded.epoch OR l.serial <= excluded.serial)
               RETURNING l.order_id, l.event_type),
             written AS (
               INSERT INTO parked_events AS q (consumer_group, topic, kpartition, koffset, order_id, event_type, key_hash, run_id,
                      attempts, due_at, first_failed_at, last_error, record, history)
               SELECT $1, $2, i.kpartition, i.koffset, i.order_id, i.event_type, i.key_hash,
                      CASE WHEN i.was_parked THEN (SELECT b.run_id FROM parked_events b
                             WHERE b.consumer_group = $1 AND b.order_id = i.order_id AND b.event_type = i.event_type) END, i.attempts,
                      clock_timestamp() + i.wait * interval '1 second',
                      clock_timestamp() - i.first_failed_ago * interval '1 second', nullif(i.error, ''), i.record,
                      history_with('[]', i.failures::jsonb)
                 FROM input i JOIN moved m USING (order_id, event_type) ORDER BY i.order_id, i.event_type
               ON CONFLICT (consumer_group, order_id, event_type) DO UPDATE
               SET loaded_at = NULL, run_id = excluded.run_id, topic = excluded.topic, kpartition = excluded.kpartition, koffset = excluded.koffset,
                   record = excluded.record, attempts = excluded.attempts, due_at = excluded.due_at,
                   last_error = excluded.last_error, key_hash = excluded.key_hash,
                   first_failed_at = excluded.first_failed_at,
                   history =
                     CASE WHEN (q.topic, q.kpartition, q.koffset) = (excluded.topic, excluded.kpartition, excluded.koffset)
                     THEN history_with(q.history,
                          (SELECT coalesce(jsonb_agg(f.item ORDER BY f.place), '[]')
                             FROM jsonb_array_elements(excluded.history) WITH ORDINALITY AS f(item, place)
                            WHERE NOT q.history @> jsonb_build_array(jsonb_build_object('attempt', f.item -> 'attempt'))))
                     ELSE excluded.history END)
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
            &columns.keys,
            &columns.attempts,
            &columns.waits,
            &columns.first_failed_ago,
            columns.errors.as_slice() as _,
            &columns.records,
            columns.failures.as_slice() as _,
            &columns.were_parked,
            &columns.serials,
        );
        let moved = self.answer(statement.fetch_all(&mut *lease)).await;
        let moved = lease.end(moved).await?;
        let tickets = Tickets::of(parkings.iter().map(|parking| {
            let settlement = &parking.settlement;
            (&settlement.identity, settlement.ticket)
        }));
        moved.iter().map(|row| tickets.of_identity(&row.order_id, &row.event_type)).collect()
    }

    /// The parked keys of each partition, with the time until the first record of each is due. To be asked once its epoch was
    /// raised: earlier owners park nothing more then.
    pub async fn parked_keys(
        &self,
        partitions: &[Partition],
    ) -> Result<HashMap<Partition, Vec<ParkedLane>>, LedgerFailure> {
        let mut parked = HashMap::new();
        for partition in self.partitions_with_parked(partitions).await? {
            parked.insert(partition, self.parked_keys_of(partition).await?);
        }
        Ok(parked)
    }

    async fn partitions_with_parked(&self, partitions: &[Partition]) -> Result<Vec<Partition>, LedgerFailure> {
        let numbers: Vec<i32> = partitions.iter().map(|partition| partition.0).collect();
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"SELECT p.kpartition AS "kpartition!" FROM unnest($3::integer[]) AS p(kpartition)
                CROSS JOIN LATERAL (
                      SELECT FROM parked_events q
                       WHERE q.consumer_group = $1 AND q.topic = $2 AND q.kpartition = p.kpartition AND q.run_id IS NULL
                       LIMIT 1) q"#,
            &*self.group,
            &*self.topic,
            &numbers,
        );
        let found = self.answer(statement.fetch_all(&mut *lease)).await;
        Ok(lease.end(found).await?.into_iter().map(Partition).collect())
    }

    /// In parts: no number of parked records makes a statement outlast its timeout, and its partition wait for ever.
    async fn parked_keys_of(&self, partition: Partition) -> Result<Vec<ParkedLane>, LedgerFailure> {
        let mut lanes: Vec<ParkedLane> = Vec::new();
        let mut after = Some((i64::MIN, -1));
        while let Some((key_hash, offset)) = after {
            let mut lease = self.lease().await?;
            let statement = sqlx::query!(
                r#"SELECT DISTINCT ON (q.key_hash) q.key_hash,
                          greatest(extract(epoch FROM q.due_at - clock_timestamp()), 0)::float8 AS "due_in!",
                          count(*) OVER (PARTITION BY q.key_hash) AS "rows!",
                          max(q.koffset) OVER (PARTITION BY q.key_hash) AS "last!"
                     FROM (SELECT p.key_hash, p.koffset, p.due_at FROM parked_events p
                            WHERE p.consumer_group = $1 AND p.topic = $2 AND p.kpartition = $3 AND p.run_id IS NULL
                              AND (p.key_hash, p.koffset) > ($4::bigint, $5::bigint)
                            ORDER BY p.key_hash, p.koffset LIMIT $6) q
                    ORDER BY q.key_hash, q.koffset"#,
                &*self.group,
                &*self.topic,
                partition.0,
                key_hash,
                offset,
                ROWS_PER_PART,
            );
            let rows = self.answer(statement.fetch_all(&mut *lease)).await;
            let rows = lease.end(rows).await?;
            let is_full = rows.iter().map(|row| row.rows).sum::<i64>() >= ROWS_PER_PART;
            after = rows.last().filter(|_| is_full).map(|row| (row.key_hash, row.last));
            for row in rows {
                let (key, rows) = (LaneKey(row.key_hash.cast_unsigned()), row.rows.cast_unsigned());
                match lanes.last_mut().filter(|lane| lane.key == key) {
                    // The part before ended within this key.
                    Some(lane) => lane.rows += rows,
                    None => lanes.push(ParkedLane { key, due_in: wait(row.due_in), rows }),
                }
            }
        }
        Ok(lanes)
    }

    /// Reads the first parked records of each key, as many as fit in the order in which the keys are given, and removes those that were settled otherwise. A key that is missing was
    /// fenced.
    ///
    /// A record that cannot be read is logged and stays, and those behind it wait: they would overtake it.
    pub async fn load_parked(&self, keys: &[ParkedKey]) -> Result<Vec<LoadedLane>, LedgerFailure> {
        let partitions: Vec<i32> = keys.iter().map(|key| key.partition.0).collect();
        let epochs: Vec<i64> = keys.iter().map(|key| key.epoch.0).collect();
        let hashes: Vec<i64> = keys.iter().map(|key| key.key.0.cast_signed()).collect();
        let mut lease = self.lease().await?;
        let statement = sqlx::query_as!(
            FoundRow,
            r#"WITH fence AS MATERIALIZED (
               SELECT e.kpartition, e.epoch FROM partition_epochs e
                WHERE e.consumer_group = $1 AND e.topic = $2 AND e.kpartition = ANY($3::integer[])
                ORDER BY e.kpartition FOR SHARE),
             asked AS MATERIALIZED (
               SELECT a.kpartition, a.key_hash, a.turn
                 FROM unnest($3::integer[], $4::bigint[], $5::bigint[]) WITH ORDINALITY AS a(kpartition, epoch, key_hash, turn)
                 JOIN fence USING (kpartition, epoch)),
             found AS MATERIALIZED (
               SELECT a.*, q.order_id, q.event_type, q.koffset, q.size, q.place, l.starts, l.state = 'p' AS is_parked
                 FROM asked a
                CROSS JOIN LATERAL (
                      SELECT p.order_id, p.event_type, p.koffset, octet_length(p.record) AS size,
                             row_number() OVER (ORDER BY p.koffset) AS place
                        FROM parked_events p
                       WHERE p.consumer_group = $1 AND p.topic = $2 AND p.kpartition = a.kpartition
                         AND p.key_hash = a.key_hash AND p.run_id IS NULL
                       ORDER BY p.koffset LIMIT $6) q
                 LEFT JOIN LATERAL (
                      SELECT o.state, o.starts FROM processed_orders o
                       WHERE o.consumer_group = $1 AND o.order_id = q.order_id AND o.event_type = q.event_type
                         AND (o.topic, o.kpartition, o.koffset) = ($2, a.kpartition, q.koffset) OFFSET 0) l ON true),
             removed AS (
               DELETE FROM parked_events p USING found f
                WHERE f.is_parked IS NOT TRUE AND p.consumer_group = $1 AND p.order_id = f.order_id
                  AND p.event_type = f.event_type AND p.run_id IS NULL
                  AND (p.topic, p.kpartition, p.koffset) = ($2, f.kpartition, f.koffset)),
             sized AS (
               SELECT f.*, sum(f.size) OVER (ORDER BY f.place, f.turn) AS upto,
                      count(*) OVER (PARTITION BY f.kpartition, f.key_hash) AS found
                 FROM found f)
             SELECT a.kpartition AS "kpartition!", a.key_hash AS "key_hash!", coalesce(s.found, 0) AS "found!",
                    coalesce(s.is_parked, false) AS "is_parked!", s.koffset AS "koffset?",
                    q.order_id AS "order_id?", q.event_type AS "event_type?", q.attempts AS "attempts?", s.starts AS "starts?", q.record AS "record?",
                    greatest(extract(epoch FROM clock_timestamp() - q.first_failed_at), 0)::float8 AS "first_failed_ago?",
                    (extract(epoch FROM clock_timestamp()) - (q.history -> -1 ->> 'at_ms')::float8 / 1000)::float8
                           AS "last_failed_ago?"
               FROM asked a
               LEFT JOIN sized s ON (s.kpartition, s.key_hash) = (a.kpartition, a.key_hash)
               LEFT JOIN LATERAL (
                    SELECT p.* FROM parked_events p
                     WHERE p.consumer_group = $1 AND p.order_id = s.order_id AND p.event_type = s.event_type
                       AND s.is_parked AND (s.upto <= $7 OR s.upto = s.size) OFFSET 0) q ON true
              ORDER BY a.kpartition, a.key_hash, s.place"#,
            &*self.group,
            &*self.topic,
            &partitions,
            &epochs,
            &hashes,
            ROWS_PER_KEY,
            LOAD_BYTES,
        );
        let rows = self.answer(statement.fetch_all(&mut *lease)).await;
        Ok(lanes(lease.end(rows).await?))
    }

    /// What is parked, in all partitions. Reads the whole table: for a sample now and then.
    pub async fn parked_facts(&self) -> Result<ParkedFacts, LedgerFailure> {
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            r#"SELECT coalesce(sum(retries), 0)::bigint AS "retries!", coalesce(sum(replays), 0)::bigint AS "replays!",
                      count(*) AS "keys!",
                      floor(extract(epoch FROM min(parked_at)) * 1000)::bigint AS oldest_ms,
                      floor(extract(epoch FROM min(due_at)) * 1000)::bigint AS next_due_ms
                 FROM (SELECT count(*) FILTER (WHERE run_id IS NULL) AS retries,
                              count(*) FILTER (WHERE run_id IS NOT NULL) AS replays,
                              min(parked_at) AS parked_at, min(due_at) AS due_at
                         FROM parked_events WHERE consumer_group = $1 AND topic = $2 GROUP BY kpartition, key_hash) k"#,
            &*self.group,
            &*self.topic,
        );
        let facts = self.answer(statement.fetch_one(&mut *lease)).await;
        let facts = lease.end(facts).await?;
        Ok(ParkedFacts {
            retries: facts.retries.cast_unsigned(),
            replays: facts.replays.cast_unsigned(),
            keys: facts.keys.cast_unsigned(),
            oldest_parked_at: facts.oldest_ms.map(Timestamp),
            next_due_at: facts.next_due_ms.map(Timestamp),
        })
    }
}

/// One row for each record that was found, and one for each key without any.
struct FoundRow {
    kpartition: i32,
    key_hash: i64,
    found: i64,
    is_parked: bool,
    koffset: Option<i64>,
    order_id: Option<String>,
    event_type: Option<String>,
    attempts: Option<i32>,
    starts: Option<i16>,
    record: Option<Vec<u8>>,
    first_failed_ago: Option<f64>,
    last_failed_ago: Option<f64>,
}

fn lanes(rows: Vec<FoundRow>) -> Vec<LoadedLane> {
    let mut lanes: Vec<LoadedLane> = Vec::new();
    let mut is_cut = false;
    for row in rows {
        let (partition, key) = (Partition(row.kpartition), LaneKey(row.key_hash.cast_unsigned()));
        if lanes.last().is_none_or(|lane| (lane.partition, lane.key) != (partition, key)) {
            let rest = if row.found < ROWS_PER_KEY { Rest::Nothing } else { Rest::More };
            is_cut = false;
            lanes.push(LoadedLane { partition, key, rows: Vec::new(), rest, removed: 0 });
        }
        let Some(lane) = lanes.last_mut() else { continue };
        let is_found = row.koffset.is_some();
        if is_found && !row.is_parked {
            lane.removed += 1;
        } else if is_found && !is_cut {
            let fits = row.record.is_some();
            if let Some(parked) = row.parked() {
                lane.rows.push(parked);
            } else {
                (is_cut, lane.rest) = (true, if fits { Rest::Unreadable } else { Rest::More });
            }
        }
    }
    lanes
}

impl FoundRow {
    /// None for one that did not fit, and for one that cannot be read.
    fn parked(self) -> Option<ParkedRow> {
        let coordinates = Coordinates { partition: Partition(self.kpartition), offset: Offset(self.koffset?) };
        let record = stored_record::decode(coordinates, self.record?)
            .inspect_err(|error| tracing::error!(%error, "a parked record stays parked"))
            .ok()?;
        Some(ParkedRow {
            identity: Identity { order_id: self.order_id?.into(), event_type: self.event_type?.into() },
            record,
            attempts: u32::try_from(self.attempts?).unwrap_or_default(),
            starts: u16::try_from(self.starts?).unwrap_or_default(),
            first_failed_ago: wait(self.first_failed_ago?),
            last_failed_ago: self.last_failed_ago.map(wait),
        })
    }
}

/// What a parked record has beyond its ledger row, one array for each column.
#[derive(Default)]
struct ParkedColumns<'a> {
    keys: Vec<i64>,
    attempts: Vec<i32>,
    waits: Vec<f64>,
    first_failed_ago: Vec<f64>,
    errors: Vec<std::borrow::Cow<'a, str>>,
    records: Vec<Vec<u8>>,
    failures: Vec<String>,
    were_parked: Vec<bool>,
    serials: Vec<i64>,
}

impl<'a> ParkedColumns<'a> {
    fn of(parkings: &'a [Parking]) -> Self {
        let mut columns = Self::default();
        for parking in parkings {
            columns.keys.push(parking.key.0.cast_signed());
            columns.attempts.push(i32::try_from(parking.attempts).unwrap_or(i32::MAX));
            columns.waits.push(super::seconds(parking.wait));
            columns.first_failed_ago.push(super::seconds(parking.first_failed_ago));
            columns.errors.push(text::bounded(parking.error.as_deref().unwrap_or_default()));
            columns.records.push(stored_record::encode(&parking.record));
            columns.failures.push(history::encode(&parking.failures));
            columns.were_parked.push(parking.settlement.was_parked);
            columns.serials.push(parking.settlement.serial.0.cast_signed());
        }
        columns
    }
}

/// A time that is over is no wait.
pub(super) fn wait(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
