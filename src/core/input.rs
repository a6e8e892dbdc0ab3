//! What the engine is told. Closed: everything that can happen to a record arrives as one of these.

use std::sync::Arc;
use std::time::Duration;

use super::effect::Serial;
use super::event::{Fingerprint, Identity};
use super::failure::{DeliveryFailure, LedgerFailure};
use super::key::LaneKey;
use super::record::{Coordinates, Epoch, Offset, Partition, Record, Session};

/// Time since the process started. A plain duration, so that a test can make one.
pub type Now = Duration;

/// Names one record for as long as the engine holds it. Never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

#[derive(Debug)]
pub enum Input {
    /// Kafka assigned the partition, Postgres raised its epoch and told what is parked; records from `start` on will be polled.
    Assigned { partition: Partition, session: Session, start: Offset, raised: Raised, parked: Vec<ParkedLane> },
    /// Kafka wants the partitions back; deliveries that run may end until `deadline`.
    Revoking { partitions: Vec<Partition>, deadline: Now },
    /// The partitions already belong to somebody else.
    Lost { partitions: Vec<Partition> },
    /// Records of one session of one partition, in offset order.
    Polled { partition: Partition, session: Session, records: Vec<Record> },
    /// What the claims of the batch with this serial found. A ticket that is missing was fenced.
    Claimed { serial: Serial, found: Vec<(Ticket, LedgerRow)> },
    /// The starts of one batch that are durable. A ticket that is missing was fenced, or was settled otherwise.
    Started { started: Vec<Ticket> },
    /// Whoever holds a copy may take the claims of the batch of `Yield`.
    Yielded,
    /// All rows of the batch of `Done` with this serial are durable.
    Settled { serial: Serial },
    /// The dead letters of one batch that are durable. A ticket that is missing was fenced, or was dead already.
    Buried { buried: Vec<Ticket> },
    /// The parked records of one batch that are durable. A ticket that is missing was fenced, or was settled otherwise.
    Parked { parked: Vec<Ticket> },
    /// What is parked under the keys that were asked for. A key that is missing was fenced.
    ParkedLoaded { lanes: Vec<LoadedLane> },
    /// Records of replays that are due, each for itself.
    ReplaysLoaded { replays: Vec<ReplayRow> },
    /// The statement of the batch under way for this operation failed as a whole.
    LedgerFailed { operation: Operation, failure: LedgerFailure },
    /// Deliveries ended.
    Delivered { results: Vec<(Ticket, Result<(), DeliveryFailure>)> },
    /// Answer to `Effect::InspectHolder`: the holder, if nobody will ever go on with its claim.
    HolderInspected { ticket: Ticket, abandoned: Option<Holder> },
    /// Answer to `Effect::ConfirmEpochs`: whether Postgres has these epochs still.
    EpochsConfirmed { freeze: u64, epochs: Vec<(Partition, Epoch, bool)> },
    /// Time passed.
    Tick,
    /// Stop: hand back everything, let running deliveries end until `deadline`.
    Shutdown { deadline: Now },
}

/// The ledger statements. Of those with a serial several batches may be under way, of the others one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Claim(Serial),
    Yield,
    Start,
    Done(Serial),
    Park,
    Dead,
    LoadParked,
}

/// A partition whose epoch was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Raised {
    pub epoch: Epoch,
    /// Ownerships in a row before this one that ended uncleanly and without progress.
    pub unclean_ends: u32,
}

/// A key of which records are parked when a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedLane {
    pub key: LaneKey,
    /// The time until its first record is due.
    pub due_in: Duration,
    pub rows: u64,
}

/// The first parked records of a key, in offset order.
#[derive(Debug)]
pub struct LoadedLane {
    pub partition: Partition,
    pub key: LaneKey,
    pub rows: Vec<ParkedRow>,
    pub rest: Rest,
    /// Rows that were found settled by somebody else, and removed.
    pub removed: u64,
}

/// What is parked behind the first records of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    Nothing,
    More,
    /// A record that cannot be decoded any more: a fault of the table, for an operator.
    Unreadable,
}

/// A record out of `parked_events`.
#[derive(Clone, Debug)]
pub struct ParkedRow {
    pub identity: Identity,
    pub record: Record,
    pub attempts: u32,
    /// Durable starts in a row that did not finish, as far as is known.
    pub starts: u16,
    pub first_failed_ago: Duration,
    /// Of the last attempt that was spent; absent where none was.
    pub last_failed_ago: Option<Duration>,
}

/// A record of a replay, out of `parked_events`.
#[derive(Clone, Debug)]
pub struct ReplayRow {
    /// Of the ownership that it was read for.
    pub epoch: Epoch,
    pub key: LaneKey,
    pub row: ParkedRow,
}

/// The ledger's row of an identity, as it is after a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    pub state: LedgerState,
    pub holder: Holder,
    pub fingerprint: Fingerprint,
    /// Whether this claim inserted the row.
    pub inserted: bool,
    /// Durable starts in a row that did not finish, as far as is known.
    pub starts: u16,
    pub address: RowAddress,
}

/// Where in its table a claim found a row (its `ctid`). A hint that spares a search: an update moves the row, and another may come to its
/// place. The default is of no row: items count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowAddress {
    pub block: u32,
    pub item: u16,
}

/// The copy of an identity that a ledger row belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub topic: Arc<str>,
    pub coordinates: Coordinates,
    /// Of the statement that wrote the row last. A copy that has claimed since is not the one that was judged: it runs, perhaps.
    pub epoch: Epoch,
    pub serial: Serial,
}

impl Holder {
    /// Whether it is this record, of whatever owner.
    #[must_use]
    pub fn is(&self, topic: &str, coordinates: Coordinates) -> bool {
        (&*self.topic, self.coordinates) == (topic, coordinates)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LedgerState {
    Claimed,
    Parked,
    Done,
    Dead,
    Uncertain,
}

impl LedgerState {
    /// The code in the `state` column.
    #[must_use]
    pub fn code(self) -> char {
        match self {
            Self::Claimed => 'c',
            Self::Parked => 'p',
            Self::Done => 'd',
            Self::Dead => 'x',
            Self::Uncertain => 'u',
        }
    }

    #[must_use]
    pub fn from_code(code: char) -> Option<Self> {
        [Self::Claimed, Self::Parked, Self::Done, Self::Dead, Self::Uncertain]
            .into_iter()
            .find(|state| state.code() == code)
    }
}
