//! How things fail, by what is to be done about it.

use std::fmt;
use std::time::Duration;

/// Why a delivery did not succeed. Channels classify; the engine decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryFailure {
    pub class: FailureClass,
    /// Root cause first, one line, no payload.
    pub error: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// Counts an attempt; tried again after a backoff and never before `retry_after`.
    Transient { retry_after: Option<Duration> },
    /// Sent, but no answer: it may or may not have had its effect. Counts an attempt.
    Unknown,
    /// Will never succeed: dead letter at once.
    Permanent,
    /// Nothing is wrong with the record: counts nothing.
    Outage,
}

/// Why a ledger statement did not succeed, by what is to be done about the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerFailure {
    /// A row in the batch cannot be stored (SQLSTATE classes 22, 23, 54): split the batch down to it.
    BadData(String),
    /// Serialisation failure, deadlock, or a ledger row that another inserted at the same moment (40001, 40P01, 23505): repeat at once.
    Conflict(String),
    /// Postgres is not available, or refused for a reason of its own: hold the batch, spend no attempt.
    Outage(String),
}

/// Why a record became a dead letter. Closed: dashboards and operators depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The value is no JSON object.
    Undecodable,
    /// A required field is missing, mistyped or out of bounds, or the database cannot store it.
    Invalid,
    /// The identity was notified with other content.
    Conflict,
    /// The channel refused for good.
    Permanent,
    /// All attempts were spent.
    Exhausted,
    /// The record aborts the process.
    CrashLoop,
    /// It is unknown whether the notification had its effect, and it may not be repeated.
    Uncertain,
}

impl Reason {
    pub const ALL: [Self; 7] = [
        Self::Undecodable,
        Self::Invalid,
        Self::Conflict,
        Self::Permanent,
        Self::Exhausted,
        Self::CrashLoop,
        Self::Uncertain,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::Permanent => "permanent",
            Self::Exhausted => "exhausted",
            Self::CrashLoop => "crash_loop",
            Self::Uncertain => "uncertain",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FailureClass {
    /// The label of `attempts_total{result}` and of the `herald-class` header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient { .. } => "transient",
            Self::Unknown => "unknown",
            Self::Permanent => "permanent",
            Self::Outage => "outage",
        }
    }
}
