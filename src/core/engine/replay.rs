//! Replayed records: out of `parked_events` like retries, but each for itself. They join the lane of their key behind what is in
//! memory, so that no two of a key run at once, and they block nothing that comes later but while they are delivered: the order
//! they were given up from is gone. One that fails goes back to the table.

use std::time::Duration;

use super::Engine;
use crate::core::breaker::BreakerState;
use crate::core::effect::ParkedKey;
use crate::core::entry::{Burial, Origin};
use crate::core::failure::Reason;
use crate::core::input::{Now, ReplayRow, Ticket};
use crate::core::record::{Coordinates, Epoch, Partition};
use crate::core::watermark::Whereabouts;

/// Replayed records in memory.
const MAX_REPLAYED: usize = 200;
/// The table may have it as due still, and without the attempt that was just made.
const AFTER_REFUSAL: Duration = Duration::from_mins(1);

impl Engine {
    /// The partitions whose replays may be loaded, and how many records; none while there is no use for them.
    #[must_use]
    pub fn replays_wanted(&self) -> (Vec<(Partition, Epoch)>, usize) {
        let room = MAX_REPLAYED
            .saturating_sub(self.replays_held().count())
            .min(self.config.max_records.saturating_sub(self.entries.len()));
        let is_of_use = self.breaker.state() == BreakerState::Closed
            && !self.is_suspended
            && !self.is_shutting_down
            && self.bytes < self.config.max_bytes;
        if !is_of_use || room == 0 {
            return (Vec::new(), 0);
        }
        (self.loadable().map(|(partition, state)| (*partition, state.epoch)).collect(), room)
    }

    /// Where the replayed records are that are in memory: reading them again is of no use.
    pub fn replays_held(&self) -> impl Iterator<Item = Coordinates> {
        self.partitions
            .iter()
            .flat_map(|(&partition, state)| state.replayed.keys().map(move |&offset| Coordinates { partition, offset }))
    }

    pub(super) fn replays_loaded(&mut self, now: Now, replays: Vec<ReplayRow>) {
        for replay in replays {
            if self.may_take_in(now, &replay) {
                self.take_in_replay(now, replay);
            }
        }
    }

    /// Not what is in memory already or was refused a moment ago, nor what was read for an ownership that is over, or before its key
    /// was parked: in memory it would wait for as long as that lasts.
    fn may_take_in(&mut self, now: Now, replay: &ReplayRow) -> bool {
        let at = replay.row.record.coordinates;
        let Some(state) = self.partitions.get_mut(&at.partition) else { return false };
        state.is_active()
            && state.epoch == replay.epoch
            && !self.orphans.contains_key(&at.partition)
            && !state.parked.is_blocked(replay.key)
            && !state.replayed.contains_key(&at.offset)
            && !state.is_refused(at.offset, now)
            && !matches!(state.watermark.locate(at.offset), Whereabouts::Unfinished(_))
    }

    fn take_in_replay(&mut self, now: Now, replay: ReplayRow) {
        let ReplayRow { epoch, key, row } = replay;
        let at = row.record.coordinates;
        let mut entry = self.parked_entry(now, ParkedKey { partition: at.partition, epoch, key }, row);
        entry.origin = Origin::Replayed;
        entry.lane = Some(key);
        // The ledger has it under what it was decoded as when it was scheduled.
        if entry.event.as_ref().is_some_and(|event| event.identity != entry.identity) {
            let error = "the record is read as another order than when it was scheduled".to_owned();
            entry.burial = Some(Burial { reason: Reason::Invalid, class: "permanent", error });
        }
        let Some(state) = self.partitions.get_mut(&at.partition) else { return };
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        state.replayed.insert(at.offset, ticket);
        state.join_lane(key, ticket);
        state.claimed_before += 1;
        self.bytes += entry.bytes;
        self.loaded.records += 1;
        self.loaded.bytes += entry.bytes;
        self.entries.insert(ticket, Box::new(entry));
        if self.is_head_of_lane(ticket) {
            self.move_head(ticket);
        }
    }

    /// What was decided about it was refused: its partition or its order is somebody else's by now, and nothing is left to do. If it
    /// should be due all the same, another try at once could follow without an end.
    pub(super) fn leave_replay(&mut self, now: Now, ticket: Ticket, due: Now) {
        let Some(entry) = self.forget(ticket) else { return };
        if let Some(state) = self.partitions.get_mut(&entry.partition()) {
            state.refuse_replay(entry.record.coordinates.offset, due.max(now + AFTER_REFUSAL));
        }
    }
}
