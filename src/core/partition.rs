//! One session of one partition: its watermark and its lanes.

use std::collections::{HashMap, VecDeque};

use super::input::{Now, Ticket};
use super::key::LaneKey;
use super::record::{Epoch, Offset, Session};
use super::watermark::Watermark;

#[derive(Debug)]
pub(super) struct PartitionState {
    pub(super) session: Session,
    pub(super) epoch: Epoch,
    pub(super) watermark: Watermark,
    /// What was last asked to be stored.
    pub(super) stored: Offset,
    pub(super) phase: Phase,
    /// Records of this session whose delivery runs.
    pub(super) delivering: usize,
    /// Records of this session that wait for a settlement or a burial.
    pub(super) settling: usize,
    lanes: HashMap<LaneKey, VecDeque<Ticket>>,
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
    pub(super) fn new(session: Session, epoch: Epoch, start: Offset) -> Self {
        Self {
            session,
            epoch,
            watermark: Watermark::new(start),
            stored: start,
            phase: Phase::Active,
            delivering: 0,
            settling: 0,
            lanes: HashMap::new(),
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.phase == Phase::Active
    }

    /// Nothing runs and nothing waits to be settled.
    pub(super) fn is_drained(&self) -> bool {
        self.delivering == 0 && self.settling == 0
    }

    pub(super) fn join_lane(&mut self, lane: LaneKey, ticket: Ticket) {
        self.lanes.entry(lane).or_default().push_back(ticket);
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
        }
        head
    }
}
