//! When nothing more is fetched: as much is held as may be, or a dependency is away.

use std::time::Duration;

use super::Engine;
use crate::core::breaker::BreakerState;
use crate::core::effect::{Effect, Effects, PauseCause};
use crate::core::entry::{Blame, Entry, Origin, Stage};
use crate::core::input::{Now, Ticket};
use crate::core::record::Partition;
use crate::core::retry::Schedule;

/// Ended records that a watermark may remember behind an unfinished one, for each record that may be held. They cost 24 bytes.
const REMEMBERED_PER_RECORD: usize = 50;

/// Whether more may be parked. While it may not, far retries and followers of parked keys wait in memory as long as half of it is left,
/// and beyond that nothing more is fetched but for *overdrafts*.
///
/// An overdraft is one fetch, admitted when nothing that is held could still show that the channel works. Without it nothing could
/// ever be buried, so no room would ever be made. As much as it brings beyond that half is parked beyond the limit: what waited in
/// memory could keep the next one out.
#[derive(Debug)]
pub(super) struct ParkingRoom {
    is_full: bool,
    /// Since there was room.
    overdrafts: u32,
    next_overdraft: Now,
    waits: Schedule,
}

impl Default for ParkingRoom {
    fn default() -> Self {
        let waits = Schedule::new(Duration::from_secs(1), Duration::from_secs(30));
        Self { is_full: false, overdrafts: 0, next_overdraft: Now::ZERO, waits }
    }
}

impl Engine {
    pub(super) fn pause_or_resume(&mut self, now: Now, effects: &mut Effects) {
        self.look_for_parking_room();
        let cause = self.pause_cause(now);
        match (self.paused, cause) {
            (None, Some(_)) => effects.push(Effect::Pause),
            (Some(_), None) => effects.push(Effect::Resume),
            (Some(_), Some(_)) | (None, None) => {}
        }
        self.paused = cause;
    }

    fn pause_cause(&self, now: Now) -> Option<PauseCause> {
        if self.breaker.state() != BreakerState::Closed && self.is_promising() {
            return Some(PauseCause::Breaker);
        }
        if self.claims.is_failing() && !self.claims.is_empty() {
            return Some(PauseCause::Ledger);
        }
        // Resumes at half of the limits: each pause throws prefetched records away.
        let hysteresis = match self.paused {
            Some(PauseCause::Backpressure | PauseCause::ParkedLimit) => 2,
            Some(PauseCause::Breaker | PauseCause::Ledger) | None => 1,
        };
        match self.parking_room.is_full {
            false if self.is_within_memory(hysteresis) => None,
            false => Some(PauseCause::Backpressure),
            true if self.leaves_memory(hysteresis * 2) || self.may_overdraw(now) => None,
            true => Some(PauseCause::ParkedLimit),
        }
    }

    /// Whether something that is held may show that the channel works. One that failed before may be to blame itself: where there are
    /// no others, one has to be fetched, or the breaker would stay open for ever.
    fn is_promising(&self) -> bool {
        let is_promising = |entry: &Entry| match entry.stage {
            Stage::Ready | Stage::Starting | Stage::Delivering | Stage::Waiting { .. } => entry.blame == Blame::None,
            Stage::Gated
            | Stage::Claiming
            | Stage::Busy { .. }
            | Stage::Behind
            | Stage::Claimed
            | Stage::Yielding
            | Stage::Failing { .. }
            | Stage::Settling
            | Stage::Parking
            | Stage::Burying { .. } => false,
        };
        self.entries.values().any(|entry| is_promising(entry))
    }

    fn is_within_memory(&self, part: usize) -> bool {
        self.fits(part, self.entries.len(), self.bytes)
    }

    /// The same of what was polled alone: parked records that are read to be tried again come and go beside it.
    fn leaves_memory(&self, part: usize) -> bool {
        self.fits(part, self.entries.len() - self.loaded.records, self.bytes - self.loaded.bytes)
    }

    fn fits(&self, part: usize, records: usize, bytes: usize) -> bool {
        let remembered: usize = self.partitions.values().map(|state| state.watermark.len()).sum();
        records <= self.config.max_records / part
            && bytes <= self.config.max_bytes / part
            && remembered <= self.config.max_records * REMEMBERED_PER_RECORD / part
    }

    /// Whether a record whose try is far away is left to the table: always one that is in it already.
    pub(super) fn may_park(&self, origin: Origin) -> bool {
        match origin {
            Origin::Parked | Origin::Replayed => true,
            Origin::Polled { .. } => !self.parking_room.is_full || !self.leaves_memory_to_wait_in(),
        }
    }

    /// Half of it, once those that are about to be parked have left.
    fn leaves_memory_to_wait_in(&self) -> bool {
        let (records, bytes) = (self.loaded.records + self.leaving.records, self.loaded.bytes + self.leaving.bytes);
        self.fits(2, self.entries.len() - records, self.bytes - bytes)
    }

    fn may_overdraw(&self, now: Now) -> bool {
        now >= self.parking_room.next_overdraft && self.is_within_memory(1) && !self.is_promising()
    }

    /// When an overdraft may be admitted that time alone is waited for.
    pub(super) fn overdraft_at(&self) -> Option<Now> {
        let at = self.parking_room.next_overdraft;
        (self.paused == Some(PauseCause::ParkedLimit) && at > self.last_input_at).then_some(at)
    }

    /// Something was fetched: the next overdraft waits.
    pub(super) fn note_fetched(&mut self, now: Now) {
        if !self.parking_room.is_full {
            return;
        }
        let is_within = self.leaves_memory(2);
        let room = &mut self.parking_room;
        room.overdrafts = if is_within { 0 } else { room.overdrafts.saturating_add(1) };
        // At least half of the bound, so that a growing wait grows.
        let bound = room.waits.bound(room.overdrafts);
        room.next_overdraft = now + bound / 2 + room.waits.wait(room.overdrafts, None, &mut self.random) / 2;
        if !self.leaves_memory_to_wait_in() {
            self.move_all_waiting();
        }
    }

    fn look_for_parking_room(&mut self) {
        let was_full = self.parking_room.is_full;
        let parts = if was_full { 9 } else { 10 };
        self.parking_room.is_full = self.parked_rows() * 10 >= self.config.max_parked * parts;
        if was_full && !self.parking_room.is_full {
            self.move_all_waiting();
        }
    }

    /// Those that came first before others: what is parked beyond the limit is no matter of chance.
    fn move_all_waiting(&mut self) {
        let mut heads: Vec<Ticket> = self.partitions.values().flat_map(super::PartitionState::heads).collect();
        heads.sort_unstable();
        self.move_waiting(&heads);
    }

    /// Those that waited in memory behind parked ones of their key go on when the last of these has ended.
    pub(super) fn wake_unblocked(&mut self) {
        let mut heads = Vec::new();
        for state in self.partitions.values_mut() {
            for key in state.parked.take_unblocked() {
                heads.extend(state.lane(key).next());
            }
        }
        self.move_waiting(&heads);
    }

    fn move_waiting(&mut self, heads: &[Ticket]) {
        for head in heads {
            // Another copy may have seized the claim meanwhile.
            let is_waiting = |entry: &Entry| {
                matches!(entry.stage, Stage::Claimed | Stage::Behind) && self.is_active(entry.partition())
            };
            if self.entries.get(head).is_some_and(|entry| is_waiting(entry)) {
                self.move_head(*head);
            }
        }
    }

    fn is_active(&self, partition: Partition) -> bool {
        self.partitions.get(&partition).is_some_and(super::PartitionState::is_active)
    }

    /// Of the table, and on their way into it.
    pub(super) fn parked_rows(&self) -> u64 {
        self.partitions.values().map(|state| state.parked.rows()).sum()
    }
}
