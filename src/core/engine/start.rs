//! Starts that are durable before the delivery: what an owner that died had begun is then known, and what it died of.

use std::collections::{BTreeSet, HashSet};

use super::Engine;
use crate::core::effect::Effects;
use crate::core::entry::{Blame, Entry, Origin, Stage};
use crate::core::failure::FailureClass;
use crate::core::input::{Now, Ticket};
use crate::core::record::Coordinates;
use crate::core::semantics::{Semantics, Suspicion};

/// Heads of lanes that may abort the process.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    ready: BTreeSet<(u16, Coordinates, Ticket)>,
    running: Option<Ticket>,
}

impl Suspects {
    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }
}

impl Engine {
    pub(super) fn crash_loops(&self) -> usize {
        self.partitions.values().filter(|state| state.is_careful() && state.claimed_before > 0).count()
    }

    /// An owner before us had claimed it. Says whether it is given up on.
    pub(super) fn taken_over(&mut self, ticket: Ticket, starts: u16) -> bool {
        let suspicion = self.config.semantics.suspicion(starts);
        let Some(entry) = self.entries.get_mut(&ticket) else { return false };
        entry.starts = starts;
        if !std::mem::replace(&mut entry.was_claimed_before, true)
            && let Some(state) = self.partitions.get_mut(&entry.partition())
        {
            state.claimed_before += 1;
        }
        match suspicion {
            Suspicion::Convicted { reason, error } if entry.burial.is_none() => entry.convict(reason, error),
            Suspicion::Convicted { .. } | Suspicion::Suspect | Suspicion::None => return false,
        }
        true
    }

    /// Whether the ledger has to know of the delivery before it begins.
    pub(super) fn needs_start(&self, entry: &Entry) -> bool {
        match self.config.semantics {
            Semantics::AtMostOnce => true,
            Semantics::AtLeastOnce => entry.was_claimed_before && self.is_careful(entry),
        }
    }

    fn is_careful(&self, entry: &Entry) -> bool {
        self.partitions.get(&entry.partition()).is_some_and(super::PartitionState::is_careful)
    }

    pub(super) fn make_ready(&mut self, ticket: Ticket) {
        self.set_stage(ticket, Stage::Ready);
        let Some(entry) = self.entries.get(&ticket) else { return };
        match self.config.semantics.suspicion(entry.starts) {
            Suspicion::Suspect if self.is_careful(entry) => {
                self.suspects.ready.insert((entry.starts, entry.record.coordinates, ticket));
            }
            Suspicion::None | Suspicion::Suspect | Suspicion::Convicted { .. } => self.ready.push_back(ticket),
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.suspects.ready.is_empty()
    }

    /// A suspect runs alone in the process, until its end is durable: nothing else can abort it then, and nothing else is blamed
    /// when it does. Those that were started least often come first: they are settled before the one that aborts is tried again.
    pub(super) fn next_ready(&mut self) -> Option<Ticket> {
        let running = self.suspects.running.and_then(|ticket| self.entries.get(&ticket));
        if running.is_some_and(|entry| entry.stage.is_under_way()) {
            return None;
        }
        self.suspects.running = None;
        if self.suspects.ready.is_empty() {
            return self.ready.pop_front();
        }
        if self.delivering > 0 {
            return None;
        }
        self.suspects.running = self.suspects.ready.pop_first().map(|(_, _, ticket)| ticket);
        self.suspects.running
    }

    /// One that has never failed tells most about the channel: others may be to blame themselves.
    pub(super) fn next_probe(&mut self) -> Option<Ticket> {
        let has_never_failed =
            |ticket: &Ticket| self.entries.get(ticket).is_some_and(|entry| entry.blame == Blame::None);
        if let Some(place) = self.ready.iter().position(has_never_failed).filter(|place| *place > 0) {
            self.ready.swap(0, place);
        }
        self.next_ready()
    }

    pub(super) fn write_start(&mut self, ticket: Ticket) {
        self.set_stage(ticket, Stage::Starting);
        self.starts.push(ticket);
    }

    /// The attempt has ended, and may not be taken for one that did not: then the record waits.
    pub(super) fn write_failure(&mut self, ticket: Ticket, until: Now) {
        self.set_stage(ticket, Stage::Failing { until });
        self.starts.push(ticket);
    }

    pub(super) fn started(&mut self, now: Now, started: &[Ticket], effects: &mut Effects) {
        let started: HashSet<Ticket> = started.iter().copied().collect();
        for ticket in self.starts.succeeded(None) {
            let Some(entry) = self.entries.get_mut(&ticket) else { continue };
            match entry.stage {
                Stage::Starting if started.contains(&ticket) => self.start_is_durable(now, ticket, effects),
                Stage::Starting => {
                    self.breaker.abandoned(now, ticket);
                    self.ask_ledger(now, ticket, effects);
                }
                Stage::Failing { until } => {
                    entry.starts = 0;
                    self.wait_until(until, ticket);
                }
                // It was handed back and is held anew, perhaps.
                Stage::Gated
                | Stage::Claiming
                | Stage::Busy { .. }
                | Stage::Behind
                | Stage::Claimed
                | Stage::Yielding
                | Stage::Ready
                | Stage::Delivering
                | Stage::Waiting { .. }
                | Stage::Settling
                | Stage::Parking
                | Stage::Burying { .. } => {}
            }
        }
    }

    fn start_is_durable(&mut self, now: Now, ticket: Ticket, effects: &mut Effects) {
        if self.is_suspended {
            return self.unconfirmed_starts.push(ticket);
        }
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        entry.starts = entry.starts.saturating_add(1);
        let is_active = self.partitions.get(&entry.partition()).is_some_and(super::PartitionState::is_active);
        if is_active {
            return self.deliver(now, ticket, effects);
        }
        // Its partition is wanted back, and it has not begun.
        self.breaker.abandoned(now, ticket);
        self.write_failure(ticket, now);
    }

    /// The epochs were confirmed after the process stood still: what was fenced is gone, all else is asked for again.
    pub(super) fn confirm_starts(&mut self) {
        for ticket in std::mem::take(&mut self.unconfirmed_starts) {
            self.starts.push(ticket);
        }
    }

    /// The attempt failed whose partition is being given back: unless its effect is unknown, the next owner may try again.
    pub(super) fn leave_failed(&mut self, now: Now, ticket: Ticket, class: FailureClass, effects: &mut Effects) {
        let Some(entry) = self.entries.get(&ticket) else { return };
        if entry.orphaned || entry.starts == 0 || self.is_uncertain(class) {
            self.leave_to_next_owner(ticket, effects);
        } else {
            self.write_failure(ticket, now);
        }
    }

    pub(super) fn is_uncertain(&self, class: FailureClass) -> bool {
        match (self.config.semantics, class) {
            (Semantics::AtMostOnce, FailureClass::Unknown) => true,
            (Semantics::AtLeastOnce, FailureClass::Unknown)
            | (_, FailureClass::Transient { .. } | FailureClass::Permanent | FailureClass::Outage) => false,
        }
    }

    /// Fenced, or settled by somebody else: a claim, or the table of parked records, tells which, unless the session is over
    /// anyway.
    pub(super) fn ask_ledger(&mut self, now: Now, ticket: Ticket, effects: &mut Effects) {
        let Some(entry) = self.entries.get(&ticket) else { return };
        match entry.origin {
            _ if entry.orphaned => self.leave_to_next_owner(ticket, effects),
            Origin::Polled { .. } => self.claim_again(ticket),
            Origin::Parked => self.put_back(entry.partition(), entry.key, now),
            Origin::Replayed => self.leave_replay(now, ticket, now),
        }
    }
}
