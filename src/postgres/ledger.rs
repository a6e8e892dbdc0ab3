//! `processed_orders`: claims and how they ended.

use std::sync::Arc;

use super::failure::bug;
use super::pool::Postgres;
use crate::core::effect::{Claim, Serial, Settlement, Start};
use crate::core::event::{Fingerprint, Identity};
use crate::core::failure::LedgerFailure;
use crate::core::input::{Holder, LedgerRow, LedgerState, RowAddress, Ticket};
use crate::core::record::{Coordinates, Epoch, Offset, Partition};

impl Postgres {
    /// Takes the identities for their records and returns what is in the ledger now. A ticket that is missing was fenced:
    /// its epoch is not the partition's.
    ///
    /// No two claims of a batch have the same identity, or the same coordinates and epoch. A claim may be repeated.
    pub async fn claim(&self, claims: &[Claim]) -> Result<Vec<(Ticket, LedgerRow)>, LedgerFailure> {
        let rows = Rows::of(claims.iter().map(|claim| RowOf {
            identity: &claim.identity,
            fingerprint: &claim.fingerprint,
            coordinates: claim.coordinates,
            epoch: claim.epoch,
            serial: claim.serial,
        }));
        let seized = Seizures::of(claims);
        let mut lease = self.lease().await?;
        // What nobody has is inserted plainly: ON CONFLICT would insert it speculatively, and confirm it. Where another inserts it after
        // the look, this fails with 23505 and is repeated. OFFSET 0 keeps the look one search of the index for each claim.
        //
        // Where nothing may be taken, the row is written as it is: only so does it come back, and locked, without a second
        // statement that could find another state.
        let statement = sqlx::query_as!(
            ClaimAnswer,
            r#"WITH fence AS MATERIALIZED (
               SELECT e.kpartition, e.epoch FROM partition_epochs e
                WHERE e.consumer_group = $1 AND e.topic = $2 AND e.kpartition = ANY($3::integer[])
                ORDER BY e.kpartition FOR SHARE),
             owned AS MATERIALIZED (
               SELECT i.*, EXISTS (
                      SELECT FROM processed_orders l
                       WHERE l.consumer_group = $1 AND l.order_id = i.order_id AND l.event_type = i.event_type OFFSET 0) AS is_there
                 FROM unnest($4::text[], $5::text[], $6::bytea[], $7::integer[], $8::bigint[], $9::bigint[])
                         AS i(order_id, event_type, fingerprint, kpartition, koffset, epoch)
                 JOIN fence USING (kpartition, epoch)
                ORDER BY order_id, event_type),
             seized AS MATERIALIZED (
               SELECT * FROM unnest($10::text[], $11::text[], $12::text[], $13::integer[], $14::bigint[], $15::bigint[], $16::bigint[])
                         AS s(order_id, event_type, topic, kpartition, koffset, epoch, serial)),
             inserted AS (
               INSERT INTO processed_orders
                      (consumer_group, order_id, event_type, state, fingerprint, topic, kpartition, koffset, epoch, serial)
               SELECT $1, order_id, event_type, 'c', fingerprint, $2, kpartition, koffset, epoch, $17
                 FROM owned WHERE NOT is_there
               RETURNING kpartition, koffset, epoch, ctid),
             existing AS (
               INSERT INTO processed_orders AS l
                      (consumer_group, order_id, event_type, state, fingerprint, topic, kpartition, koffset, epoch, serial)
               SELECT $1, order_id, event_type, 'c', fingerprint, $2, kpartition, koffset, epoch, $17
                 FROM owned WHERE is_there
               ON CONFLICT (consumer_group, order_id, event_type) DO UPDATE
               SET (state, fingerprint, topic, kpartition, koffset, epoch, serial, starts, claimed_at, settled_at) = (
                 SELECT 'c', excluded.fingerprint, excluded.topic, excluded.kpartition, excluded.koffset, excluded.epoch,
                        CASE WHEN (l.topic, l.kpartition, l.epoch) = (excluded.topic, excluded.kpartition, excluded.epoch)
                             THEN greatest(l.serial, excluded.serial) ELSE excluded.serial END,
                        CASE l.state WHEN 'c' THEN l.starts ELSE 0::smallint END,
                        excluded.claimed_at, NULL::timestamptz
                  WHERE l.state = 'c' AND ((l.topic, l.kpartition, l.koffset)
                                         = (excluded.topic, excluded.kpartition, excluded.koffset) OR l.epoch = 0)
                     OR l.state IN ('c', 'x') AND (l.order_id, l.event_type, l.topic, l.kpartition, l.koffset, l.epoch, l.serial)
                                               IN (TABLE seized)
                  UNION ALL
                 SELECT l.state, l.fingerprint, l.topic, l.kpartition, l.koffset, l.epoch, l.serial, l.starts, l.claimed_at,
                        l.settled_at
                  LIMIT 1)
               RETURNING kpartition, koffset, ctid, order_id, event_type, state, fingerprint, topic, epoch, serial, starts, xmax)
             SELECT array_agg(kpartition) AS "partitions!", array_agg(koffset) AS "offsets!", array_agg(epoch) AS "epochs!",
                    array_agg(ctid) AS "addresses!: _", true AS "inserted!", 'c' AS "state!", $2 AS "topic!", $17::bigint AS "serial!",
                    0::smallint AS "starts!", NULL AS order_id, NULL AS event_type, NULL::bytea AS fingerprint
               FROM inserted HAVING count(*) > 0
              UNION ALL
             SELECT ARRAY[kpartition], ARRAY[koffset], ARRAY[epoch], ARRAY[ctid], xmax = 0, state, topic, serial, starts,
                    order_id, event_type, fingerprint
               FROM existing"#,
            &*self.group,
            &*self.topic,
            &rows.fenced_partitions(),
            rows.order_ids.as_slice() as _,
            rows.event_types.as_slice() as _,
            rows.fingerprints.as_slice() as _,
            &rows.partitions,
            &rows.offsets,
            &rows.epochs,
            seized.order_ids.as_slice() as _,
            seized.event_types.as_slice() as _,
            seized.topics.as_slice() as _,
            &seized.partitions,
            &seized.offsets,
            &seized.epochs,
            &seized.serials,
            rows.serial,
        );
        let answers = self.answer(statement.fetch_all(&mut *lease)).await;
        let answers = lease.end(answers).await?;
        self.claimed_rows(claims, &answers)
    }

    fn claimed_rows(
        &self,
        claims: &[Claim],
        answers: &[ClaimAnswer],
    ) -> Result<Vec<(Ticket, LedgerRow)>, LedgerFailure> {
        let of_record: foldhash::HashMap<(Coordinates, Epoch), &Claim> =
            claims.iter().map(|claim| ((claim.coordinates, claim.epoch), claim)).collect();
        let tickets = Tickets::of(claims.iter().map(|claim| (&claim.identity, claim.ticket)));
        let mut rows = Vec::with_capacity(claims.len());
        for answer in answers {
            let state = state_of(&answer.state)?;
            let topic =
                if answer.topic == *self.topic { Arc::clone(&self.topic) } else { answer.topic.as_str().into() };
            let serial = Serial(answer.serial.cast_unsigned());
            let starts = u16::try_from(answer.starts).unwrap_or_default();
            for (coordinates, epoch, address) in answer.places() {
                let there = (&answer.order_id, &answer.event_type, &answer.fingerprint);
                let (ticket, fingerprint) = if let (Some(order_id), Some(event_type), Some(fingerprint)) = there {
                    (tickets.of_identity(order_id, event_type)?, fingerprint_of(fingerprint)?)
                } else {
                    let claim = of_record.get(&(coordinates, epoch)).ok_or_else(not_of_the_batch)?;
                    (claim.ticket, claim.fingerprint)
                };
                let holder = Holder { topic: Arc::clone(&topic), coordinates, epoch, serial };
                rows.push((
                    ticket,
                    LedgerRow { state, holder, fingerprint, inserted: answer.inserted, starts, address },
                ));
            }
        }
        Ok(rows)
    }

    /// Leaves claims to any copy of their identity: an epoch of 0 is nobody's, and nothing starts or parks the record until it is
    /// claimed again. A claim that is not ours any more stays as it is.
    pub async fn yield_claims(&self, claims: &[Settlement]) -> Result<(), LedgerFailure> {
        let rows = Rows::of(claims.iter().map(RowOf::from));
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "WITH yielded AS MATERIALIZED (
               SELECT l.order_id, l.event_type
                 FROM unnest($3::text[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[])
                   AS i(order_id, event_type, kpartition, koffset, epoch)
                 JOIN processed_orders l ON l.consumer_group = $1 AND l.order_id = i.order_id AND l.event_type = i.event_type
                  AND l.state = 'c' AND l.topic = $2 AND l.kpartition = i.kpartition AND l.koffset = i.koffset
                  AND l.epoch = i.epoch AND l.serial <= $8
                ORDER BY l.order_id, l.event_type FOR UPDATE OF l)
             UPDATE processed_orders l SET epoch = 0 FROM yielded y
              WHERE l.consumer_group = $1 AND l.order_id = y.order_id AND l.event_type = y.event_type",
            &*self.group,
            &*self.topic,
            rows.order_ids.as_slice() as _,
            rows.event_types.as_slice() as _,
            &rows.partitions,
            &rows.offsets,
            &rows.epochs,
            rows.serial,
        );
        let yielded = self.answer(statement.execute(&mut *lease)).await;
        lease.end(yielded).await.map(drop)
    }

    /// Writes how many starts of each record have not finished; returns the tickets whose row is durable. A ticket that is missing
    /// was fenced, or its identity was settled or claimed by another copy, or a later statement of this epoch was faster.
    ///
    /// No two of a batch have the same identity. Starting may be repeated.
    pub async fn start(&self, starts: &[Start]) -> Result<Vec<Ticket>, LedgerFailure> {
        let rows = Rows::of(starts.iter().map(|start| RowOf::from(&start.settlement)));
        let counts: Vec<i16> = starts.iter().map(|start| i16::try_from(start.starts).unwrap_or(i16::MAX)).collect();
        let mut lease = self.lease().await?;
        let statement = sqlx::query!(
            "WITH fence AS MATERIALIZED (
               SELECT e.kpartition, e.epoch FROM partition_epochs e
                WHERE e.consumer_group = $1 AND e.topic = $2 AND e.kpartition = ANY($3::integer[])
                ORDER BY e.kpartition FOR SHARE),
             input AS MATERIALIZED (
               SELECT i.* FROM unnest($4::text[], $5::text[], $6::bytea[], $7::integer[], $8::bigint[], $9::bigint[], $10::smallint[])
                   AS i(order_id, event_type, fingerprint, kpartition, koffset, epoch, starts)
                 JOIN fence USING (kpartition, epoch))
             INSERT INTO processed_orders AS l (consumer_group, order_id, event_type, state, fingerprint, topic,
                    kpartition, koffset, epoch, starts, serial)
             SELECT $1, order_id, event_type, 'c', fingerprint, $2, kpartition, koffset, epoch, starts, $11
               FROM input ORDER BY order_id, event_type
             ON CONFLICT (consumer_group, order_id, event_type) DO UPDATE
             SET starts = excluded.starts, epoch = excluded.epoch, serial = excluded.serial
             WHERE (l.topic, l.kpartition, l.koffset) = (excluded.topic, excluded.kpartition, excluded.koffset)
               AND (l.state = 'p' OR l.state = 'c' AND l.epoch <> 0)
               AND (l.epoch <> excluded.epoch OR l.serial <= excluded.serial)
             RETURNING order_id, event_type",
            &*self.group,
            &*self.topic,
            &rows.fenced_partitions(),
            rows.order_ids.as_slice() as _,
            rows.event_types.as_slice() as _,
            rows.fingerprints.as_slice() as _,
            &rows.partitions,
            &rows.offsets,
            &rows.epochs,
            &counts,
            rows.serial,
        );
        let started = self.answer(statement.fetch_all(&mut *lease)).await;
        let started = lease.end(started).await?;
        let tickets = Tickets::of(starts.iter().map(|start| (&start.settlement.identity, start.settlement.ticket)));
        started.iter().map(|row| tickets.of_identity(&row.order_id, &row.event_type)).collect()
    }

    /// Writes the identities as notified, whoever owns the partitions meanwhile; removes what is parked of them and resolves their
    /// dead letters.
    ///
    /// A success may come so late that a record of other content has taken the identity and was parked: that one stays, to be told.
    ///
    /// No two settlements of a batch have the same identity. Settling may be repeated.
    pub async fn done(&self, settlements: &[Settlement]) -> Result<(), LedgerFailure> {
        let rows = Rows::of(settlements.iter().map(RowOf::from));
        let addresses: Vec<RowAddress> = settlements.iter().map(|settlement| settlement.address).collect();
        let parked = Rows::of(settlements.iter().filter(|settlement| settlement.was_parked).map(RowOf::from));
        if self.settle_as_done(&rows, &addresses, &parked).await? {
            // A dead letter was written while this statement waited for its row, too late for it to see.
            self.settle_as_done(&rows, &addresses, &parked).await?;
        }
        Ok(())
    }

    /// Returns whether a row that had a dead letter found none to resolve.
    async fn settle_as_done(
        &self,
        rows: &Rows<'_>,
        addresses: &[RowAddress],
        parked: &Rows<'_>,
    ) -> Result<bool, LedgerFailure> {
        let mut lease = self.lease().await?;
        // Most rows are where their claims left them, and as they left them: those are updated in place. IS NOT DISTINCT FROM keeps the
        // planner from searching the primary key instead of going to the ctid. All others are written by identity, and so is a row with
        // a dead letter, for `resolved` to find.
        //
        // The lateral subquery makes it one index search for each row with a dead letter, and none for all others; a plain
        // join lets the planner read all of dead_letters. They are locked in the order in which everyone does.
        let statement = sqlx::query_scalar!(
            r#"WITH input AS MATERIALIZED (
               SELECT * FROM unnest($3::text[], $4::text[], $5::bytea[], $6::integer[], $7::bigint[], $8::bigint[], $14::tid[])
                          WITH ORDINALITY AS i(order_id, event_type, fingerprint, kpartition, koffset, epoch, address, place)
                ORDER BY order_id, event_type),
             in_place AS (
               UPDATE processed_orders l SET state = 'd', serial = $11, settled_at = clock_timestamp()
                 FROM input i
                WHERE l.ctid = i.address AND l.state = 'c' AND NOT l.buried
                  AND ROW(l.consumer_group, l.order_id, l.event_type, l.fingerprint, l.topic, l.kpartition, l.koffset, l.epoch)
                      IS NOT DISTINCT FROM
                      ROW($1, i.order_id, i.event_type, i.fingerprint, $2, i.kpartition, i.koffset, i.epoch)
               RETURNING i.place),
             settled AS (
               INSERT INTO processed_orders AS l
                      (consumer_group, order_id, event_type, state, fingerprint, topic, kpartition, koffset, epoch, serial, settled_at)
               SELECT $1, order_id, event_type, 'd', fingerprint, $2, kpartition, koffset, epoch, $11, clock_timestamp()
                 FROM input WHERE place NOT IN (TABLE in_place)
               ON CONFLICT (consumer_group, order_id, event_type) DO UPDATE
               SET state = 'd', fingerprint = excluded.fingerprint, topic = excluded.topic,
                   kpartition = excluded.kpartition, koffset = excluded.koffset, epoch = excluded.epoch,
                   serial = excluded.serial, settled_at = excluded.settled_at
               WHERE (l.state <> 'd' OR l.buried)
                 AND NOT (l.state = 'p' AND l.fingerprint <> excluded.fingerprint
                          AND (l.topic, l.kpartition, l.koffset) <> (excluded.topic, excluded.kpartition, excluded.koffset))
               RETURNING l.order_id, l.event_type, l.buried),
             unparked AS (
               DELETE FROM parked_events WHERE ctid = ANY(ARRAY(
                      SELECT parked.ctid
                        FROM unnest($9::text[], $10::text[], $12::integer[], $13::bigint[]) AS u(order_id, event_type, kpartition, koffset)
                       CROSS JOIN LATERAL (
                             SELECT q.ctid FROM parked_events q
                              WHERE q.consumer_group = $1 AND q.order_id = u.order_id AND q.event_type = u.event_type
                                AND (q.topic, q.kpartition, q.koffset) = ($2, u.kpartition, u.koffset)
                             OFFSET 0) parked))),
             resolved AS (
               UPDATE dead_letters SET replays = replays + (state = 'replaying')::integer, state = 'resolved',
                      closed_at = clock_timestamp()
                WHERE id = ANY(ARRAY(
                      SELECT open.id
                        FROM (SELECT order_id, event_type FROM settled WHERE buried ORDER BY order_id, event_type) s
                       CROSS JOIN LATERAL (
                             SELECT d.id FROM dead_letters d
                              WHERE d.consumer_group = $1 AND d.order_id = s.order_id AND d.event_type = s.event_type
                                AND d.state IN ('open', 'replaying', 'quarantined') ORDER BY d.id FOR UPDATE) open))
                RETURNING id, order_id, event_type),
             replayed AS (
               UPDATE replay_letters SET state = 'ended', outcome = 'notified', ended_at = clock_timestamp()
                WHERE ctid = ANY(ARRAY(
                      SELECT p.ctid FROM resolved r CROSS JOIN LATERAL (
                             SELECT x.ctid FROM replay_letters x
                              WHERE x.dead_letter_id = r.id AND x.state = 'scheduled' OFFSET 0) p)))
             SELECT EXISTS (SELECT FROM settled s WHERE s.buried AND NOT EXISTS (
                    SELECT FROM resolved r WHERE (r.order_id, r.event_type) = (s.order_id, s.event_type))) AS "missed!""#,
            &*self.group,
            &*self.topic,
            rows.order_ids.as_slice() as _,
            rows.event_types.as_slice() as _,
            rows.fingerprints.as_slice() as _,
            &rows.partitions,
            &rows.offsets,
            &rows.epochs,
            parked.order_ids.as_slice() as _,
            parked.event_types.as_slice() as _,
            rows.serial,
            &parked.partitions,
            &parked.offsets,
            addresses as _,
        );
        let missed = self.answer(statement.fetch_one(&mut *lease)).await;
        lease.end(missed).await
    }
}

/// A row that was there, or all rows together that were inserted: of those the claims say what is absent.
struct ClaimAnswer {
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    epochs: Vec<i64>,
    addresses: Vec<RowAddress>,
    /// True also of a row that was deleted after it was seen.
    inserted: bool,
    state: String,
    topic: String,
    serial: i64,
    starts: i16,
    order_id: Option<String>,
    event_type: Option<String>,
    fingerprint: Option<Vec<u8>>,
}

impl ClaimAnswer {
    fn places(&self) -> impl Iterator<Item = (Coordinates, Epoch, RowAddress)> {
        let records = self.partitions.iter().zip(&self.offsets).zip(&self.epochs);
        records.zip(&self.addresses).map(|(((partition, offset), epoch), address)| {
            let coordinates = Coordinates { partition: Partition(*partition), offset: Offset(*offset) };
            (coordinates, Epoch(*epoch), *address)
        })
    }
}

fn state_of(code: &str) -> Result<LedgerState, LedgerFailure> {
    let state = code.chars().next().and_then(LedgerState::from_code);
    state.ok_or_else(|| bug(format!("processed_orders holds the unknown state {code}")))
}

fn fingerprint_of(bytes: &[u8]) -> Result<Fingerprint, LedgerFailure> {
    let bytes = bytes.try_into();
    bytes.map(Fingerprint).map_err(|_| bug("processed_orders holds a fingerprint that is not 32 bytes".to_owned()))
}

/// What a ledger row is written from.
pub(super) struct RowOf<'a> {
    identity: &'a Identity,
    fingerprint: &'a Fingerprint,
    coordinates: Coordinates,
    epoch: Epoch,
    serial: Serial,
}

impl<'a> From<&'a Settlement> for RowOf<'a> {
    fn from(settlement: &'a Settlement) -> Self {
        Self {
            identity: &settlement.identity,
            fingerprint: &settlement.fingerprint,
            coordinates: settlement.coordinates,
            epoch: settlement.epoch,
            serial: settlement.serial,
        }
    }
}

/// The rows of a batch, one array for each column.
#[derive(Default)]
pub(super) struct Rows<'a> {
    pub(super) order_ids: Vec<&'a str>,
    pub(super) event_types: Vec<&'a str>,
    pub(super) fingerprints: Vec<&'a [u8]>,
    pub(super) partitions: Vec<i32>,
    pub(super) offsets: Vec<i64>,
    pub(super) epochs: Vec<i64>,
    /// Of the statement: all its rows have the same.
    pub(super) serial: i64,
}

impl<'a> Rows<'a> {
    pub(super) fn of(rows: impl Iterator<Item = RowOf<'a>>) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.order_ids.push(&row.identity.order_id);
            columns.event_types.push(&row.identity.event_type);
            columns.fingerprints.push(&row.fingerprint.0);
            columns.partitions.push(row.coordinates.partition.0);
            columns.offsets.push(row.coordinates.offset.0);
            columns.epochs.push(row.epoch.0);
            columns.serial = columns.serial.max(row.serial.0.cast_signed());
        }
        columns
    }

    pub(super) fn fenced_partitions(&self) -> Vec<i32> {
        let mut partitions = self.partitions.clone();
        partitions.sort_unstable();
        partitions.dedup();
        partitions
    }
}

/// The claims that may be taken from their holders.
#[derive(Default)]
struct Seizures<'a> {
    order_ids: Vec<&'a str>,
    event_types: Vec<&'a str>,
    topics: Vec<&'a str>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    epochs: Vec<i64>,
    serials: Vec<i64>,
}

impl<'a> Seizures<'a> {
    fn of(claims: &'a [Claim]) -> Self {
        let mut columns = Self::default();
        for claim in claims {
            let Some(holder) = &claim.seize_from else {
                continue;
            };
            columns.order_ids.push(&claim.identity.order_id);
            columns.event_types.push(&claim.identity.event_type);
            columns.topics.push(&holder.topic);
            columns.partitions.push(holder.coordinates.partition.0);
            columns.offsets.push(holder.coordinates.offset.0);
            columns.epochs.push(holder.epoch.0);
            columns.serials.push(holder.serial.0.cast_signed());
        }
        columns
    }
}

/// Finds the ticket of a row that came back.
pub(super) struct Tickets<'a>(foldhash::HashMap<(&'a str, &'a str), Ticket>);

impl<'a> Tickets<'a> {
    pub(super) fn of(batch: impl Iterator<Item = (&'a Identity, Ticket)>) -> Self {
        Self(batch.map(|(identity, ticket)| ((&*identity.order_id, &*identity.event_type), ticket)).collect())
    }

    pub(super) fn of_identity(&self, order_id: &str, event_type: &str) -> Result<Ticket, LedgerFailure> {
        let ticket = self.0.get(&(order_id, event_type)).copied();
        ticket.ok_or_else(not_of_the_batch)
    }
}

fn not_of_the_batch() -> LedgerFailure {
    bug("a row came back that is not of the batch".to_owned())
}
