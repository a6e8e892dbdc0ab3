//! Lanes, deliveries, and what their answers mean.

use std::cmp::Reverse;

use super::Engine;
use crate::core::breaker::{Answer, Change, Permit};
use crate::core::effect::{Delivery, Effect, Effects, Report, WaitingPlace};
use crate::core::entry::{Blame, Burial, Origin, Stage};
use crate::core::failure::{DeliveryFailure, FailureClass, Reason};
use crate::core::input::{Now, Ticket};
use crate::core::invariants;

/// An attempt that failed, with what is needed to decide what comes next.
struct Failed {
    ticket: Ticket,
    failure: DeliveryFailure,
    /// When it failed before in this session, or else when this attempt began: what the channel did since then tells whether it is
    /// to blame.
    since: Now,
    /// It was to find out whether the channel is back.
    was_probe: bool,
}

impl Engine {
    /// The claim is ours: the record is delivered when it is the first of its lane.
    pub(super) fn take_place(&mut self, ticket: Ticket) {
        self.set_stage(ticket, Stage::Claimed);
        if self.is_head_of_lane(ticket) {
            self.move_head(ticket);
        }
    }

    /// Whether nothing of the same lane comes before it.
    pub(super) fn is_head_of_lane(&self, ticket: Ticket) -> bool {
        let Some(entry) = self.entries.get(&ticket) else { return false };
        let Some(state) = self.partitions.get(&entry.partition()) else { return false };
        match entry.origin {
            Origin::Polled { .. } | Origin::Replayed => entry.lane.is_none_or(|lane| state.is_head(lane, ticket)),
            Origin::Parked => state.parked.head(entry.key) == Some(ticket),
        }
    }

    /// The first of a lane goes on. Behind parked records of its key it is parked, and the next one is the first.
    pub(super) fn move_head(&mut self, head: Ticket) {
        let mut next = Some(head);
        while let Some(ticket) = next.take() {
            match self.entries.get(&ticket).map(|entry| entry.stage) {
                Some(Stage::Claimed) if self.is_behind_parked(ticket) => {
                    if !self.may_park_behind(ticket) {
                        return;
                    }
                    self.queue_parking(ticket, Now::ZERO, None);
                    next = self.take_out_of_lane(ticket);
                }
                Some(Stage::Claimed) if self.is_given_up(ticket) => self.queue_burial(ticket),
                Some(Stage::Claimed) => self.make_ready(ticket),
                // The copy that held the claim stood before it in the lane, perhaps: ask again at once.
                Some(Stage::Busy { .. } | Stage::Behind) => self.claim_again(ticket),
                // It goes on when what is under way was answered, or its time has come.
                Some(
                    Stage::Gated
                    | Stage::Claiming
                    | Stage::Yielding
                    | Stage::Ready
                    | Stage::Starting
                    | Stage::Delivering
                    | Stage::Failing { .. }
                    | Stage::Waiting { .. }
                    | Stage::Settling
                    | Stage::Parking
                    | Stage::Burying { .. },
                )
                | None => {}
            }
        }
    }

    fn is_given_up(&self, ticket: Ticket) -> bool {
        self.entries.get(&ticket).is_some_and(|entry| entry.burial.is_some())
    }

    fn is_behind_parked(&self, ticket: Ticket) -> bool {
        let Some(entry) = self.entries.get(&ticket) else { return false };
        let Some(state) = self.partitions.get(&entry.partition()) else { return false };
        state.is_active() && entry.lane.is_some_and(|lane| state.parked.is_blocked(lane))
    }

    /// Otherwise it waits in memory until what is parked of its key has ended.
    fn may_park_behind(&self, ticket: Ticket) -> bool {
        self.entries.get(&ticket).is_some_and(|entry| self.may_park(entry.origin))
    }

    /// The lane goes on without this record.
    pub(super) fn step_out_of_lane(&mut self, ticket: Ticket) {
        if let Some(head) = self.take_out_of_lane(ticket) {
            self.move_head(head);
        }
    }

    /// Gives the one that comes next.
    fn take_out_of_lane(&mut self, ticket: Ticket) -> Option<Ticket> {
        let entry = self.entries.get_mut(&ticket).filter(|entry| !entry.orphaned)?;
        let state = self.partitions.get_mut(&entry.record.coordinates.partition)?;
        match entry.origin {
            Origin::Polled { .. } | Origin::Replayed => state.leave_lane(entry.lane.take()?, ticket),
            Origin::Parked => state.parked.pass(entry.key, ticket),
        }
    }

    pub(super) fn start_deliveries(&mut self, now: Now, effects: &mut Effects) {
        while self.delivering < self.config.max_concurrent && !self.is_suspended {
            let next = match self.breaker.permit(now) {
                Permit::Nothing => return,
                Permit::OneProbe => self.next_probe(),
                Permit::Everything => self.next_ready(),
            };
            let Some(ticket) = next else { return };
            self.start_delivery(now, ticket, effects);
        }
    }

    fn start_delivery(&mut self, now: Now, ticket: Ticket, effects: &mut Effects) {
        let Some(entry) = self.entries.get(&ticket).filter(|entry| entry.stage == Stage::Ready) else { return };
        let partition = entry.partition();
        if !self.partitions.get(&partition).is_some_and(super::PartitionState::is_active) {
            return;
        }
        if self.needs_start(entry) {
            self.breaker.started(ticket);
            self.write_start(ticket);
        } else if self.may_begin(now, partition, effects) {
            self.breaker.started(ticket);
            self.deliver(now, ticket, effects);
        } else {
            self.ready.push_front(ticket);
        }
    }

    pub(super) fn deliver(&mut self, now: Now, ticket: Ticket, effects: &mut Effects) {
        let is_head = self.is_head_of_lane(ticket) && !self.is_behind_parked(ticket);
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        let Some(event) = entry.event.clone() else { return };
        entry.started_at = now;
        let coordinates = entry.record.coordinates;
        let attempt = entry.attempts + 1;
        let found = [
            invariants::one_at_a_time(is_head, || format!("{coordinates:?} is not the head of its lane")),
            invariants::owned(!entry.orphaned, || format!("{coordinates:?} belongs to a session that is over")),
        ];
        super::report_all(found.into_iter().filter_map(Result::err), effects);
        self.set_stage(ticket, Stage::Delivering);
        effects.push(Effect::Deliver(Delivery { ticket, attempt, coordinates, trace: event.trace, event }));
    }

    pub(super) fn delivered(
        &mut self,
        now: Now,
        ticket: Ticket,
        result: Result<(), DeliveryFailure>,
        effects: &mut Effects,
    ) {
        // Aborted: nobody waits for the answer.
        let Some(entry) = self.entries.get(&ticket).filter(|entry| entry.stage == Stage::Delivering) else { return };
        let is_ours =
            !entry.orphaned && self.partitions.get(&entry.partition()).is_some_and(super::PartitionState::is_active);
        let was_probe = self.breaker.is_probe(ticket);
        let since = entry.seen_failing_at.unwrap_or(entry.started_at);
        self.note_blame(ticket, &result);
        self.learn(now, ticket, &result, effects);
        match result {
            // A fact, whoever owns the partition by now.
            Ok(()) => {
                self.set_stage(ticket, Stage::Settling);
                self.settlements.push(ticket);
                self.step_out_of_lane(ticket);
            }
            Err(failure) if is_ours => self.failed(now, Failed { ticket, failure, since, was_probe }, effects),
            Err(failure) => self.leave_failed(now, ticket, failure.class, effects),
        }
    }

    /// What the answer says about the record, by what the channel did for others since it last failed.
    fn note_blame(&mut self, ticket: Ticket, result: &Result<(), DeliveryFailure>) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        match result.as_ref().map_err(|failure| failure.class) {
            Ok(()) | Err(FailureClass::Permanent | FailureClass::Outage) => {}
            Err(FailureClass::Transient { .. } | FailureClass::Unknown) => {
                let works_for_others =
                    entry.seen_failing_at.is_some_and(|at| self.evidence.works_for_others(entry.key, at));
                entry.blame = match entry.blame {
                    Blame::Unclear if works_for_others => Blame::Known,
                    Blame::None => Blame::Unclear,
                    known => known,
                };
            }
        }
    }

    /// What the answer says about the channel, whatever it means for the record.
    fn learn(&mut self, now: Now, ticket: Ticket, result: &Result<(), DeliveryFailure>, effects: &mut Effects) {
        let Some(entry) = self.entries.get(&ticket) else { return };
        let key = entry.key;
        let answer = match result.as_ref().map_err(|failure| failure.class) {
            Ok(()) | Err(FailureClass::Permanent) => Answer::Works,
            Err(FailureClass::Transient { .. } | FailureClass::Unknown) => match entry.blame {
                Blame::Known => Answer::FailsAsEver,
                Blame::None | Blame::Unclear => Answer::Fails,
            },
            Err(FailureClass::Outage) => Answer::Away,
        };
        if result.is_ok() {
            self.evidence.succeeded(key, now);
            if let Some(state) = self.partitions.get_mut(&entry.partition()) {
                state.note_success(key);
            }
        }
        match self.breaker.answered(now, (ticket, key), answer, &mut self.random) {
            Some(Change::Opened) => {
                let error = result.as_ref().err().map(|failure| failure.error.clone()).unwrap_or_default();
                effects.push(Effect::Report(Report::BreakerOpened { error }));
            }
            Some(Change::Closed) => effects.push(Effect::Report(Report::BreakerClosed)),
            None => {}
        }
    }

    fn failed(&mut self, now: Now, failed: Failed, effects: &mut Effects) {
        let Failed { ticket, failure: DeliveryFailure { class, error }, since, was_probe } = failed;
        let is_uncertain = self.is_uncertain(class);
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        entry.note_failure(now);
        let retry_after = match class {
            FailureClass::Outage => return self.hold_delivery(now, ticket, error, effects),
            FailureClass::Permanent => {
                let class = class.as_str();
                entry.spend_attempt(now, class, &error);
                return self.bury(ticket, Burial { reason: Reason::Permanent, class, error });
            }
            FailureClass::Unknown if is_uncertain => {
                let class = class.as_str();
                entry.spend_attempt(now, class, &error);
                return self.bury(ticket, Burial { reason: Reason::Uncertain, class, error });
            }
            FailureClass::Transient { retry_after } => retry_after,
            FailureClass::Unknown => None,
        };
        entry.outages = 0;
        // Of a probe the channel is known to be away: its answer blames no record.
        if !was_probe {
            entry.spend_attempt(now, class.as_str(), &error);
        }
        let attempt = entry.attempts;
        let record = entry.name(ticket);
        // What a replay gives another try blocks nobody meanwhile.
        let origin = entry.origin;
        let is_exhausted = self.has_spent_its_attempts(ticket);
        if is_exhausted && self.is_to_blame(ticket, since) {
            self.note_exhausted(ticket);
            let class = class.as_str();
            return self.bury(ticket, Burial { reason: Reason::Exhausted, class, error });
        }
        if is_exhausted {
            effects.push(Effect::Report(Report::ExhaustedWithoutEvidence { record: record.clone() }));
        }
        let wait = self.config.retry.wait(attempt, retry_after, &mut self.random);
        // Without evidence no try is due before the channel had time to show that it works.
        let wait = if is_exhausted { wait.max(self.config.retry.bound(attempt)) } else { wait };
        let is_far_away = is_exhausted || was_probe || origin == Origin::Replayed || wait > self.config.park_after;
        let place = if is_far_away && self.may_park(origin) { WaitingPlace::Parked } else { WaitingPlace::Lane };
        let report = Report::RetryScheduled { record, attempt, wait, place, error: error.clone() };
        effects.push(Effect::Report(report));
        match place {
            WaitingPlace::Lane => self.try_again_at(now + wait, ticket),
            WaitingPlace::Parked => self.park(ticket, now + wait, error),
        }
    }

    /// Behind a record that was exhausted, those of its key get one attempt each: a dead key drains instead of clogging.
    fn has_spent_its_attempts(&self, ticket: Ticket) -> bool {
        let Some(entry) = self.entries.get(&ticket) else { return false };
        let follows_exhausted =
            || self.partitions.get(&entry.partition()).is_some_and(|state| state.is_exhausted(entry.key));
        entry.attempts >= self.config.max_attempts || follows_exhausted()
    }

    /// Evidence: the channel worked for others between the last two failures of this one. What it did before them says nothing
    /// about an outage that began meanwhile.
    fn is_to_blame(&self, ticket: Ticket, since: Now) -> bool {
        self.entries.get(&ticket).is_some_and(|entry| self.evidence.works_for_others(entry.key, since))
    }

    fn note_exhausted(&mut self, ticket: Ticket) {
        // No order comes behind a replayed record.
        let Some(entry) = self.entries.get(&ticket).filter(|entry| entry.origin != Origin::Replayed) else { return };
        if let Some(state) = self.partitions.get_mut(&entry.partition()) {
            state.note_exhausted(entry.key);
        }
    }

    /// Nothing is wrong with the record: it keeps its place and its attempts.
    fn hold_delivery(&mut self, now: Now, ticket: Ticket, error: String, effects: &mut Effects) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        entry.outages = entry.outages.saturating_add(1);
        let record = entry.name(ticket);
        let wait = self.outage.wait(entry.outages, None, &mut self.random);
        self.try_again_at(now + wait, ticket);
        effects.push(Effect::Report(Report::DeliveryHeld { record, wait, error }));
    }

    fn try_again_at(&mut self, until: Now, ticket: Ticket) {
        if self.entries.get(&ticket).is_some_and(|entry| entry.starts > 0) {
            self.write_failure(ticket, until);
        } else {
            self.wait_until(until, ticket);
        }
    }

    pub(super) fn wait_until(&mut self, until: Now, ticket: Ticket) {
        self.set_stage(ticket, Stage::Waiting { until });
        self.timers.push(Reverse((until, ticket)));
    }
}
