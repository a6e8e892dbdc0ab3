//! The state machine: every decision about every record is made here, and nothing else is.
//!
//! Pure: the same state, time, input and seed give the same effects.

mod confirm;
mod deliver;
mod hand_over;
mod intake;
mod park;
mod pause;
mod replay;
mod settle;
mod start;
mod statements;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::batch::{BatchLimits, BatchQueue};
use super::breaker::{Breaker, BreakerConfig, BreakerState};
use super::decode::Decoder;
use super::effect::{Effect, Effects, Outcome, PauseCause, Report, Serial};
use super::entry::{Entries, Entry, Origin, Stage};
use super::evidence::Evidence;
use super::input::{Input, Now, Ticket};
use super::invariants::{self, Accounting, Violation};
use super::parked::ParkedLanes;
use super::partition::{PartitionState, Phase};
use super::record::{Epoch, Partition};
use super::retry::Schedule;
use super::semantics::Semantics;
use park::Loads;
use pause::ParkingRoom;
use start::Suspects;

/// What every record needs. While one batch is answered and what it brought is taken in, Postgres has the other to work on.
const EVERY_RECORD: BatchLimits = BatchLimits { at_once: 2, ..LEDGER_BATCH };
/// Rows of a statement that carries no payloads.
const LEDGER_BATCH: BatchLimits = BatchLimits { rows: 1_000, bytes: 16 << 20, at_once: 1 };
/// Rows and payload bytes of a statement that does.
const PAYLOAD_BATCH: BatchLimits = BatchLimits { rows: 100, bytes: 4 << 20, at_once: 1 };

/// What the engine decides by.
#[derive(Debug)]
pub struct EngineConfig {
    pub topic: Arc<str>,
    pub decoder: Decoder,
    pub semantics: Semantics,
    pub max_attempts: u32,
    /// Waits after failures that spend an attempt.
    pub retry: Schedule,
    /// A record that waits longer than this is parked.
    pub park_after: Duration,
    pub breaker: BreakerConfig,
    /// Deliveries that run at once.
    pub max_concurrent: usize,
    pub max_records: usize,
    pub max_bytes: usize,
    /// Parked records of the partitions that are held, beyond which far retries wait in memory.
    pub max_parked: u64,
    /// A gap between two inputs longer than this means that the process stood still.
    pub freeze_gap: Duration,
    pub seed: u64,
}

/// What is held at this moment, for gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub in_flight: usize,
    pub bytes: usize,
    pub delivering: usize,
    pub ready: usize,
    pub busy: usize,
    /// Partitions with records that run carefully, since owners died of one of them.
    pub crash_loops: usize,
    pub paused: Option<PauseCause>,
    /// Keys and records that are parked in the partitions that are held.
    pub parked_keys: usize,
    pub parked_rows: u64,
    pub breaker: BreakerState,
    /// Postgres was away when it was last asked.
    pub is_ledger_failing: bool,
    pub partitions: usize,
    /// Partitions that are being given back.
    pub draining: usize,
}

#[derive(Debug, Default)]
struct Loaded {
    records: usize,
    bytes: usize,
    /// Those of them that are no replays.
    retries: usize,
}

/// Polled records that are about to be parked: they leave memory as soon as they are in the table.
#[derive(Debug, Default)]
struct Leaving {
    records: usize,
    bytes: usize,
}

#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    random: fastrand::Rng,
    /// Waits while a dependency is away: short, since what is held is due at once when it is back.
    outage: Schedule,
    /// Waits for a claim that another copy holds.
    busy: Schedule,
    partitions: BTreeMap<Partition, PartitionState>,
    entries: Entries,
    /// Orphaned entries by partition: a new session of it begins its work when the last is gone.
    orphans: HashMap<Partition, usize>,
    claims: BatchQueue,
    yields: BatchQueue,
    starts: BatchQueue,
    settlements: BatchQueue,
    parkings: BatchQueue,
    burials: BatchQueue,
    loads: Loads,
    breaker: Breaker,
    evidence: Evidence,
    /// Heads of lanes that wait for a free delivery, in the order in which they became ready.
    ready: VecDeque<Ticket>,
    /// The same of those that may abort the process: each runs alone, those with the fewest starts first.
    suspects: Suspects,
    /// Starts that became durable while nothing may start.
    unconfirmed_starts: Vec<Ticket>,
    timers: BinaryHeap<Reverse<(Now, Ticket)>>,
    next_ticket: u64,
    /// Of the last statements.
    serial: Serial,
    delivering: usize,
    /// Records in memory out of `parked_events`.
    loaded: Loaded,
    leaving: Leaving,
    bytes: usize,
    busy_records: usize,
    paused: Option<PauseCause>,
    parking_room: ParkingRoom,
    is_shutting_down: bool,
    /// Until the epochs are confirmed nothing starts.
    is_suspended: bool,
    /// The epochs are being confirmed.
    is_confirming: bool,
    /// Times that the process stood still.
    freezes: u64,
    last_input_at: Now,
    accounting: Accounting,
}

impl Engine {
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        Self {
            random: fastrand::Rng::with_seed(config.seed),
            outage: Schedule::new(Duration::from_millis(200), Duration::from_secs(5)),
            busy: Schedule::new(Duration::from_millis(100), Duration::from_secs(5)),
            partitions: BTreeMap::new(),
            entries: Entries::default(),
            orphans: HashMap::new(),
            claims: BatchQueue::new(EVERY_RECORD),
            yields: BatchQueue::new(LEDGER_BATCH),
            starts: BatchQueue::new(LEDGER_BATCH),
            settlements: BatchQueue::new(EVERY_RECORD),
            parkings: BatchQueue::new(PAYLOAD_BATCH),
            burials: BatchQueue::new(PAYLOAD_BATCH),
            loads: Loads::default(),
            breaker: Breaker::new(config.breaker.clone()),
            evidence: Evidence::default(),
            ready: VecDeque::new(),
            suspects: Suspects::default(),
            unconfirmed_starts: Vec::new(),
            timers: BinaryHeap::new(),
            next_ticket: 0,
            serial: Serial::default(),
            delivering: 0,
            loaded: Loaded::default(),
            leaving: Leaving::default(),
            bytes: 0,
            busy_records: 0,
            paused: None,
            parking_room: ParkingRoom::default(),
            is_shutting_down: false,
            is_suspended: false,
            is_confirming: false,
            freezes: 0,
            last_input_at: Now::ZERO,
            accounting: Accounting::default(),
            config,
        }
    }

    /// Advances the state machine by one input.
    pub fn handle(&mut self, now: Now, input: Input, effects: &mut Effects) {
        self.notice_freeze(now, effects);
        match input {
            Input::Assigned { partition, session, start, raised, parked } => {
                let parked = ParkedLanes::new(now, parked);
                self.assigned(partition, PartitionState::new(now, session, raised, start, parked), effects);
            }
            Input::Polled { partition, session, records } => self.polled(now, partition, session, records, effects),
            Input::Claimed { serial, found } => self.claimed(now, serial, found, effects),
            Input::Yielded => self.yielded(),
            Input::Started { started } => self.started(now, &started, effects),
            Input::Settled { serial } => self.settled(now, serial, effects),
            Input::Parked { parked } => self.parked(now, &parked, effects),
            Input::ParkedLoaded { lanes } => self.parked_loaded(now, lanes, effects),
            Input::Buried { buried } => self.buried(now, &buried, effects),
            Input::ReplaysLoaded { replays } => self.replays_loaded(now, replays),
            Input::LedgerFailed { operation, failure } => self.ledger_failed(now, operation, failure, effects),
            Input::Delivered { results } => {
                for (ticket, result) in results {
                    self.delivered(now, ticket, result, effects);
                }
            }
            Input::HolderInspected { ticket, abandoned } => self.holder_inspected(ticket, abandoned),
            Input::EpochsConfirmed { freeze, epochs } => self.epochs_confirmed(now, freeze, &epochs, effects),
            Input::Revoking { partitions, deadline } => self.revoking(&partitions, deadline),
            Input::Lost { partitions } => self.lost(&partitions, effects),
            Input::Tick => {}
            Input::Shutdown { deadline } => self.shutdown(deadline),
        }
        self.fire_timers(now);
        self.wake_unblocked();
        self.start_deliveries(now, effects);
        self.send_batches(now, effects);
        self.load_due(now, effects);
        self.store_offsets(effects);
        self.release_drained(now, effects);
        self.pause_or_resume(now, effects);
        self.check(effects);
    }

    /// When `handle` must be called again though nothing else happens.
    #[must_use]
    pub fn wake_at(&self) -> Option<Now> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let drain = self.partitions.values().filter_map(|state| match state.phase {
            Phase::Draining { deadline } => Some(deadline),
            Phase::Active => None,
        });
        let batches = self.queues().map(BatchQueue::wake_at);
        // One that is due and has not begun waits for something else than time.
        let probe = self.breaker.wake_at().filter(|at| self.has_ready() && *at > self.last_input_at);
        drain
            .chain(timer)
            .chain(batches.into_iter().flatten())
            .chain(probe)
            .chain(self.load_at())
            .chain(self.overdraft_at())
            .min()
    }

    /// Nothing is held: no partition, no delivery, no settlement.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.partitions.is_empty() && self.entries.is_empty()
    }

    #[must_use]
    pub fn accounting(&self) -> Accounting {
        self.accounting
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            in_flight: self.entries.len() - self.loaded.records,
            bytes: self.bytes,
            delivering: self.delivering,
            ready: self.ready.len() + self.suspects.len(),
            busy: self.busy_records,
            crash_loops: self.crash_loops(),
            paused: self.paused,
            parked_keys: self.partitions.values().map(|state| state.parked.keys()).sum(),
            parked_rows: self.parked_rows(),
            breaker: self.breaker.state(),
            is_ledger_failing: self.is_ledger_failing(),
            partitions: self.partitions.len(),
            draining: self.partitions.values().filter(|state| !state.is_active()).count(),
        }
    }

    /// The partitions that are held, with the epochs they were raised to.
    pub fn epochs(&self) -> impl Iterator<Item = (Partition, Epoch)> {
        self.partitions.iter().map(|(partition, state)| (*partition, state.epoch))
    }

    /// What was started, or is about to be, and has no durable end; and whether it may have had its effect.
    #[cfg(test)]
    fn under_way(&self) -> impl Iterator<Item = (super::record::Coordinates, super::event::Identity, bool)> {
        let entries = self.entries.values().filter(|entry| entry.stage.is_under_way());
        entries.map(|entry| {
            let is_unsettled = matches!(entry.stage, Stage::Starting | Stage::Delivering | Stage::Settling);
            (entry.record.coordinates, entry.identity.clone(), is_unsettled)
        })
    }

    /// The record has custody elsewhere.
    fn end(&mut self, now: Now, ticket: Ticket, outcome: Outcome, effects: &mut Effects) {
        let Some(entry) = self.forget(ticket) else { return };
        let (record, duration) = (entry.name(ticket), now.saturating_sub(entry.polled_at));
        effects.push(Effect::Report(match entry.origin {
            Origin::Polled { .. } => {
                self.count(outcome);
                Report::Ended { record, outcome, duration }
            }
            Origin::Parked => {
                self.accounting.parked_settled += 1;
                Report::ParkedEnded { record, outcome, duration }
            }
            Origin::Replayed => Report::ReplayEnded { record, outcome, duration },
        }));
    }

    fn count(&mut self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Notified => &mut self.accounting.notified,
            Outcome::Duplicate => &mut self.accounting.duplicate,
            Outcome::Ignored => &mut self.accounting.ignored,
            Outcome::Parked => &mut self.accounting.parked,
            Outcome::DeadLettered => &mut self.accounting.dead_lettered,
        };
        *counter += 1;
    }

    /// Takes a record out of everything that knows it: the watermark moves past it, its lane goes on.
    fn forget(&mut self, ticket: Ticket) -> Option<Box<Entry>> {
        let entry = self.remove(ticket)?;
        let partition = entry.partition();
        if entry.orphaned {
            self.orphan_gone(partition);
            return Some(entry);
        }
        let Some(state) = self.partitions.get_mut(&partition) else { return Some(entry) };
        let head = match entry.origin {
            Origin::Polled { sequence } => {
                state.watermark.end(sequence);
                entry.lane.and_then(|lane| state.leave_lane(lane, ticket))
            }
            Origin::Parked => state.parked.ended(entry.key, ticket),
            Origin::Replayed => {
                state.replayed.remove(&entry.record.coordinates.offset);
                entry.lane.and_then(|lane| state.leave_lane(lane, ticket))
            }
        };
        state.forget_exhausted(entry.key);
        if let Some(head) = head {
            self.move_head(head);
        }
        Some(entry)
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Box<Entry>> {
        self.set_stage(ticket, Stage::Claimed);
        let entry = self.entries.remove(&ticket)?;
        self.bytes -= entry.bytes;
        self.loaded.records -= usize::from(entry.is_parked());
        self.loaded.bytes -= if entry.is_parked() { entry.bytes } else { 0 };
        self.loaded.retries -= usize::from(entry.origin == Origin::Parked);
        if let (true, false, Some(state)) =
            (entry.was_claimed_before, entry.orphaned, self.partitions.get_mut(&entry.partition()))
        {
            state.claimed_before -= 1;
        }
        Some(entry)
    }

    /// The one place where a stage changes, so that what is counted by stage cannot drift.
    fn set_stage(&mut self, ticket: Ticket, stage: Stage) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        let before = std::mem::replace(&mut entry.stage, stage);
        let is_busy = |stage| matches!(stage, Stage::Busy { .. });
        let is_settling =
            |stage| matches!(stage, Stage::Failing { .. } | Stage::Settling | Stage::Parking | Stage::Burying { .. });
        let is_delivering = |stage| matches!(stage, Stage::Starting | Stage::Delivering);
        let adjust = |count: &mut usize, was: bool, is: bool| {
            *count = *count + usize::from(is) - usize::from(was);
        };
        adjust(&mut self.busy_records, is_busy(before), is_busy(stage));
        adjust(&mut self.delivering, is_delivering(before), is_delivering(stage));
        let is_leaving = |stage| stage == Stage::Parking && matches!(entry.origin, Origin::Polled { .. });
        let bytes_of = |is_leaving: bool| if is_leaving { entry.bytes } else { 0 };
        adjust(&mut self.leaving.records, is_leaving(before), is_leaving(stage));
        self.leaving.bytes = self.leaving.bytes + bytes_of(is_leaving(stage)) - bytes_of(is_leaving(before));
        if entry.orphaned {
            return;
        }
        if let Some(state) = self.partitions.get_mut(&entry.record.coordinates.partition) {
            adjust(&mut state.delivering, is_delivering(before), is_delivering(stage));
            adjust(&mut state.settling, is_settling(before), is_settling(stage));
        }
    }

    fn fire_timers(&mut self, now: Now) {
        while let Some(Reverse((at, ticket))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let stage = self.entries.get(&ticket).map(|entry| entry.stage);
            match stage {
                Some(Stage::Waiting { until }) if until == at => self.make_ready(ticket),
                Some(Stage::Busy { until }) if until == at => self.claim_again(ticket),
                // The record went on without its timer.
                _ => {}
            }
        }
    }

    fn store_offsets(&mut self, effects: &mut Effects) {
        let mut violations = Vec::new();
        for (partition, state) in &mut self.partitions {
            let offset = state.watermark.value();
            if offset == state.stored {
                continue;
            }
            let lowest = state
                .watermark
                .unfinished()
                .filter_map(|ticket| self.entries.get(&ticket))
                .map(|entry| entry.record.coordinates.offset)
                .next();
            violations.extend(invariants::stored_offset(state.stored, offset, lowest).err());
            state.stored = offset;
            effects.push(Effect::StoreOffset { partition: *partition, session: state.session, offset });
        }
        report_all(violations, effects);
    }

    fn check(&self, effects: &mut Effects) {
        let in_flight = (self.entries.len() - self.loaded.records) as u64;
        let found =
            [invariants::closes(&self.accounting, in_flight), invariants::memory(self.bytes, self.entries.len())];
        report_all(found.into_iter().filter_map(Result::err), effects);
    }
}

fn report_all(violations: impl IntoIterator<Item = Violation>, effects: &mut Effects) {
    effects.extend(violations.into_iter().map(|violation| {
        Effect::Report(Report::InvariantViolated { invariant: violation.invariant.as_str(), detail: violation.detail })
    }));
}
