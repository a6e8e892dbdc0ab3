//! A record that the engine holds, and how far it has come.

use std::sync::Arc;

use super::attempts::{Attempts, FailedAttempt};
use super::effect::{RecordName, Serial};
use super::event::{Fingerprint, Identity, OrderEvent};
use super::failure::{FailureClass, Reason};
use super::input::{Holder, Now, RowAddress, Ticket};
use super::key::LaneKey;
use super::record::{Epoch, Partition, Record};
use super::trace::TraceParent;
use super::watermark::Sequence;

/// All that are in memory. Boxed: what is looked up for every step of every record is small and near then.
pub(super) type Entries = foldhash::HashMap<Ticket, Box<Entry>>;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) epoch: Epoch,
    pub(super) origin: Origin,
    pub(super) identity: Identity,
    pub(super) fingerprint: Fingerprint,
    /// What failures and successes are told apart by: that of the lane, or one of its own.
    pub(super) key: LaneKey,
    /// Absent for poison, for records that nothing orders, and for those that have left their lane or came out of the table.
    pub(super) lane: Option<LaneKey>,
    /// Absent for poison.
    pub(super) event: Option<Arc<OrderEvent>>,
    pub(super) stage: Stage,
    /// The session it was polled in is over: only a delivery or a settlement under way is seen to its end.
    pub(super) orphaned: bool,
    pub(super) polled_at: Now,
    pub(super) bytes: usize,
    /// An owner before this one had claimed it, or it is parked: a process may have died of it.
    pub(super) was_claimed_before: bool,
    /// Starts in the ledger that have not finished.
    pub(super) starts: u16,
    /// Attempts that were spent.
    pub(super) attempts: u32,
    pub(super) blame: Blame,
    /// Those that failed since the record came into memory.
    pub(super) failures: Attempts,
    /// Failures that spent nothing, in a row.
    pub(super) outages: u32,
    /// When the last attempt began.
    pub(super) started_at: Now,
    pub(super) failed_at: Option<FailedAt>,
    /// When it failed last in this session: of what it met before, in other workers perhaps, the table has only the attempts that
    /// were spent.
    pub(super) seen_failing_at: Option<Now>,
    pub(super) parking: Option<ParkingPlan>,
    pub(super) burial: Option<Burial>,
    pub(super) busy: Option<Busy>,
    pub(super) seizure: Option<Seizure>,
    /// Where its last claim found the row.
    pub(super) address: RowAddress,
}

/// Where a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Polled {
        sequence: Sequence,
    },
    /// Out of `parked_events`, where it stays until it has ended.
    Parked,
    /// The same, of a replay: for itself, and without order.
    Replayed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not claimed yet: a delivery of the session before still runs.
    Gated,
    /// In the queue of claims, or under way.
    Claiming,
    /// Another copy holds the claim; claims again at this time.
    Busy {
        until: Now,
    },
    /// Another copy holds the claim; claims again when its lane comes to it.
    Behind,
    /// Ours; waits for its turn in the lane.
    Claimed,
    /// Ours still; left to any copy, since the first of its lane waits for another copy.
    Yielding,
    /// At the head of its lane; waits for a free delivery.
    Ready,
    /// To be delivered as soon as its start is durable; in the queue of starts, or under way.
    Starting,
    Delivering,
    /// Failed, and tried again at this time; in the queue of starts, so that its start is known to have finished.
    Failing {
        until: Now,
    },
    /// Failed; tried again at this time.
    Waiting {
        until: Now,
    },
    /// Notified; in the queue of settlements, or under way.
    Settling,
    /// Its retry is far away, or it waits behind such a one; in the queue of those to park, or under way.
    Parking,
    /// Given up on; in the queue of dead letters, or under way, with the serial of when that was decided however often it is sent: a
    /// replay that is scheduled meanwhile is later.
    Burying {
        serial: Serial,
    },
}

impl Stage {
    /// From the start until what became of it is durable.
    pub(super) fn is_under_way(self) -> bool {
        match self {
            Self::Starting
            | Self::Delivering
            | Self::Failing { .. }
            | Self::Settling
            | Self::Parking
            | Self::Burying { .. } => true,
            Self::Gated
            | Self::Claiming
            | Self::Busy { .. }
            | Self::Behind
            | Self::Claimed
            | Self::Yielding
            | Self::Ready
            | Self::Waiting { .. } => false,
        }
    }
}

/// How a record is parked.
#[derive(Clone, Debug)]
pub(super) struct ParkingPlan {
    pub(super) key: LaneKey,
    pub(super) due: Now,
    pub(super) error: Option<String>,
    /// Of when that was decided, as of a burial.
    pub(super) serial: Serial,
}

/// Why a record is given up on.
#[derive(Clone, Debug)]
pub(super) struct Burial {
    pub(super) reason: Reason,
    pub(super) class: &'static str,
    pub(super) error: String,
}

/// What its failures say about the record itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blame {
    /// The channel has never answered it with a failure.
    #[default]
    None,
    /// It has; the record may be to blame, or the channel. No attempt need have been spent.
    Unclear,
    /// It failed again after the channel had worked for others meanwhile.
    Known,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct FailedAt {
    pub(super) first: Now,
    pub(super) last: Now,
}

/// What the next claim may take from another record of the identity, if it is still as it was found.
#[derive(Clone, Debug)]
pub(super) enum Seizure {
    Claimed(Holder),
    Dead(Holder),
}

impl Seizure {
    pub(super) fn holder(&self) -> &Holder {
        match self {
            Self::Claimed(holder) | Self::Dead(holder) => holder,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Busy {
    pub(super) since: Now,
    pub(super) tries: u32,
    /// The holder is being asked about.
    pub(super) is_inspecting: bool,
}

impl Entry {
    pub(super) fn partition(&self) -> Partition {
        self.record.coordinates.partition
    }

    pub(super) fn name(&self, ticket: Ticket) -> RecordName {
        RecordName {
            ticket,
            coordinates: self.record.coordinates,
            timestamp: self.record.timestamp,
            order_id: Some(self.identity.order_id.clone()),
            trace: self.event.as_ref().map_or_else(|| TraceParent::of(&self.record), |event| event.trace),
        }
    }

    pub(super) fn is_parked(&self) -> bool {
        match self.origin {
            Origin::Polled { .. } => false,
            Origin::Parked | Origin::Replayed => true,
        }
    }

    /// Given up on because of starts that did not finish: each was an attempt.
    pub(super) fn convict(&mut self, reason: Reason, error: &str) {
        self.attempts = self.attempts.max(u32::from(self.starts));
        self.burial = Some(Burial { reason, class: FailureClass::Unknown.as_str(), error: error.to_owned() });
    }

    /// An attempt is spent.
    pub(super) fn spend_attempt(&mut self, now: Now, class: &'static str, error: &str) {
        self.attempts += 1;
        let took = now.saturating_sub(self.started_at);
        let (number, ago, error) = (self.attempts, Now::ZERO, error.into());
        self.failures.failed(now, FailedAttempt { number, ago, took, class, error });
    }

    pub(super) fn note_failure(&mut self, now: Now) {
        let first = self.failed_at.map_or(now, |failed| failed.first);
        self.failed_at = Some(FailedAt { first, last: now });
        self.seen_failing_at = Some(now);
    }
}
