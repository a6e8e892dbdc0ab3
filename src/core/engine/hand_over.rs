//! Partitions go: revoked, lost, fenced, or at the end of the process.

use super::Engine;
use crate::core::effect::{ClaimResult, Effect, Effects, Report};
use crate::core::entry::Stage;
use crate::core::input::{Now, Ticket};
use crate::core::partition::Phase;
use crate::core::record::Partition;

impl Engine {
    pub(super) fn revoking(&mut self, partitions: &[Partition], deadline: Now) {
        for partition in partitions {
            if let Some(state) = self.partitions.get_mut(partition) {
                state.phase = Phase::Draining { deadline };
            }
        }
    }

    pub(super) fn shutdown(&mut self, deadline: Now) {
        self.is_shutting_down = true;
        let partitions: Vec<Partition> = self.partitions.keys().copied().collect();
        self.revoking(&partitions, deadline);
    }

    /// Already somebody else's: what runs is left to end, since its success is a fact, and all else is dropped.
    pub(super) fn lost(&mut self, partitions: &[Partition], effects: &mut Effects) {
        for partition in partitions {
            self.drop_session(*partition, effects);
        }
    }

    /// The ledger refused the epoch. Kafka knows better whether the partition is ours: begin afresh, if so.
    pub(super) fn fenced(&mut self, partition: Partition, effects: &mut Effects) {
        let Some(state) = self.partitions.get(&partition) else { return };
        let (session, from, epoch, phase) = (state.session, state.watermark.value(), state.epoch, state.phase);
        effects.push(Effect::Report(Report::Claimed(ClaimResult::Fenced)));
        effects.push(Effect::Report(Report::Fenced { partition, epoch }));
        self.drop_session(partition, effects);
        effects.push(match phase {
            Phase::Active => Effect::Restart { partition, session, from },
            Phase::Draining { .. } => Effect::Release { partition, session },
        });
    }

    /// Gives back what is drained, and at the deadline what is not.
    pub(super) fn release_drained(&mut self, now: Now, effects: &mut Effects) {
        let due: Vec<Partition> = self
            .partitions
            .iter()
            .filter(|(_, state)| match state.phase {
                Phase::Active => false,
                Phase::Draining { deadline } => state.is_drained() || now >= deadline,
            })
            .map(|(partition, _)| *partition)
            .collect();
        for partition in due {
            self.release(now, partition, effects);
        }
    }

    fn release(&mut self, now: Now, partition: Partition, effects: &mut Effects) {
        let Some(state) = self.partitions.get(&partition) else { return };
        let session = state.session;
        let running: Vec<Ticket> = state
            .held()
            .filter(|ticket| self.entries.get(ticket).is_some_and(|entry| entry.stage == Stage::Delivering))
            .collect();
        if !running.is_empty() {
            let count = running.len() as u64;
            effects.push(Effect::Report(Report::Aborted { partition, count }));
        }
        for ticket in running {
            effects.push(Effect::Abort(ticket));
            self.breaker.abandoned(now, ticket);
            self.set_stage(ticket, Stage::Claimed);
        }
        self.drop_session(partition, effects);
        effects.push(Effect::Release { partition, session });
    }

    /// Ends a session: what is under way becomes orphans, the next owner gets the rest.
    fn drop_session(&mut self, partition: Partition, effects: &mut Effects) {
        let Some(state) = self.partitions.remove(&partition) else { return };
        let mut count = 0;
        for ticket in state.held() {
            let Some(entry) = self.entries.get_mut(&ticket) else { continue };
            entry.orphaned = true;
            entry.lane = None;
            let is_polled = !entry.is_parked();
            *self.orphans.entry(partition).or_default() += 1;
            let is_under_way = match entry.stage {
                Stage::Delivering | Stage::Settling => true,
                Stage::Parking => self.parkings.is_under_way(ticket),
                Stage::Burying { .. } => self.burials.is_under_way(ticket),
                Stage::Gated
                | Stage::Claiming
                | Stage::Busy { .. }
                | Stage::Behind
                | Stage::Claimed
                | Stage::Yielding
                | Stage::Ready
                | Stage::Starting
                | Stage::Waiting { .. }
                | Stage::Failing { .. } => false,
            };
            if entry.stage == Stage::Starting {
                self.breaker.abandoned(self.last_input_at, ticket);
            }
            if !is_under_way {
                // What was parked is so still.
                count += u64::from(is_polled);
                self.forget(ticket);
            }
        }
        self.hand_back(partition, count, effects);
    }

    /// A delivery failed whose partition is being given back, or is gone.
    pub(super) fn leave_to_next_owner(&mut self, ticket: Ticket, effects: &mut Effects) {
        let Some(entry) = self.entries.get(&ticket) else { return };
        let (partition, is_polled) = (entry.partition(), !entry.is_parked());
        if entry.orphaned {
            self.forget(ticket);
            self.hand_back(partition, u64::from(is_polled), effects);
        } else {
            // Still counted in its session, which keeps the watermark below it until the release.
            self.set_stage(ticket, Stage::Claimed);
        }
    }

    fn hand_back(&mut self, partition: Partition, count: u64, effects: &mut Effects) {
        if count == 0 {
            return;
        }
        self.accounting.handed_back += count;
        effects.push(Effect::Report(Report::HandedBack { partition, count }));
    }
}
