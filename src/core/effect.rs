//! What the engine asks for. The shell performs each effect and feeds its result back as an input.

use std::sync::Arc;
use std::time::Duration;

use super::attempts::FailedAttempt;
use super::event::{Fingerprint, Identity, OrderEvent};
use super::failure::Reason;
use super::input::{Holder, RowAddress, Ticket};
use super::key::LaneKey;
use super::record::{Coordinates, Epoch, Offset, Partition, Record, Session, Timestamp};
use super::trace::TraceParent;

#[derive(Debug)]
pub enum Effect {
    /// Take these identities in the ledger, in one statement. Answered by `Claimed` or `LedgerFailed`.
    Claim(Vec<Claim>),
    /// Leave these claims, which nobody has begun to deliver, to any copy of their identity. Answered by `Yielded` or `LedgerFailed`.
    Yield(Vec<Settlement>),
    /// Write how many starts of these records have not finished, in one statement. Answered by `Started` or `LedgerFailed`.
    Start(Vec<Start>),
    /// Write these as notified, in one statement. Answered by `Settled` or `LedgerFailed`.
    Done(Vec<Settlement>),
    /// Park these, in one statement. Answered by `Parked` or `LedgerFailed`.
    Park(Vec<Parking>),
    /// Write these dead letters, in one statement. Answered by `Buried` or `LedgerFailed`.
    Dead(Vec<DeadLetter>),
    /// Read the first parked records of these keys, as far as their epochs are current. Answered by `ParkedLoaded` or
    /// `LedgerFailed`.
    LoadParked(Vec<ParkedKey>),
    /// Start one delivery. Answered by `Delivered`.
    Deliver(Delivery),
    /// End a running delivery without an answer; nothing is expected back.
    Abort(Ticket),
    /// Find out whether the copy that holds a claim is gone for good. Answered by `HolderInspected`.
    InspectHolder { ticket: Ticket, holder: Holder },
    /// Kafka may be late to tell of a loss: read the epochs. Answered by `EpochsConfirmed`, before which nothing starts when the process
    /// stood still.
    ConfirmEpochs { freeze: u64, partitions: Vec<(Partition, Epoch)> },
    /// Everything below `offset` has custody elsewhere.
    StoreOffset { partition: Partition, session: Session, offset: Offset },
    /// Stop fetching, all partitions.
    Pause,
    /// Fetch again.
    Resume,
    /// The partition may be given back.
    Release { partition: Partition, session: Session },
    /// The epoch was refused though Kafka has not taken the partition: begin a new session of it at `from`.
    Restart { partition: Partition, session: Session, from: Offset },
    /// Something worth a count or a line in the log.
    Report(Report),
}

/// Effects in the order in which they are to be performed.
pub type Effects = Vec<Effect>;

/// Grows with each statement of a process. One that was given up may be carried out late: it must not undo what a later one of the
/// same ownership wrote. The epoch fences those of earlier ownerships. A replay that is scheduled counts one on from the last: what was
/// found or decided before it is earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(pub u64);

/// One row to claim. No two of a batch have the same identity, or the same coordinates and epoch: what was inserted is named by these.
#[derive(Clone, Debug)]
pub struct Claim {
    pub ticket: Ticket,
    pub identity: Identity,
    pub fingerprint: Fingerprint,
    pub coordinates: Coordinates,
    pub epoch: Epoch,
    pub serial: Serial,
    /// Take the identity from this holder if it is still as it was judged: one that is gone for good and has not claimed again, or that is
    /// dead and was not replayed or sent again.
    pub seize_from: Option<Holder>,
}

/// One row to settle as done, or whose claim is to be yielded. No two of a batch have the same identity.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub ticket: Ticket,
    pub identity: Identity,
    pub fingerprint: Fingerprint,
    pub coordinates: Coordinates,
    pub epoch: Epoch,
    pub serial: Serial,
    /// Where the last claim found its row.
    pub address: RowAddress,
    /// The record came out of `parked_events`, and has a row there.
    pub was_parked: bool,
}

/// A record that is about to be delivered, or one whose attempt has ended. No two of a batch have the same identity.
#[derive(Clone, Debug)]
pub struct Start {
    pub settlement: Settlement,
    /// Starts that have not finished: the one to come counts, and 0 says that none may have had an effect. A value and not a
    /// difference, so that the statement may be repeated.
    pub starts: u16,
}

/// One record to park, or to park again. No two of a batch have the same identity.
#[derive(Clone, Debug)]
pub struct Parking {
    pub settlement: Settlement,
    pub key: LaneKey,
    pub attempts: u32,
    /// How long until it is tried again: the database knows the time.
    pub wait: Duration,
    pub first_failed_ago: Duration,
    /// Since the record came into memory, oldest first.
    pub failures: Vec<FailedAttempt>,
    /// Of the last failure; absent for a record that only waits behind others of its key.
    pub error: Option<String>,
    pub record: Record,
}

/// A key of one partition whose parked records are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedKey {
    pub partition: Partition,
    pub epoch: Epoch,
    pub key: LaneKey,
}

/// One dead letter to write. No two of a batch have the same identity.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub settlement: Settlement,
    pub reason: Reason,
    /// `failure class` of the last failure; `permanent` where none was tried.
    pub class: &'static str,
    pub error: String,
    pub attempts: u32,
    /// How long ago the first and the last failure were: the database knows the time.
    pub first_failed_ago: Duration,
    pub last_failed_ago: Duration,
    /// Since the record came into memory, oldest first.
    pub failures: Vec<FailedAttempt>,
    pub record: Record,
}

#[derive(Clone, Debug)]
pub struct Delivery {
    pub ticket: Ticket,
    /// 1 for the first try.
    pub attempt: u32,
    pub coordinates: Coordinates,
    /// To be sent along.
    pub trace: Option<TraceParent>,
    pub event: Arc<OrderEvent>,
}

/// The record that a report is about.
#[derive(Clone, Debug)]
pub struct RecordName {
    pub ticket: Ticket,
    pub coordinates: Coordinates,
    pub timestamp: Option<Timestamp>,
    /// Of its identity, which is synthetic where it has no other. Absent when it is ignored.
    pub order_id: Option<Arc<str>>,
    pub trace: Option<TraceParent>,
}

impl RecordName {
    /// As numbers, for fields of a log line.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.coordinates.partition.0
    }

    #[must_use]
    pub fn offset(&self) -> i64 {
        self.coordinates.offset.0
    }
}

/// How a record ended here: the label of `records_total{outcome}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Notified,
    Duplicate,
    Ignored,
    Parked,
    DeadLettered,
}

/// What a claim found: the label of `claims_total{result}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimResult {
    Fresh,
    Takeover,
    Busy,
    Duplicate,
    Conflict,
    Fenced,
}

/// Where a record waits for its next attempt: the label of `retries_scheduled_total{where}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitingPlace {
    Lane,
    Parked,
}

/// Why nothing is fetched: the label of `consumer_paused_partitions{cause}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PauseCause {
    /// As many records or bytes are held as may be.
    Backpressure,
    /// The channel is not available.
    Breaker,
    /// Postgres is not available.
    Ledger,
    /// As many records are parked as may be, and half of the memory waits too.
    ParkedLimit,
}

#[derive(Clone, Debug)]
pub enum Report {
    Ended {
        record: RecordName,
        outcome: Outcome,
        /// From polled to ended.
        duration: Duration,
    },
    /// A record out of `parked_events` ended.
    ParkedEnded {
        record: RecordName,
        outcome: Outcome,
        /// From loaded to ended.
        duration: Duration,
    },
    /// A record of a replay ended.
    ReplayEnded {
        record: RecordName,
        outcome: Outcome,
        /// From loaded to ended.
        duration: Duration,
    },
    /// Parked records that somebody else had settled.
    ParkedRemoved {
        count: u64,
    },
    Buried {
        record: RecordName,
        reason: Reason,
        attempts: u32,
        error: String,
    },
    /// An event type that is not configured, once per record.
    IgnoredEventType {
        event_type: Arc<str>,
    },
    /// Records left to the next owner.
    HandedBack {
        partition: Partition,
        count: u64,
    },
    Claimed(ClaimResult),
    RetryScheduled {
        record: RecordName,
        attempt: u32,
        wait: Duration,
        place: WaitingPlace,
        error: String,
    },
    /// All attempts are spent, and nothing shows that the channel works for others: the record stays parked.
    ExhaustedWithoutEvidence {
        record: RecordName,
    },
    BreakerOpened {
        error: String,
    },
    BreakerClosed,
    /// The channel is not available: the record waits and no attempt was spent.
    DeliveryHeld {
        record: RecordName,
        wait: Duration,
        error: String,
    },
    /// A ledger batch is held: Postgres is not available.
    LedgerHeld {
        wait: Duration,
        error: String,
    },
    Fenced {
        partition: Partition,
        epoch: Epoch,
    },
    /// Owners of the partition died one after another without progress: what they had claimed runs carefully.
    CrashLoop {
        partition: Partition,
        unclean_ends: u32,
    },
    /// The process stood still for this long.
    Frozen {
        gap: Duration,
    },
    /// Running deliveries that were cut off at the drain deadline.
    Aborted {
        partition: Partition,
        count: u64,
    },
    InvariantViolated {
        invariant: &'static str,
        detail: String,
    },
}

impl Outcome {
    pub const ALL: [Self; 5] = [Self::Notified, Self::Duplicate, Self::Ignored, Self::Parked, Self::DeadLettered];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notified => "notified",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::Parked => "parked",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

impl ClaimResult {
    pub const ALL: [Self; 6] = [Self::Fresh, Self::Takeover, Self::Busy, Self::Duplicate, Self::Conflict, Self::Fenced];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Takeover => "takeover",
            Self::Busy => "busy",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Fenced => "fenced",
        }
    }
}

impl WaitingPlace {
    pub const ALL: [Self; 2] = [Self::Lane, Self::Parked];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lane => "lane",
            Self::Parked => "parked",
        }
    }
}

impl PauseCause {
    pub const ALL: [Self; 4] = [Self::Backpressure, Self::Breaker, Self::Ledger, Self::ParkedLimit];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backpressure => "backpressure",
            Self::Breaker => "breaker",
            Self::Ledger => "ledger",
            Self::ParkedLimit => "parked_limit",
        }
    }
}
