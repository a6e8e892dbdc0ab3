//! What operators can do, apart from how they ask for it: this layer decides, refuses, masks and sees to the audit; it prints nothing
//! and parses no arguments.
//!
//! | module | what operators do there |
//! |---|---|
//! | `selection` | which dead letters are meant |
//! | `listing` | groups, pages, counts, and one letter whole |
//! | `order_path` | what one order went through |
//! | `payload`, `cover`, `echo` | payloads as they are shown: exact, or masked; and what is masked covered elsewhere |
//! | `replay` | plan, execute, pause, resume, cancel |
//! | `publishing` | replays to the topic, which this process publishes |
//! | `closing` | discard, restore |
//! | `export`, `reindex` | dead letters out as lines, and back from the topic |
//! | `audit` | who did what |

mod audit;
mod closing;
mod cover;
mod echo;
mod export;
mod listing;
mod order_path;
mod payload;
mod publishing;
mod reindex;
mod replay;
mod selection;

pub use closing::{CloseReason, Closing, Frozen};
pub use cover::seen;
pub use export::{as_line, trace_id};
pub use listing::{Page, Shown};
pub use order_path::{OrderPath, PathStep};
pub use payload::{Payload, Sight, hex};
pub use publishing::Publishing;
pub use reindex::Reindexed;
pub use replay::{Plan, ReplayWish};
pub use selection::Selection;

use crate::config::{DeadLetters, Settings};
use crate::core::failure::LedgerFailure;
use crate::postgres::{Act, AuditResult, Postgres};

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// Doing it again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// The database or the cluster is away: try again.
    #[error("{0}")]
    Unavailable(String),
}

/// The operations on the dead letters of one consumer group and topic, in the name of one operator.
#[derive(Clone)]
pub struct Operations {
    postgres: Postgres,
    operator: String,
    settings: Settings,
}

impl Operations {
    #[must_use]
    pub fn new(postgres: Postgres, settings: Settings, operator: String) -> Self {
        Self { postgres, operator, settings }
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn rules(&self) -> &DeadLetters {
        &self.settings.dead_letters
    }

    fn act(&self, action: &'static str, filter: String, reason: &str) -> Act {
        Act { operator: self.operator.clone(), action, filter, reason: reason.to_owned() }
    }

    /// Refuses in read-only mode.
    async fn may_change(&self, act: &Act) -> Result<(), OperationError> {
        if self.rules().read_only {
            return Err(self.refuse(act, "dead_letters.read_only is set: nothing may be changed").await);
        }
        Ok(())
    }

    /// Refuses what is not permitted, or not sensible.
    async fn refuse(&self, act: &Act, why: impl Into<String>) -> OperationError {
        let why = why.into();
        self.audit_not_done(act, AuditResult::Refused, &why).await;
        OperationError::Refused(why)
    }

    /// Refuses what somebody else was faster with.
    async fn conflict(&self, act: &Act, why: impl Into<String>) -> OperationError {
        let why = why.into();
        self.audit_not_done(act, AuditResult::Conflict, &why).await;
        OperationError::Refused(why)
    }

    /// That it could not be written makes it no more done.
    async fn audit_not_done(&self, act: &Act, result: AuditResult, why: &str) {
        if let Err(error) = self.postgres.audit_not_done(act, result, why).await {
            tracing::warn!(?error, action = act.action, "what was not done could not be written to the audit");
        }
    }
}

impl From<LedgerFailure> for OperationError {
    fn from(failure: LedgerFailure) -> Self {
        match failure {
            LedgerFailure::BadData(error) => Self::Refused(error),
            LedgerFailure::Conflict(error) | LedgerFailure::Outage(error) => Self::Unavailable(error),
        }
    }
}
