//! Dead letters that come back from the topic, with the ledger rows that they belong to.

use std::collections::HashMap;
use std::time::Duration;

use super::pool::Postgres;
use super::{seconds, stored_record, text};
use crate::core::dead_letter::bug_fingerprint;
use crate::core::event::{Fingerprint, Identity};
use crate::core::failure::{LedgerFailure, Reason};
use crate::core::record::{Coordinates, Record, Timestamp};

/// A dead letter as a dead-letter topic tells of it.
#[derive(Clone, Debug)]
pub struct RebuiltLetter {
    pub identity: Identity,
    pub fingerprint: Fingerprint,
    pub record: Record,
    pub reason: Reason,
    pub class: String,
    pub error: String,
    pub attempts: u32,
    pub replays: u32,
    pub first_failed_at: Timestamp,
    pub last_failed_at: Timestamp,
}

impl Postgres {
    /// Adds those letters that the table does not have, and gives how many. A letter that is there is brought up to date when
    /// the topic tells of a later failure.
    ///
    /// One younger than `ledger_retention` cannot have lost its ledger row to pruning: where there is none, there never was, and it
    /// is written as dead. An older one stays without, and can be read and closed but not replayed.
    pub async fn rebuild_letters(
        &self,
        letters: &[RebuiltLetter],
        ledger_retention: Duration,
    ) -> Result<u64, LedgerFailure> {
        // The topic is read in the order of its partitions, and the last one of an origin counts.
        let mut latest: HashMap<(Coordinates, &Identity), &RebuiltLetter> = HashMap::new();
        for letter in letters {
            latest.insert((letter.record.coordinates, &letter.identity), letter);
        }
        let mut by_identity: HashMap<&Identity, Vec<&RebuiltLetter>> = HashMap::new();
        for letter in latest.into_values() {
            by_identity.entry(&letter.identity).or_default().push(letter);
        }
        for copies in by_identity.values_mut() {
            copies.sort_by_key(|letter| (letter.last_failed_at, letter.record.coordinates));
        }
        let mut added = 0;
        // A statement may not touch a ledger row twice; the last copy of an identity is the one that the ledger has.
        while !by_identity.is_empty() {
            let mut batch: Vec<&RebuiltLetter> = by_identity.values_mut().filter_map(Vec::pop).collect();
            by_identity.retain(|_, copies| !copies.is_empty());
            batch.sort_by(|one, other| one.identity.cmp(&other.identity));
            added += self.rebuild_batch(&batch, ledger_retention).await?;
        }
        Ok(added)
    }

    async fn rebuild_batch(
        &self,
        letters: &[&RebuiltLetter],
        ledger_retention: Duration,
    ) -> Result<u64, LedgerFailure> {
        let columns = Columns::of(letters);
        let mut lease = self.lease().await?;
        let statement = sqlx::query_scalar!(
            r#"WITH input AS MATERIALIZED (
               SELECT i.*, to_timestamp(i.first_ms::float8 / 1000) AS first_failed_at,
                      to_timestamp(i.last_ms::float8 / 1000) AS last_failed_at
                 FROM unnest($3::text[], $4::text[], $5::bytea[], $6::integer[], $7::bigint[], $8::text[], $9::text[],
                             $10::text[], $11::text[], $12::integer[], $13::integer[], $14::bigint[], $15::bigint[],
                             $16::bytea[], $17::bytea[])
                   AS i(order_id, event_type, fingerprint, kpartition, koffset, reason, class, error, bug, attempts,
                        replays, first_ms, last_ms, record, record_key)),
             claimed AS (
               INSERT INTO processed_orders (consumer_group, order_id, event_type, state, fingerprint, topic, kpartition,
                      koffset, epoch, buried, claimed_at, settled_at)
               SELECT $1, order_id, event_type, CASE reason WHEN 'uncertain' THEN 'u' ELSE 'x' END, fingerprint, $2,
                      kpartition, koffset, 0, true, last_failed_at, last_failed_at
                 FROM input WHERE last_failed_at > now() - $18::float8 * interval '1 second'
                ORDER BY order_id, event_type
               ON CONFLICT (consumer_group, order_id, event_type) DO NOTHING),
             written AS (
               INSERT INTO dead_letters AS d (consumer_group, topic, kpartition, koffset, record, record_key, order_id,
                      event_type, reason, class, error, bug, attempts, replays, first_failed_at, last_failed_at, failed_at,
                      published_at, state, closed_at)
               SELECT $1, $2, i.kpartition, i.koffset, i.record, i.record_key, i.order_id, i.event_type, i.reason, i.class,
                      i.error, i.bug, i.attempts, i.replays, i.first_failed_at, i.last_failed_at,
                      CASE WHEN l.state IN ('x', 'u') AND (l.topic, l.kpartition, l.koffset) = ($2, i.kpartition, i.koffset)
                           THEN l.settled_at ELSE i.last_failed_at END,
                      clock_timestamp(), CASE l.state WHEN 'd' THEN 'resolved' ELSE 'open' END,
                      CASE l.state WHEN 'd' THEN l.settled_at END
                 FROM input i
                 LEFT JOIN processed_orders l ON l.consumer_group = $1 AND l.order_id = i.order_id
                                             AND l.event_type = i.event_type
                ORDER BY i.order_id, i.event_type
               ON CONFLICT (consumer_group, topic, kpartition, koffset, digest) DO UPDATE
               SET reason = excluded.reason, class = excluded.class, error = excluded.error, bug = excluded.bug,
                   attempts = excluded.attempts, replays = excluded.replays, last_failed_at = excluded.last_failed_at
               WHERE d.last_failed_at < excluded.last_failed_at - interval '1 millisecond'
               RETURNING xmax = 0 AS is_new)
             SELECT count(*) FILTER (WHERE is_new) AS "added!" FROM written"#,
            &*self.group,
            &*self.topic,
            columns.order_ids.as_slice() as _,
            columns.event_types.as_slice() as _,
            columns.fingerprints.as_slice() as _,
            &columns.partitions,
            &columns.offsets,
            columns.reasons.as_slice() as _,
            columns.classes.as_slice() as _,
            columns.errors.as_slice() as _,
            &columns.bugs,
            &columns.attempts,
            &columns.replays,
            &columns.first_failed,
            &columns.last_failed,
            &columns.records,
            columns.keys.as_slice() as _,
            seconds(ledger_retention),
        );
        let added = self.answer(statement.fetch_one(&mut *lease)).await;
        Ok(lease.end(added).await?.cast_unsigned())
    }
}

/// One array for each column.
#[derive(Default)]
struct Columns<'a> {
    order_ids: Vec<&'a str>,
    event_types: Vec<&'a str>,
    fingerprints: Vec<&'a [u8]>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    reasons: Vec<&'static str>,
    classes: Vec<std::borrow::Cow<'a, str>>,
    errors: Vec<std::borrow::Cow<'a, str>>,
    bugs: Vec<String>,
    attempts: Vec<i32>,
    replays: Vec<i32>,
    first_failed: Vec<i64>,
    last_failed: Vec<i64>,
    records: Vec<Vec<u8>>,
    keys: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    fn of(letters: &[&'a RebuiltLetter]) -> Self {
        let mut columns = Self::default();
        for letter in letters {
            columns.order_ids.push(&letter.identity.order_id);
            columns.event_types.push(&letter.identity.event_type);
            columns.fingerprints.push(&letter.fingerprint.0);
            columns.partitions.push(letter.record.coordinates.partition.0);
            columns.offsets.push(letter.record.coordinates.offset.0);
            columns.reasons.push(letter.reason.as_str());
            columns.classes.push(text::bounded(&letter.class));
            columns.errors.push(text::bounded(&letter.error));
            columns.bugs.push(bug_fingerprint(letter.reason, &letter.error));
            columns.attempts.push(i32::try_from(letter.attempts).unwrap_or(i32::MAX));
            columns.replays.push(i32::try_from(letter.replays).unwrap_or(i32::MAX));
            columns.first_failed.push(letter.first_failed_at.0);
            columns.last_failed.push(letter.last_failed_at.0);
            columns.records.push(stored_record::encode(&letter.record));
            columns.keys.push(letter.record.key.as_deref());
        }
        columns
    }
}
