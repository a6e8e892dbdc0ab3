//! The state machine: every decision about every record is made here, and nothing else is.
//!
//! Pure: the same state, time, input and seed give the same effects.

mod deliver;
mod hand_over;
mod intake;
mod settle;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::batch::{BatchLimits, BatchQueue};
use super::decode::Decoder;
use super::effect::{Effect, Effects, Outcome, Report};
use super::entry::{Entry, Stage};
use super::input::{Holder, Input, Now, Operation, Ticket};
use super::invariants::{self, Accounting, Violation};
use super::partition::{PartitionState, Phase};
use super::record::{Epoch, Partition};
use super::retry::Schedule;

/// Rows of a statement that carries no payloads.
const LEDGER_BATCH: BatchLimits = BatchLimits { rows: 1_000, bytes: 16 << 20 };
/// Rows and payload bytes of a statement that does.
const PAYLOAD_BATCH: BatchLimits = BatchLimits { rows: 100, bytes: 4 << 20 };

/// Ended records that a watermark may remember behind an unfinished one, for each record that may be held. They cost 24 bytes.
const REMEMBERED_PER_RECORD: usize = 50;

/// What the engine decides by.
#[derive(Debug)]
pub struct EngineConfig {
    pub topic: Arc<str>,
    pub decoder: Decoder,
    pub max_attempts: u32,
    /// Waits after failures that spend an attempt.
    pub retry: Schedule,
    /// Deliveries that run at once.
    pub max_concurrent: usize,
    pub max_records: usize,
    pub max_bytes: usize,
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
    pub claiming: usize,
    pub settling: usize,
    pub burying: usize,
    pub is_paused: bool,
    pub partitions: usize,
    /// Partitions that are being given back.
    pub draining: usize,
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
    entries: HashMap<Ticket, Entry>,
    /// Orphaned entries by partition: a new session of it begins its work when the last is gone.
    orphans: HashMap<Partition, usize>,
    claims: BatchQueue,
    settlements: BatchQueue,
    burials: BatchQueue,
    /// Heads of lanes that wait for a free delivery, in the order in which they became ready.
    ready: VecDeque<Ticket>,
    timers: BinaryHeap<Reverse<(Now, Ticket)>>,
    next_ticket: u64,
    delivering: usize,
    bytes: usize,
    busy_records: usize,
    is_paused: bool,
    is_shutting_down: bool,
    /// Until the epochs are confirmed nothing starts.
    is_suspended: bool,
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
            entries: HashMap::new(),
            orphans: HashMap::new(),
            claims: BatchQueue::new(LEDGER_BATCH),
            settlements: BatchQueue::new(LEDGER_BATCH),
            burials: BatchQueue::new(PAYLOAD_BATCH),
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            next_ticket: 0,
            delivering: 0,
            bytes: 0,
            busy_records: 0,
            is_paused: false,
            is_shutting_down: false,
            is_suspended: false,
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
            Input::Assigned { partition, session, epoch, start } => {
                self.assigned(partition, PartitionState::new(session, epoch, start), effects);
            }
            Input::Polled { partition, session, records } => self.polled(now, partition, session, records, effects),
            Input::Claimed { found } => self.claimed(now, found, effects),
            Input::Settled => self.settled(now, effects),
            Input::Buried { buried } => self.buried(now, &buried, effects),
            Input::LedgerFailed { operation, failure } => self.ledger_failed(now, operation, failure, effects),
            Input::Delivered { results } => {
                for (ticket, result) in results {
                    self.delivered(now, ticket, result, effects);
                }
            }
            Input::HolderInspected { ticket, abandoned } => self.holder_inspected(ticket, abandoned),
            Input::EpochsConfirmed { freeze, epochs } => self.epochs_confirmed(freeze, &epochs, effects),
            Input::Revoking { partitions, deadline } => self.revoking(&partitions, deadline),
            Input::Lost { partitions } => self.lost(&partitions, effects),
            Input::Tick => {}
            Input::Shutdown { deadline } => self.shutdown(deadline),
        }
        self.fire_timers(now);
        self.start_deliveries(effects);
        self.send_batches(now, effects);
        self.store_offsets(effects);
        self.release_drained(now, effects);
        self.balance_memory(effects);
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
        let batches = [&self.claims, &self.settlements, &self.burials].map(BatchQueue::wake_at);
        drain.chain(timer).chain(batches.into_iter().flatten()).min()
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
            in_flight: self.entries.len(),
            bytes: self.bytes,
            delivering: self.delivering,
            ready: self.ready.len(),
            busy: self.busy_records,
            claiming: self.claims.len(),
            settling: self.settlements.len(),
            burying: self.burials.len(),
            is_paused: self.is_paused,
            partitions: self.partitions.len(),
            draining: self.partitions.values().filter(|state| !state.is_active()).count(),
        }
    }

    /// The partitions that are held, with the epochs they were raised to.
    pub fn epochs(&self) -> impl Iterator<Item = (Partition, Epoch)> {
        self.partitions.iter().map(|(partition, state)| (*partition, state.epoch))
    }

    /// Whose notification may have had its effect without being settled.
    #[cfg(test)]
    fn unsettled_identities(&self) -> impl Iterator<Item = crate::core::event::Identity> {
        self.entries
            .values()
            .filter(|entry| matches!(entry.stage, Stage::Delivering | Stage::Settling))
            .map(|entry| entry.identity.clone())
    }

    /// The record has custody elsewhere.
    fn end(&mut self, now: Now, ticket: Ticket, outcome: Outcome, effects: &mut Effects) {
        let Some(entry) = self.forget(ticket) else { return };
        self.count(outcome);
        effects.push(Effect::Report(Report::Ended {
            outcome,
            coordinates: entry.record.coordinates,
            timestamp: entry.record.timestamp,
            duration: now.saturating_sub(entry.polled_at),
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

    /// Takes a record out of everything that knows it, and moves the watermark past it.
    fn forget(&mut self, ticket: Ticket) -> Option<Entry> {
        self.set_stage(ticket, Stage::Claimed);
        let entry = self.entries.remove(&ticket)?;
        self.bytes -= entry.bytes;
        let partition = entry.partition();
        if entry.orphaned {
            self.orphan_gone(partition);
        } else if let Some(state) = self.partitions.get_mut(&partition) {
            state.watermark.end(entry.sequence);
            self.leave_lane(ticket, &entry);
        }
        Some(entry)
    }

    /// The one place where a stage changes, so that what is counted by stage cannot drift.
    fn set_stage(&mut self, ticket: Ticket, stage: Stage) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        let before = std::mem::replace(&mut entry.stage, stage);
        let is_busy = |stage| matches!(stage, Stage::Busy { .. });
        let is_settling = |stage| matches!(stage, Stage::Settling | Stage::Burying);
        let is_delivering = |stage| stage == Stage::Delivering;
        let adjust = |count: &mut usize, was: bool, is: bool| {
            *count = *count + usize::from(is) - usize::from(was);
        };
        adjust(&mut self.busy_records, is_busy(before), is_busy(stage));
        adjust(&mut self.delivering, is_delivering(before), is_delivering(stage));
        if entry.orphaned {
            return;
        }
        if let Some(state) = self.partitions.get_mut(&entry.record.coordinates.partition) {
            adjust(&mut state.delivering, is_delivering(before), is_delivering(stage));
            adjust(&mut state.settling, is_settling(before), is_settling(stage));
        }
    }

    fn queue(&mut self, operation: Operation) -> &mut BatchQueue {
        match operation {
            Operation::Claim => &mut self.claims,
            Operation::Done => &mut self.settlements,
            Operation::Dead => &mut self.burials,
        }
    }

    fn holder(&self, entry: &Entry) -> Holder {
        Holder { topic: self.config.topic.clone(), coordinates: entry.record.coordinates }
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

    /// Pauses at the limits and resumes at half of them: each pause throws prefetched records away.
    fn balance_memory(&mut self, effects: &mut Effects) {
        let remembered: usize = self.partitions.values().map(|state| state.watermark.len()).sum();
        let is_within = |part: usize| {
            self.entries.len() <= self.config.max_records / part
                && self.bytes <= self.config.max_bytes / part
                && remembered <= self.config.max_records * REMEMBERED_PER_RECORD / part
        };
        if !self.is_paused && !is_within(1) {
            self.is_paused = true;
            effects.push(Effect::Pause);
        } else if self.is_paused && is_within(2) {
            self.is_paused = false;
            effects.push(Effect::Resume);
        }
    }

    fn check(&self, effects: &mut Effects) {
        let in_flight = self.entries.len() as u64;
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
