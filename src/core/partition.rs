//! One session of one partition: its watermark and its lanes.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::input::{Now, Raised, Ticket};
use super::key::LaneKey;
use super::parked::ParkedLanes;
use super::record::{Epoch, Offset, Session};
use super::semantics::is_crash_loop;
use super::watermark::Watermark;

#[derive(Debug)]
pub(super) struct PartitionState {
    pub(super) session: Session,
    pub(super) epoch: Epoch,
    /// When Postgres last showed that no later owner has raised it.
    pub(super) epoch_seen_at: Now,
    pub(super) unclean_ends: u32,
    pub(super) watermark: Watermark,
    /// What was last asked to be stored.
    pub(super) stored: Offset,
    pub(super) phase: Phase,
    /// Records of this session whose delivery runs, or is about to.
    pub(super) delivering: usize,
    /// Records of this session that wait to be settled, parked or buried, or for their failure to be known.
    pub(super) settling: usize,
    /// Records of this session that an owner before it had claimed.
    pub(super) claimed_before: usize,
    pub(super) parked: ParkedLanes,
    /// Records of replays that are in memory.
    pub(super) replayed: BTreeMap<Offset, Ticket>,
    /// Replayed records of which the ledger refused what this session decided, and until when they are not taken in again.
    refused: BTreeMap<Offset, Now>,
    /// Keys of which a record was exhausted: those behind it get one attempt each until one succeeds.
    exhausted: HashSet<LaneKey>,
    lanes: foldhash::HashMap<LaneKey, VecDeque<Ticket>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Active,
    /// To be given back: nothing starts, what runs may end until the deadline.
    Draining {
        deadline: Now,
    },
}

impl PartitionState {
    pub(super) fn new(now: Now, session: Session, raised: Raised, start: Offset, parked: ParkedLanes) -> Self {
        Self {
            session,
            epoch: raised.epoch,
            epoch_seen_at: now,
            unclean_ends: raised.unclean_ends,
            watermark: Watermark::new(start),
            stored: start,
            phase: Phase::Active,
            delivering: 0,
            settling: 0,
            claimed_before: 0,
            parked,
            replayed: BTreeMap::new(),
            refused: BTreeMap::new(),
            exhausted: HashSet::new(),
            lanes: foldhash::HashMap::default(),
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.phase == Phase::Active
    }

    /// Owners died of it: what was claimed before starts durably, and a suspect runs alone.
    pub(super) fn is_careful(&self) -> bool {
        is_crash_loop(self.unclean_ends)
    }

    /// Nothing runs and nothing waits to be settled.
    pub(super) fn is_drained(&self) -> bool {
        self.delivering == 0 && self.settling == 0
    }

    /// All records of this session that are in memory and have not ended.
    pub(super) fn held(&self) -> impl Iterator<Item = Ticket> {
        self.watermark.unfinished().chain(self.parked.in_memory()).chain(self.replayed.values().copied())
    }

    pub(super) fn refuse_replay(&mut self, offset: Offset, until: Now) {
        self.refused.insert(offset, until);
    }

    pub(super) fn is_refused(&mut self, offset: Offset, now: Now) -> bool {
        self.refused.retain(|_, until| *until > now);
        self.refused.contains_key(&offset)
    }

    pub(super) fn join_lane(&mut self, lane: LaneKey, ticket: Ticket) {
        self.lanes.entry(lane).or_default().push_back(ticket);
    }

    /// Takes back a record that had left its lane: before those that came later, but never before the first, which may run.
    pub(super) fn rejoin_lane(&mut self, lane: LaneKey, ticket: Ticket) {
        let queue = self.lanes.entry(lane).or_default();
        let place = queue.iter().skip(1).position(|other| *other > ticket).map_or(queue.len(), |place| place + 1);
        queue.insert(place, ticket);
    }

    pub(super) fn lane(&self, lane: LaneKey) -> impl Iterator<Item = Ticket> {
        self.lanes.get(&lane).into_iter().flatten().copied()
    }

    /// The first of each lane.
    pub(super) fn heads(&self) -> impl Iterator<Item = Ticket> {
        self.lanes.values().filter_map(VecDeque::front).copied()
    }

    pub(super) fn is_head(&self, lane: LaneKey, ticket: Ticket) -> bool {
        self.lanes.get(&lane).and_then(VecDeque::front) == Some(&ticket)
    }

    /// Takes the ticket out of its lane, wherever it stands in it, and gives the head after that.
    pub(super) fn leave_lane(&mut self, lane: LaneKey, ticket: Ticket) -> Option<Ticket> {
        let queue = self.lanes.get_mut(&lane)?;
        if queue.front() == Some(&ticket) {
            queue.pop_front();
        } else {
            queue.retain(|other| *other != ticket);
        }
        let head = queue.front().copied();
        if head.is_none() {
            self.lanes.remove(&lane);
            self.forget_exhausted(lane);
        }
        head
    }

    pub(super) fn note_exhausted(&mut self, key: LaneKey) {
        self.exhausted.insert(key);
    }

    pub(super) fn note_success(&mut self, key: LaneKey) {
        self.exhausted.remove(&key);
    }

    pub(super) fn is_exhausted(&self, key: LaneKey) -> bool {
        self.exhausted.contains(&key)
    }

    #[cfg(test)]
    pub(super) fn exhausted_keys(&self) -> usize {
        self.exhausted.len()
    }

    /// A key that nothing is held or parked of is not remembered.
    pub(super) fn forget_exhausted(&mut self, key: LaneKey) {
        if !self.exhausted.is_empty() && !self.lanes.contains_key(&key) && !self.parked.is_blocked(key) {
            self.exhausted.remove(&key);
        }
    }
}
