//! The tables of the ledger, said plainly: what each statement does to them, one row after another.
//!
//! `tests/ledger/model.rs` has this very file beside a real Postgres: whatever is said here is what the SQL does.

use std::collections::{BTreeMap, HashMap};

use super::core::effect::{Claim, DeadLetter, ParkedKey, Parking, Serial, Settlement, Start};
use super::core::event::{Fingerprint, Identity};
use super::core::failure::Reason;
use super::core::input::{
    Holder, LedgerRow, LedgerState, LoadedLane, Now, ParkedLane, ParkedRow, Raised, Rest, RowAddress,
};
use super::core::key::LaneKey;
use super::core::record::{Coordinates, Epoch, Offset, Partition, Record};

/// Whose a claim is that was yielded.
pub(super) const NOBODY: Epoch = Epoch(0);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) state: LedgerState,
    pub(super) coordinates: Coordinates,
    pub(super) epoch: Epoch,
    pub(super) serial: Serial,
    pub(super) starts: u16,
    pub(super) fingerprint: Fingerprint,
    /// It was a dead letter once.
    pub(super) buried: bool,
}

pub(super) struct Waiting {
    pub(super) coordinates: Coordinates,
    pub(super) key: LaneKey,
    pub(super) record: Record,
    pub(super) attempts: u32,
    pub(super) due: Now,
    pub(super) first_failed: Now,
    /// The number of each attempt that failed, and when.
    pub(super) failures: Vec<(u32, Now)>,
    pub(super) is_replay: bool,
    /// Of a replay: a worker has read it since.
    pub(super) is_loaded: bool,
}

pub(super) struct Ownership {
    pub(super) epoch: Epoch,
    pub(super) owner: u64,
    pub(super) start: Offset,
    pub(super) is_clean_end: bool,
    pub(super) unclean_ends: u32,
}

impl Row {
    pub(super) fn holder(&self) -> Holder {
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

impl Waiting {
    pub(super) fn last_failed(&self) -> Option<Now> {
        self.failures.last().map(|(_, at)| *at)
    }
}

pub(super) struct Tables {
    /// Rows of one key that are read at once.
    pub(super) rows_per_key: usize,
    pub(super) epochs: HashMap<Partition, Ownership>,
    pub(super) ledger: HashMap<Identity, Row>,
    pub(super) parked: BTreeMap<Identity, Waiting>,
}

impl Tables {
    pub(super) fn new(rows_per_key: usize) -> Self {
        Self { rows_per_key, epochs: HashMap::new(), ledger: HashMap::new(), parked: BTreeMap::new() }
    }

    pub(super) fn raise(&mut self, partition: Partition, owner: u64, start: Offset) -> Raised {
        let before = self.epochs.get(&partition);
        let (epoch, unclean_ends) = before.map_or((Epoch(1), 0), |before| {
            let is_unclean = !before.is_clean_end && before.start == start;
            let unclean_ends = before.unclean_ends + u32::from(before.owner != owner);
            (Epoch(before.epoch.0 + 1), if is_unclean { unclean_ends } else { 0 })
        });
        self.epochs.insert(partition, Ownership { epoch, owner, start, is_clean_end: false, unclean_ends });
        Raised { epoch, unclean_ends }
    }

    pub(super) fn end_clean(&mut self, partition: Partition, epoch: Epoch) {
        if let Some(ownership) = self.epochs.get_mut(&partition).filter(|ownership| ownership.epoch == epoch) {
            ownership.is_clean_end = true;
        }
    }

    pub(super) fn epoch(&self, partition: Partition) -> Option<Epoch> {
        self.epochs.get(&partition).map(|ownership| ownership.epoch)
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
            serial: claim.serial,
            starts: 0,
            fingerprint: claim.fingerprint,
            buried: false,
        });
        let (there, here) = (row.coordinates, claim.coordinates);
        let is_seized = claim.seize_from.as_ref() == Some(&row.holder());
        let is_taken = match row.state {
            LedgerState::Claimed => there == here || row.epoch == NOBODY || is_seized,
            LedgerState::Dead => is_seized,
            LedgerState::Done | LedgerState::Parked | LedgerState::Uncertain => false,
        };
        if is_taken {
            let is_of_same_owner = (there.partition, row.epoch) == (here.partition, claim.epoch);
            row.serial = if is_of_same_owner { row.serial.max(claim.serial) } else { claim.serial };
            row.starts = if row.state == LedgerState::Dead { 0 } else { row.starts };
            (row.state, row.coordinates) = (LedgerState::Claimed, here);
            (row.epoch, row.fingerprint) = (claim.epoch, claim.fingerprint);
        }
        let holder = row.holder();
        let address = RowAddress::default();
        Some(LedgerRow {
            state: row.state,
            holder,
            fingerprint: row.fingerprint,
            inserted,
            starts: row.starts,
            address,
        })
    }

    pub(super) fn yield_claim(&mut self, settlement: &Settlement) {
        let Some(row) = self.ledger.get_mut(&settlement.identity) else { return };
        let is_ours = (row.coordinates, row.epoch) == (settlement.coordinates, settlement.epoch)
            && row.serial <= settlement.serial;
        if is_ours && row.state == LedgerState::Claimed {
            row.epoch = NOBODY;
        }
    }

    pub(super) fn done(&mut self, settlement: &Settlement) {
        let row = self.row_of(settlement, LedgerState::Claimed);
        let is_other_content = row.coordinates != settlement.coordinates && row.fingerprint != settlement.fingerprint;
        let waits_to_be_told = row.state == LedgerState::Parked && is_other_content;
        if !waits_to_be_told && (row.state != LedgerState::Done || row.buried) {
            row.state = LedgerState::Done;
            (row.coordinates, row.fingerprint) = (settlement.coordinates, settlement.fingerprint);
            (row.epoch, row.serial) = (settlement.epoch, settlement.serial);
        }
        let parked = self.parked.get(&settlement.identity);
        if settlement.was_parked && parked.is_some_and(|waiting| waiting.coordinates == settlement.coordinates) {
            self.parked.remove(&settlement.identity);
        }
    }

    /// The row of the settlement; where it was pruned, a new one.
    fn row_of(&mut self, settlement: &Settlement, state: LedgerState) -> &mut Row {
        self.ledger.entry(settlement.identity.clone()).or_insert(Row {
            state,
            coordinates: settlement.coordinates,
            epoch: settlement.epoch,
            serial: settlement.serial,
            starts: 0,
            fingerprint: settlement.fingerprint,
            buried: false,
        })
    }

    /// The row of the settlement, if its owner may decide about it.
    fn decidable(&mut self, settlement: &Settlement, states: &[LedgerState]) -> Option<&mut Row> {
        if !self.is_current(settlement.coordinates.partition, settlement.epoch) {
            return None;
        }
        let row = self.row_of(settlement, LedgerState::Claimed);
        let is_ours = row.coordinates == settlement.coordinates && states.contains(&row.state);
        is_ours.then_some(row)
    }

    /// The same, if no later statement of its epoch was faster, and the claim was not yielded.
    fn changeable(&mut self, settlement: &Settlement) -> Option<&mut Row> {
        let row = self.decidable(settlement, &[LedgerState::Claimed, LedgerState::Parked])?;
        let is_yielded = row.state == LedgerState::Claimed && row.epoch == NOBODY;
        let is_late = row.epoch == settlement.epoch && row.serial > settlement.serial;
        (!is_yielded && !is_late).then_some(row)
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
        let is_of_same_owner = row.epoch == letter.settlement.epoch;
        let is_late = is_of_same_owner && row.serial > letter.settlement.serial;
        if is_settled && !is_of_same_owner || !is_settled && is_late {
            return false;
        }
        if !is_settled {
            row.state = if letter.reason == Reason::Uncertain { LedgerState::Uncertain } else { LedgerState::Dead };
            row.buried = true;
            row.written_by(&letter.settlement);
        }
        self.parked.remove(&letter.settlement.identity);
        true
    }

    pub(super) fn park(&mut self, now: Now, parking: &Parking) -> bool {
        let Some(row) = self.changeable(&parking.settlement) else { return false };
        (row.state, row.starts) = (LedgerState::Parked, 0);
        row.written_by(&parking.settlement);
        let Settlement { identity, coordinates, .. } = &parking.settlement;
        let before = self.parked.get(identity);
        // What comes from Kafka is none, whatever a replay left behind.
        let is_replay = parking.settlement.was_parked && before.is_some_and(|before| before.is_replay);
        // What another copy left behind is no history of this one.
        let before = before.filter(|before| before.coordinates == *coordinates);
        let mut failures = before.map(|before| before.failures.clone()).unwrap_or_default();
        let is_known = |number| failures.iter().any(|(known, _)| *known == number);
        let since = parking.failures.iter().filter(|failure| !is_known(failure.number));
        let since: Vec<_> = since.map(|failure| (failure.number, now.saturating_sub(failure.ago))).collect();
        failures.extend(since);
        let waiting = Waiting {
            coordinates: *coordinates,
            key: parking.key,
            record: parking.record.clone(),
            attempts: parking.attempts,
            due: now + parking.wait,
            first_failed: now.saturating_sub(parking.first_failed_ago),
            failures,
            is_replay,
            is_loaded: false,
        };
        self.parked.insert(identity.clone(), waiting);
        true
    }

    /// What is parked to be tried again, of one key or of all, in the order of keys and offsets.
    pub(super) fn retries(&self, partition: Partition, key: Option<LaneKey>) -> Vec<&Identity> {
        let is_of = |waiting: &Waiting| {
            waiting.coordinates.partition == partition && !waiting.is_replay && key.is_none_or(|key| waiting.key == key)
        };
        let mut found: Vec<_> = self.parked.iter().filter(|(_, waiting)| is_of(waiting)).collect();
        found.sort_by_key(|(_, waiting)| (waiting.key, waiting.coordinates));
        found.into_iter().map(|(identity, _)| identity).collect()
    }

    pub(super) fn parked_keys(&self, now: Now, partition: Partition) -> Vec<ParkedLane> {
        let mut lanes: Vec<ParkedLane> = Vec::new();
        for identity in self.retries(partition, None) {
            let waiting = &self.parked[identity];
            let key = waiting.key;
            match lanes.last_mut().filter(|lane| lane.key == key) {
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
        let found: Vec<Identity> =
            self.retries(partition, Some(key)).into_iter().take(self.rows_per_key).cloned().collect();
        let rest = if found.len() < self.rows_per_key { Rest::Nothing } else { Rest::More };
        let mut lane = LoadedLane { partition, key, rows: Vec::new(), rest, removed: 0 };
        for identity in found {
            if let Some(row) = self.parked_row(now, &identity) {
                lane.rows.push(row);
            } else {
                self.parked.remove(&identity);
                lane.removed += 1;
            }
        }
        Some(lane)
    }

    /// None for one that was settled otherwise.
    pub(super) fn parked_row(&self, now: Now, identity: &Identity) -> Option<ParkedRow> {
        let waiting = &self.parked[identity];
        let row = self.ledger.get(identity)?;
        let is_parked = row.state == LedgerState::Parked && row.coordinates == waiting.coordinates;
        is_parked.then(|| ParkedRow {
            identity: identity.clone(),
            record: waiting.record.clone(),
            attempts: waiting.attempts,
            starts: row.starts,
            first_failed_ago: now.saturating_sub(waiting.first_failed),
            last_failed_ago: waiting.last_failed().map(|at| now.saturating_sub(at)),
        })
    }
}
