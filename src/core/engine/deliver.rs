//! Lanes, deliveries, and what their answers mean.

use std::cmp::Reverse;

use super::Engine;
use crate::core::effect::{Delivery, Effect, Effects, Report};
use crate::core::entry::{Burial, Entry, Stage};
use crate::core::failure::{DeliveryFailure, FailureClass, Reason};
use crate::core::input::{Now, Ticket};
use crate::core::invariants;

impl Engine {
    /// The claim is ours: the record is delivered when it is the first of its lane.
    pub(super) fn take_place(&mut self, ticket: Ticket) {
        self.set_stage(ticket, Stage::Claimed);
        if self.is_head_of_lane(ticket) {
            self.make_ready(ticket);
        }
    }

    /// Whether nothing of the same lane comes before it.
    pub(super) fn is_head_of_lane(&self, ticket: Ticket) -> bool {
        let Some(entry) = self.entries.get(&ticket) else { return false };
        let Some(state) = self.partitions.get(&entry.partition()) else { return false };
        entry.lane.is_none_or(|lane| state.is_head(lane, ticket))
    }

    fn move_head(&mut self, head: Ticket) {
        match self.entries.get(&head).map(|entry| entry.stage) {
            Some(Stage::Claimed) => self.make_ready(head),
            // The copy that held the claim stood before it in the lane, perhaps: ask again at once.
            Some(Stage::Busy { .. } | Stage::Behind) => self.claim_again(head),
            _ => {}
        }
    }

    pub(super) fn make_ready(&mut self, ticket: Ticket) {
        self.set_stage(ticket, Stage::Ready);
        self.ready.push_back(ticket);
    }

    /// The lane goes on without this record.
    pub(super) fn step_out_of_lane(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        let Some(lane) = entry.lane.take().filter(|_| !entry.orphaned) else { return };
        let Some(state) = self.partitions.get_mut(&entry.record.coordinates.partition) else { return };
        if let Some(head) = state.leave_lane(lane, ticket) {
            self.move_head(head);
        }
    }

    pub(super) fn leave_lane(&mut self, ticket: Ticket, entry: &Entry) {
        let (Some(lane), Some(state)) = (entry.lane, self.partitions.get_mut(&entry.partition())) else { return };
        if let Some(head) = state.leave_lane(lane, ticket) {
            self.move_head(head);
        }
    }

    pub(super) fn start_deliveries(&mut self, effects: &mut Effects) {
        while self.delivering < self.config.max_concurrent && !self.is_suspended {
            let Some(ticket) = self.ready.pop_front() else { return };
            self.start_delivery(ticket, effects);
        }
    }

    fn start_delivery(&mut self, ticket: Ticket, effects: &mut Effects) {
        let Some(entry) = self.entries.get(&ticket).filter(|entry| entry.stage == Stage::Ready) else { return };
        let Some(event) = entry.event.clone() else { return };
        let Some(state) = self.partitions.get(&entry.partition()) else { return };
        if !state.is_active() {
            return;
        }
        let coordinates = entry.record.coordinates;
        let attempt = entry.attempts + 1;
        let found = [
            invariants::one_at_a_time(self.is_head_of_lane(ticket), || {
                format!("{coordinates:?} is not the head of its lane")
            }),
            invariants::owned(!entry.orphaned, || format!("{coordinates:?} belongs to a session that is over")),
        ];
        super::report_all(found.into_iter().filter_map(Result::err), effects);
        self.set_stage(ticket, Stage::Delivering);
        effects.push(Effect::Deliver(Delivery { ticket, attempt, coordinates, event }));
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
        match result {
            // A fact, whoever owns the partition by now.
            Ok(()) => {
                self.set_stage(ticket, Stage::Settling);
                self.settlements.push(ticket);
                self.step_out_of_lane(ticket);
            }
            Err(failure) if is_ours => self.failed(now, ticket, failure, effects),
            Err(_) => self.leave_to_next_owner(ticket, effects),
        }
    }

    fn failed(&mut self, now: Now, ticket: Ticket, failure: DeliveryFailure, effects: &mut Effects) {
        let DeliveryFailure { class, error } = failure;
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        entry.note_failure(now);
        let retry_after = match class {
            FailureClass::Outage => return self.hold_delivery(now, ticket, error, effects),
            FailureClass::Permanent => {
                entry.attempts += 1;
                let class = class.as_str();
                return self.bury(ticket, Burial { reason: Reason::Permanent, class, error });
            }
            FailureClass::Transient { retry_after } => retry_after,
            FailureClass::Unknown => None,
        };
        entry.outages = 0;
        entry.attempts += 1;
        let attempt = entry.attempts;
        let (coordinates, order_id) = (entry.record.coordinates, entry.identity.order_id.clone());
        if attempt >= self.config.max_attempts {
            let class = class.as_str();
            return self.bury(ticket, Burial { reason: Reason::Exhausted, class, error });
        }
        let wait = self.config.retry.wait(attempt, retry_after, &mut self.random);
        self.try_again_at(now + wait, ticket);
        effects.push(Effect::Report(Report::RetryScheduled { coordinates, order_id, attempt, wait, error }));
    }

    /// Nothing is wrong with the record: it keeps its place and its attempts.
    fn hold_delivery(&mut self, now: Now, ticket: Ticket, error: String, effects: &mut Effects) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        entry.outages = entry.outages.saturating_add(1);
        let (coordinates, order_id) = (entry.record.coordinates, entry.identity.order_id.clone());
        let wait = self.outage.wait(entry.outages, None, &mut self.random);
        self.try_again_at(now + wait, ticket);
        effects.push(Effect::Report(Report::DeliveryHeld { coordinates, order_id, wait, error }));
    }

    fn try_again_at(&mut self, until: Now, ticket: Ticket) {
        self.set_stage(ticket, Stage::Waiting { until });
        self.timers.push(Reverse((until, ticket)));
    }
}
