//! The values of the labels: closed, so that every series is there at 0 before anything happens.

use crate::core::failure::LedgerFailure;

/// Why the assignment changed: `consumer_rebalances_total{kind}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RebalanceKind {
    Assigned,
    Revoked,
    /// The partitions already belong to somebody else.
    Lost,
}

/// What the worker cannot do without: `breaker_state{dependency}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// What the channel sends to.
    Gateway,
    Postgres,
    /// The DLQ topic.
    Dlq,
    /// The brokers, all of them together.
    Kafka,
}

/// A statement of the worker: `postgres_duration_seconds{operation}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    Claim,
    Yield,
    Start,
    Done,
    Park,
    Dead,
    RaiseEpoch,
    ConfirmEpochs,
    InspectHolder,
    LoadParked,
    LoadUnpublished,
    MarkPublished,
    Prune,
}

/// How a statement ended: `postgres_duration_seconds{result}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatementResult {
    Ok,
    BadData,
    /// Serialisation failure or deadlock.
    Conflict,
    Outage,
}

/// How an operator's action ended: `operator_actions_total{result}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperatorResult {
    Ok,
    Refused,
    /// It met a change made meanwhile.
    Conflict,
    Error,
}

/// A bounded queue between threads: `queue_length{queue}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Batches from the consumer thread to the worker loop.
    Polled,
    /// From the worker loop to the consumer thread.
    Commands,
    /// Running deliveries against `delivery.max_concurrent`.
    Deliveries,
    /// Records held in memory against `limits.records`.
    Records,
}

impl RebalanceKind {
    pub const ALL: [Self; 3] = [Self::Assigned, Self::Revoked, Self::Lost];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Revoked => "revoked",
            Self::Lost => "lost",
        }
    }
}

impl Dependency {
    pub const ALL: [Self; 4] = [Self::Gateway, Self::Postgres, Self::Dlq, Self::Kafka];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Postgres => "postgres",
            Self::Dlq => "dlq",
            Self::Kafka => "kafka",
        }
    }
}

impl Statement {
    pub const ALL: [Self; 13] = [
        Self::Claim,
        Self::Yield,
        Self::Start,
        Self::Done,
        Self::Park,
        Self::Dead,
        Self::RaiseEpoch,
        Self::ConfirmEpochs,
        Self::InspectHolder,
        Self::LoadParked,
        Self::LoadUnpublished,
        Self::MarkPublished,
        Self::Prune,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Yield => "yield",
            Self::Start => "start",
            Self::Done => "done",
            Self::Park => "park",
            Self::Dead => "dead",
            Self::RaiseEpoch => "raise_epoch",
            Self::ConfirmEpochs => "confirm_epochs",
            Self::InspectHolder => "inspect_holder",
            Self::LoadParked => "load_parked",
            Self::LoadUnpublished => "load_unpublished",
            Self::MarkPublished => "mark_published",
            Self::Prune => "prune",
        }
    }

    /// The statements that take a batch of identities: those of `ledger_batch_size{operation}`.
    #[must_use]
    pub fn writes_ledger(self) -> bool {
        match self {
            Self::Claim | Self::Yield | Self::Start | Self::Done | Self::Park | Self::Dead => true,
            Self::RaiseEpoch
            | Self::ConfirmEpochs
            | Self::InspectHolder
            | Self::LoadParked
            | Self::LoadUnpublished
            | Self::MarkPublished
            | Self::Prune => false,
        }
    }
}

impl StatementResult {
    #[must_use]
    pub fn of(failure: Option<&LedgerFailure>) -> Self {
        match failure {
            None => Self::Ok,
            Some(LedgerFailure::BadData(_)) => Self::BadData,
            Some(LedgerFailure::Conflict(_)) => Self::Conflict,
            Some(LedgerFailure::Outage(_)) => Self::Outage,
        }
    }

    pub const ALL: [Self; 4] = [Self::Ok, Self::BadData, Self::Conflict, Self::Outage];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BadData => "bad_data",
            Self::Conflict => "conflict",
            Self::Outage => "outage",
        }
    }
}

impl OperatorResult {
    pub const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Conflict, Self::Error];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Error => "error",
        }
    }
}

impl Queue {
    pub const ALL: [Self; 4] = [Self::Polled, Self::Commands, Self::Deliveries, Self::Records];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Polled => "polled",
            Self::Commands => "commands",
            Self::Deliveries => "deliveries",
            Self::Records => "records",
        }
    }
}
