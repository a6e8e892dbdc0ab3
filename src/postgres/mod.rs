//! Postgres: one file per table, one statement per transition.
//!
//! Every transition is a single statement and every statement may be repeated: a lost answer, a deadlock or a crash never
//! needs more than sending it again. Locks are taken in one order everywhere: epochs, ledger, parked events, dead letters,
//! each sorted by identity.

mod dead_letters;
mod epochs;
mod failure;
mod ledger;
mod migrations;
mod pool;
mod preflight;
mod prune;
mod stored_record;
mod text;

pub use dead_letters::{DeadLetterCount, DeadLetterState, UnpublishedFacts};
pub use migrations::MigrationError;
pub use pool::{ConnectError, PoolFacts, Postgres};
pub use preflight::PreflightFacts;
