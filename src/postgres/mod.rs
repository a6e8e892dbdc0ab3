//! Postgres: one statement per transition, in files by table and by what is done with it.
//!
//! Every transition is a single statement and every statement may be repeated: a lost answer, a conflict or a crash never
//! needs more than sending it again. Locks are taken in the order epochs, ledger, parked events, dead letters, each sorted by
//! identity. In the ledger a claim takes what it inserts before what is there, and a settlement what is at its address before
//! the rest: where two meet crosswise one fails, and is repeated.

mod audit;
mod dead_letter_closing;
mod dead_letter_detail;
mod dead_letter_listing;
mod dead_letter_rebuilding;
mod dead_letters;
mod epochs;
mod failure;
mod history;
mod ledger;
mod migrations;
mod parked;
mod parked_order;
mod pool;
mod preflight;
mod prune;
mod replay_prospects;
mod replay_publishing;
mod replay_scheduling;
mod replays;
mod row_address;
mod stored_record;
mod text;

pub use audit::{Act, AuditCount, AuditResult, AuditRow};
pub use dead_letter_closing::Expired;
pub use dead_letter_detail::{LedgerEntry, WaitingRecord, WholeLetter};
pub use dead_letter_listing::{Closed, LetterGroup, ListedLetter, TREND_BUCKETS};
pub use dead_letter_rebuilding::RebuiltLetter;
pub use dead_letters::{DeadLetterCount, DeadLetterState, UnpublishedFacts};
pub use history::{PastAttempt, PastReplay};
pub use migrations::MigrationError;
pub use parked::ParkedFacts;
pub use pool::{ConnectError, PoolFacts, Postgres};
pub use preflight::PreflightFacts;
pub use replay_prospects::{LetterProspect, Prospect};
pub use replay_publishing::{Publication, TakenLetter, Taking};
pub use replay_scheduling::{EndedUnscheduled, NextLetter, Scheduling};
pub use replays::{PlannedLetter, Replay, ReplayCount, ReplayState, ReplayTerms, ReplayTo};
pub use stored_record::{DamagedRecord, decode as read_stored_form, encode as stored_form};
pub use text::bounded as bounded_text;

/// Ten years at most: far beyond any retention, and no overflow of a timestamp.
fn seconds(duration: std::time::Duration) -> f64 {
    duration.min(std::time::Duration::from_hours(24 * 3_650)).as_secs_f64()
}
