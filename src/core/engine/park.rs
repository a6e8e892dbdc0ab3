//! Parking: retries that are far away wait in `parked_events`, and the partition moves on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::intake::ENTRY_OVERHEAD_BYTES;
use crate::core::attempts::Attempts;
use crate::core::decode::Decoded;
use crate::core::effect::{Effect, Effects, Outcome, ParkedKey, Report, Serial};
use crate::core::entry::{Blame, Burial, Entry, FailedAt, Origin, ParkingPlan, Stage};
use crate::core::event::Fingerprint;
use crate::core::failure::{LedgerFailure, Reason};
use crate::core::input::{LoadedLane, Now, ParkedRow, Rest, RowAddress, Ticket};
use crate::core::key::LaneKey;
use crate::core::parked::LastFailure;
use crate::core::record::{Partition, Session};
use crate::core::semantics::Suspicion;
use crate::core::watermark::Whereabouts;

/// Keys that are read in one statement.
const KEYS_PER_LOAD: usize = 100;
/// The part of the records that may be held which those out of the table take at most, and those of one statement.
const PARKED_SHARE: usize = 4;
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Each time is an error in the log, until an operator has mended or removed the record.
const READ_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// The reading of parked records that are due: one statement at a time.
#[derive(Debug, Default)]
pub(super) struct Loads {
    under_way: Option<Vec<(Partition, Session, LaneKey)>>,
    failures: u32,
    held_until: Option<Now>,
}

impl Loads {
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

impl Engine {
    /// Leaves the record to the table until then. Those behind it in its lane follow.
    pub(super) fn park(&mut self, ticket: Ticket, due: Now, error: String) {
        let Some(entry) = self.entries.get(&ticket) else { return };
        // A retry out of the table keeps its place: what is behind it goes back with it.
        let keeps_its_place = entry.origin == Origin::Parked;
        self.queue_parking(ticket, due, Some(error));
        if !keeps_its_place {
            self.step_out_of_lane(ticket);
        }
    }

    pub(super) fn queue_parking(&mut self, ticket: Ticket, due: Now, error: Option<String>) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        let key = match entry.origin {
            Origin::Parked | Origin::Replayed => entry.key,
            Origin::Polled { .. } => entry.lane.unwrap_or_else(|| LaneKey::of_unordered(&entry.identity)),
        };
        entry.parking = Some(ParkingPlan { key, due, error, serial: Serial(self.serial.0 + 1) });
        if let (false, Some(state)) = (entry.is_parked(), self.partitions.get_mut(&entry.record.coordinates.partition))
        {
            state.parked.joins(key);
        }
        self.set_stage(ticket, Stage::Parking);
        self.parkings.push(ticket);
    }

    pub(super) fn parked(&mut self, now: Now, parked: &[Ticket], effects: &mut Effects) {
        let parked: HashSet<Ticket> = parked.iter().copied().collect();
        for ticket in self.parkings.succeeded(None) {
            let Some(entry) = self.entries.get_mut(&ticket) else { continue };
            let Some(ParkingPlan { key, due, .. }) = entry.parking.take() else { continue };
            let (partition, origin, is_durable) = (entry.partition(), entry.origin, parked.contains(&ticket));
            let failure = entry.seen_failing_at.map(|at| LastFailure { at, blame: entry.blame });
            if entry.orphaned {
                self.end_orphan(now, ticket, is_durable, effects);
                continue;
            }
            match (origin, self.partitions.get_mut(&partition)) {
                (_, None) => {}
                // When it is not durable, it was fenced or settled by somebody else: reading it again tells.
                (Origin::Parked, Some(state)) => {
                    state.parked.note_failure(key, failure);
                    self.put_back(partition, key, if is_durable { due } else { now });
                }
                (Origin::Replayed, Some(_)) if is_durable => drop(self.forget(ticket)),
                (Origin::Replayed, Some(_)) => self.leave_replay(now, ticket, due),
                (Origin::Polled { .. }, Some(state)) if is_durable => {
                    state.parked.joined(key, due);
                    state.parked.note_failure(key, failure);
                    self.end(now, ticket, Outcome::Parked, effects);
                }
                (Origin::Polled { .. }, Some(state)) => {
                    state.parked.joins_not(key);
                    if key == entry.key {
                        entry.lane = Some(key);
                        state.rejoin_lane(key, ticket);
                    }
                    self.claim_again(ticket);
                }
            }
        }
    }

    fn end_orphan(&mut self, now: Now, ticket: Ticket, is_durable: bool, effects: &mut Effects) {
        let is_polled = self.entries.get(&ticket).is_some_and(|entry| !entry.is_parked());
        if is_durable && is_polled {
            self.end(now, ticket, Outcome::Parked, effects);
        } else {
            self.leave_to_next_owner(ticket, effects);
        }
    }

    /// What is in memory of a parked key is left to the table until then.
    pub(super) fn put_back(&mut self, partition: Partition, key: LaneKey, due: Now) {
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        for ticket in state.parked.put_back(key, due) {
            self.remove(ticket);
        }
    }

    /// When parked records are to be read, as far as nothing else is waited for.
    pub(super) fn load_at(&self) -> Option<Now> {
        if !self.may_load() {
            return None;
        }
        let (due, _) = self.first_due()?;
        Some(self.loads.held_until.map_or(due, |until| due.max(until)))
    }

    /// Memory may be full of records that wait for parked ones, replays among them: some of these are read all the same.
    fn may_load(&self) -> bool {
        let has_memory = self.entries.len() < self.config.max_records && self.bytes < self.config.max_bytes;
        self.loads.under_way.is_none()
            && !self.is_suspended
            && (has_memory || self.loaded.retries == 0)
            && self.loaded.retries <= self.config.max_records / PARKED_SHARE
    }

    /// While a delivery of an earlier session runs, it may be that of a parked record.
    pub(super) fn loadable(&self) -> impl Iterator<Item = (&Partition, &super::PartitionState)> {
        self.partitions.iter().filter(|(partition, state)| state.is_active() && !self.orphans.contains_key(*partition))
    }

    /// Of all partitions: one with many parked keys is not preferred.
    fn first_due(&self) -> Option<(Now, Partition)> {
        self.loadable().filter_map(|(partition, state)| Some((state.parked.next_due()?, *partition))).min()
    }

    pub(super) fn load_due(&mut self, now: Now, effects: &mut Effects) {
        if self.load_at().is_none_or(|at| at > now) {
            return;
        }
        self.loads.held_until = None;
        let (mut asked, mut keys) = (Vec::new(), Vec::new());
        while keys.len() < KEYS_PER_LOAD {
            let Some((_, partition)) = self.first_due().filter(|(due, _)| *due <= now) else { break };
            let Some(state) = self.partitions.get_mut(&partition) else { break };
            let Some(key) = state.parked.take_first_due() else { break };
            asked.push((partition, state.session, key));
            keys.push(ParkedKey { partition, epoch: state.epoch, key });
        }
        self.loads.under_way = Some(asked);
        effects.push(Effect::LoadParked(keys));
    }

    pub(super) fn parked_loaded(&mut self, now: Now, mut lanes: Vec<LoadedLane>, effects: &mut Effects) {
        self.loads.failures = 0;
        let mut fenced = HashSet::new();
        for (partition, session, key) in self.loads.under_way.take().unwrap_or_default() {
            let is_current = self.partitions.get(&partition).is_some_and(|state| state.session == session);
            if !is_current {
                continue;
            }
            match lanes.iter().position(|lane| (lane.partition, lane.key) == (partition, key)) {
                Some(index) => self.take_in_parked(now, lanes.swap_remove(index), effects),
                None => drop(fenced.insert(partition)),
            }
        }
        for partition in fenced {
            self.fenced(partition, effects);
        }
    }

    fn take_in_parked(&mut self, now: Now, lane: LoadedLane, effects: &mut Effects) {
        let LoadedLane { partition, key, rows, rest, removed } = lane;
        self.epoch_seen(now, partition);
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        state.parked.removed(key, removed);
        if removed > 0 {
            effects.push(Effect::Report(Report::ParkedRemoved { count: removed }));
        }
        // The row of a record that is being parked this very moment, and waits for the answer.
        let joins = |row: &ParkedRow| {
            matches!(state.watermark.locate(row.record.coordinates.offset), Whereabouts::Unfinished(_))
        };
        let known = rows.iter().take_while(|row| !joins(row)).count();
        let is_all = rest == Rest::Nothing && known == rows.len();
        let ask_again_after = if rest == Rest::Unreadable { READ_AGAIN_AFTER } else { ASK_AGAIN_AFTER };
        let epoch = state.epoch;
        let mut failure = state.parked.last_failure(key);
        let mut tickets = Vec::with_capacity(known);
        for row in rows.into_iter().take(known) {
            let ticket = Ticket(self.next_ticket);
            self.next_ticket += 1;
            let mut entry = self.parked_entry(now, ParkedKey { partition, epoch, key }, row);
            // Of the first one this session may know a later failure, which spent no attempt.
            if let Some(failure) = failure.take() {
                entry.blame = failure.blame;
                entry.failed_at = entry.failed_at.map(|failed| FailedAt { last: failure.at, ..failed });
                entry.seen_failing_at = Some(failure.at);
            }
            self.bytes += entry.bytes;
            self.loaded.records += 1;
            self.loaded.retries += 1;
            self.loaded.bytes += entry.bytes;
            self.entries.insert(ticket, Box::new(entry));
            tickets.push(ticket);
        }
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        state.claimed_before += tickets.len();
        if tickets.is_empty() && !is_all {
            // There is something that cannot be had: asking at once again cannot help.
            return state.parked.not_loaded(key, now + ask_again_after);
        }
        state.parked.loaded(key, now, tickets, is_all);
        state.forget_exhausted(key);
        if let Some(head) = state.parked.head(key) {
            self.move_head(head);
        }
    }

    pub(super) fn parked_entry(&self, now: Now, key: ParkedKey, row: ParkedRow) -> Entry {
        let ParkedRow { identity, record, attempts, starts, first_failed_ago, last_failed_ago } = row;
        let (event, burial) = match self.decode(&record) {
            Decoded::Event { event, .. } => (Some(Arc::new(event)), None),
            // It was an event when it was parked: the configuration has changed.
            Decoded::Ignored { event_type } => {
                (None, Some((Reason::Invalid, format!("the event type {event_type} is not configured any more"))))
            }
            Decoded::Poison { reason, error } => (None, Some((reason, error))),
        };
        // Before the start of the process is as good as at it.
        let first = now.saturating_sub(first_failed_ago);
        let last = last_failed_ago.map_or(now, |ago| now.saturating_sub(ago));
        let mut entry = Entry {
            epoch: key.epoch,
            origin: Origin::Parked,
            identity,
            // The ledger has had the fingerprint since the claim.
            fingerprint: event.as_ref().map_or(Fingerprint([0; 32]), |event| event.fingerprint),
            key: key.key,
            lane: None,
            event,
            stage: Stage::Claimed,
            orphaned: false,
            polled_at: now,
            bytes: record.size() + ENTRY_OVERHEAD_BYTES,
            record,
            was_claimed_before: true,
            starts,
            attempts,
            blame: if attempts > 0 { Blame::Unclear } else { Blame::None },
            failures: Attempts::default(),
            outages: 0,
            started_at: Now::ZERO,
            failed_at: (attempts > 0).then_some(FailedAt { first, last }),
            seen_failing_at: None,
            parking: None,
            burial: burial.map(|(reason, error)| Burial { reason, class: "permanent", error }),
            busy: None,
            seizure: None,
            address: RowAddress::default(),
        };
        if let Suspicion::Convicted { reason, error } = self.config.semantics.suspicion(starts) {
            entry.convict(reason, error);
        }
        entry
    }

    /// Postgres was away: the same keys are due again after a wait.
    pub(super) fn not_loaded(&mut self, now: Now, failure: LedgerFailure, effects: &mut Effects) {
        self.loads.failures = self.loads.failures.saturating_add(1);
        let wait = self.outage.wait(self.loads.failures, None, &mut self.random);
        self.loads.held_until = Some(now + wait);
        for (partition, session, key) in self.loads.under_way.take().unwrap_or_default() {
            if let Some(state) = self.partitions.get_mut(&partition).filter(|state| state.session == session) {
                state.parked.not_loaded(key, now);
            }
        }
        let (LedgerFailure::BadData(error) | LedgerFailure::Conflict(error) | LedgerFailure::Outage(error)) = failure;
        effects.push(Effect::Report(Report::LedgerHeld { wait, error }));
    }
}
