//! The tables of the ledger, said plainly: what each statement does to them, one row after another.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::core::decode::{Decoded, synthetic_identity};
use crate::core::effect::{Claim, DeadLetter, ParkedKey, Parking, Settlement, Start};
use crate::core::event::Fingerprint;
use crate::core::input::{LoadedLane, ParkedLane, ParkedRow, ReplayRow, Rest};
use crate::core::key::LaneKey;

/// Rows of one key that are read at once: few, so that keys with more are met often.
const ROWS_PER_KEY: usize = 3;

pub(super) struct Row {
    pub(super) state: LedgerState,
    pub(super) coordinates: Coordinates,
    epoch: Epoch,
    is_yielded: bool,
    pub(super) starts: u16,
    serial: Serial,
    pub(super) fingerprint: Fingerprint,
}

pub(super) struct Waiting {
    identity: Identity,
    key: LaneKey,
    record: Record,
    pub(super) attempts: u32,
    due: Now,
    first_failed: Now,
    last_failed: Option<Now>,
    pub(super) is_replay: bool,
}

struct Ownership {
    epoch: i64,
    owner: u64,
    start: Offset,
    is_clean_end: bool,
    unclean_ends: u32,
}

impl Row {
    fn holder(&self) -> Holder {
        let (coordinates, epoch, serial) = (self.coordinates, self.epoch, self.serial);
        Holder { topic: "order_events".into(), coordinates, epoch, serial }
    }

    /// By an owner of the partition that the row is of.
    fn written_by(&mut self, settlement: &Settlement) {
        let is_later = self.epoch == settlement.epoch && self.serial > settlement.serial;
        self.serial = if is_later { self.serial } else { settlement.serial };
        self.epoch = settlement.epoch;
    }
}

#[derive(Default)]
pub(super) struct Tables {
    epochs: HashMap<Partition, Ownership>,
    pub(super) ledger: HashMap<Identity, Row>,
    pub(super) parked: BTreeMap<Coordinates, Waiting>,
}

impl Tables {
    pub(super) fn raise(&mut self, partition: Partition, owner: u64, start: Offset) -> Raised {
        let before = self.epochs.get(&partition);
        let (epoch, unclean_ends) = before.map_or((1, 0), |before| {
            let is_unclean = !before.is_clean_end && before.start == start;
            let unclean_ends = before.unclean_ends + u32::from(before.owner != owner);
            (before.epoch + 1, if is_unclean { unclean_ends } else { 0 })
        });
        self.epochs.insert(partition, Ownership { epoch, owner, start, is_clean_end: false, unclean_ends });
        Raised { epoch: Epoch(epoch), unclean_ends }
    }

    pub(super) fn end_clean(&mut self, partition: Partition, owner: u64) {
        if let Some(ownership) = self.epochs.get_mut(&partition).filter(|ownership| ownership.owner == owner) {
            ownership.is_clean_end = true;
        }
    }

    pub(super) fn epoch(&self, partition: Partition) -> Option<Epoch> {
        self.epochs.get(&partition).map(|ownership| Epoch(ownership.epoch))
    }

    pub(super) fn is_dead(&self, identity: &Identity) -> bool {
        self.ledger.get(identity).is_some_and(|row| row.state == LedgerState::Dead)
    }

    fn is_current(&self, partition: Partition, epoch: Epoch) -> bool {
        self.epoch(partition) == Some(epoch)
    }

    pub(super) fn claim(&mut self, claim: &Claim) -> Option<LedgerRow> {
        if !self.is_current(claim.coordinates.partition, claim.epoch) {
            return None;
        }
        let inserted = !self.ledger.contains_key(&claim.identity);
        let row = self.ledger.entry(claim.identity.clone()).or_insert(Row {
            state: LedgerState::Claimed,
            coordinates: claim.coordinates,
            epoch: claim.epoch,
            is_yielded: false,
            starts: 0,
            serial: claim.serial,
            fingerprint: claim.fingerprint,
        });
        let of_same_owner = (row.coordinates.partition, row.epoch) == (claim.coordinates.partition, claim.epoch);
        let later = row.coordinates.partition != claim.coordinates.partition
            || row.coordinates.offset < claim.coordinates.offset;
        if row.state == LedgerState::Dead && later {
            (row.state, row.coordinates, row.starts) = (LedgerState::Claimed, claim.coordinates, 0);
        }
        let is_seized = claim.seize_from.as_ref() == Some(&row.holder());
        if row.state == LedgerState::Claimed && (is_seized || row.is_yielded) {
            row.coordinates = claim.coordinates;
        }
        if row.state == LedgerState::Claimed && row.coordinates == claim.coordinates {
            row.serial = if of_same_owner { row.serial.max(claim.serial) } else { claim.serial };
            (row.epoch, row.is_yielded) = (claim.epoch, false);
        }
        let holder = row.holder();
        Some(LedgerRow { state: row.state, holder, fingerprint: row.fingerprint, inserted, starts: row.starts })
    }

    pub(super) fn yield_claim(&mut self, settlement: &Settlement) {
        let Some(row) = self.ledger.get_mut(&settlement.identity) else { return };
        let is_ours = (row.coordinates, row.epoch) == (settlement.coordinates, settlement.epoch)
            && row.serial <= settlement.serial;
        row.is_yielded |= is_ours && row.state == LedgerState::Claimed;
    }

    pub(super) fn done(&mut self, settlement: &Settlement) {
        let row = self.ledger.get_mut(&settlement.identity).unwrap();
        row.state = LedgerState::Done;
        row.coordinates = settlement.coordinates;
        (row.epoch, row.serial) = (settlement.epoch, settlement.serial);
        if settlement.was_parked {
            self.parked.retain(|_, waiting| waiting.identity != settlement.identity);
        }
    }

    /// The row of the settlement, if its owner may decide about it.
    fn decidable(&mut self, settlement: &Settlement, states: &[LedgerState]) -> Option<&mut Row> {
        let is_current = self.is_current(settlement.coordinates.partition, settlement.epoch);
        let row = self.ledger.get_mut(&settlement.identity)?;
        let is_ours = row.coordinates == settlement.coordinates && states.contains(&row.state);
        (is_current && is_ours).then_some(row)
    }

    /// The same, if no later statement of its epoch was faster.
    fn changeable(&mut self, settlement: &Settlement) -> Option<&mut Row> {
        let row = self.decidable(settlement, &[LedgerState::Claimed, LedgerState::Parked])?;
        (row.epoch != settlement.epoch || row.serial <= settlement.serial).then_some(row)
    }

    pub(super) fn start(&mut self, start: &Start) -> bool {
        let Some(row) = self.changeable(&start.settlement) else { return false };
        row.starts = start.starts;
        row.written_by(&start.settlement);
        true
    }

    pub(super) fn bury(&mut self, letter: &DeadLetter) -> bool {
        let states = [LedgerState::Claimed, LedgerState::Parked, LedgerState::Dead, LedgerState::Uncertain];
        let Some(row) = self.decidable(&letter.settlement, &states) else { return false };
        let is_settled = matches!(row.state, LedgerState::Dead | LedgerState::Uncertain);
        if is_settled && row.epoch != letter.settlement.epoch {
            return false;
        }
        if !is_settled {
            row.state = if letter.reason == Reason::Uncertain { LedgerState::Uncertain } else { LedgerState::Dead };
            row.written_by(&letter.settlement);
        }
        self.parked.retain(|_, waiting| waiting.identity != letter.settlement.identity);
        true
    }

    pub(super) fn park(&mut self, now: Now, parking: &Parking) -> bool {
        let Some(row) = self.changeable(&parking.settlement) else { return false };
        (row.state, row.starts) = (LedgerState::Parked, 0);
        row.written_by(&parking.settlement);
        let waiting = Waiting {
            identity: parking.settlement.identity.clone(),
            key: parking.key,
            record: parking.record.clone(),
            attempts: parking.attempts,
            due: now + parking.wait,
            first_failed: now.saturating_sub(parking.first_failed_ago),
            is_replay: false,
            last_failed: parking.failures.last().map(|failure| now.saturating_sub(failure.ago)),
        };
        let before = self.parked.insert(parking.settlement.coordinates, waiting);
        if let (Some(before), Some(waiting)) = (before, self.parked.get_mut(&parking.settlement.coordinates)) {
            waiting.is_replay = before.is_replay;
        }
        true
    }

    /// As if a later statement of its owner had written the row.
    pub(super) fn overtake(&mut self, record: &Record) {
        self.ledger.get_mut(&identity_of(record)).expect("it has a row").serial = Serial(u64::MAX);
    }

    /// What an operator does with a letter: it is due now.
    pub(super) fn schedule_replay(&mut self, record: &Record) {
        let identity = identity_of(record);
        let row = self.ledger.get_mut(&identity).expect("a letter has a row");
        (row.state, row.starts) = (LedgerState::Parked, 0);
        let waiting = Waiting {
            key: LaneKey::of(identity.order_id.as_bytes()),
            identity,
            record: record.clone(),
            attempts: 0,
            due: Now::ZERO,
            first_failed: Now::ZERO,
            last_failed: None,
            is_replay: true,
        };
        self.parked.insert(record.coordinates, waiting);
    }

    /// The replayed records of these partitions that are due. What was settled otherwise is removed.
    pub(super) fn replays(&mut self, now: Now, wanted: &[(Partition, Epoch)], room: usize) -> Vec<ReplayRow> {
        let is_current = |at: &Coordinates, waiting: &Waiting| {
            let row = &self.ledger[&waiting.identity];
            !waiting.is_replay || (row.state == LedgerState::Parked && row.coordinates == *at)
        };
        self.parked.retain(|at, waiting| is_current(at, waiting));
        let found = self.parked.iter().filter_map(|(at, waiting)| {
            let (_, epoch) = wanted.iter().find(|(partition, _)| *partition == at.partition)?;
            (waiting.is_replay && waiting.due <= now).then_some((*epoch, waiting))
        });
        let row = |(epoch, waiting): (Epoch, &Waiting)| ReplayRow {
            epoch,
            key: waiting.key,
            row: ParkedRow {
                identity: waiting.identity.clone(),
                record: waiting.record.clone(),
                attempts: waiting.attempts,
                starts: self.ledger[&waiting.identity].starts,
                first_failed_ago: now.saturating_sub(waiting.first_failed),
                last_failed_ago: Some(now.saturating_sub(waiting.first_failed)),
            },
        };
        found.take(room).map(row).collect()
    }

    pub(super) fn parked_keys(&self, now: Now, partition: Partition) -> Vec<ParkedLane> {
        let mut lanes: Vec<ParkedLane> = Vec::new();
        for (_, waiting) in self.parked.iter().filter(|(at, waiting)| at.partition == partition && !waiting.is_replay) {
            let key = waiting.key;
            match lanes.iter_mut().find(|lane| lane.key == key) {
                Some(lane) => lane.rows += 1,
                None => lanes.push(ParkedLane { key, due_in: waiting.due.saturating_sub(now), rows: 1 }),
            }
        }
        lanes
    }

    pub(super) fn load(&mut self, now: Now, asked: ParkedKey) -> Option<LoadedLane> {
        let ParkedKey { partition, epoch, key } = asked;
        if !self.is_current(partition, epoch) {
            return None;
        }
        let is_asked = |(at, waiting): &(&Coordinates, &Waiting)| {
            at.partition == partition && waiting.key == key && !waiting.is_replay
        };
        let found: Vec<Coordinates> =
            self.parked.iter().filter(is_asked).map(|(at, _)| *at).take(ROWS_PER_KEY).collect();
        let rest = if found.len() < ROWS_PER_KEY { Rest::Nothing } else { Rest::More };
        let mut lane = LoadedLane { partition, key, rows: Vec::new(), rest, removed: 0 };
        for at in found {
            let waiting = &self.parked[&at];
            let row = &self.ledger[&waiting.identity];
            if row.state != LedgerState::Parked || row.coordinates != at {
                self.parked.remove(&at);
                lane.removed += 1;
                continue;
            }
            lane.rows.push(ParkedRow {
                identity: waiting.identity.clone(),
                record: waiting.record.clone(),
                attempts: waiting.attempts,
                starts: row.starts,
                first_failed_ago: now.saturating_sub(waiting.first_failed),
                last_failed_ago: waiting.last_failed.map(|at| now.saturating_sub(at)),
            });
        }
        Some(lane)
    }
}

fn identity_of(record: &Record) -> Identity {
    let decoder = Decoder::new(["ORDER_CREATED", "ORDER_PAID"], OrderingKey::OrderId);
    match decoder.decode(record) {
        Decoded::Event { event, .. } => event.identity,
        Decoded::Poison { .. } | Decoded::Ignored { .. } => synthetic_identity("order_events", record).0,
    }
}
