//! A dead letter as it is kept and published, and what makes two of them the same bug.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::event::Fingerprint;
use super::failure::Reason;
use super::record::{Record, Timestamp};

/// A row of `dead_letters` with its record: what the DLQ topic is told.
#[derive(Clone, Debug)]
pub struct Letter {
    pub id: i64,
    pub topic: Arc<str>,
    pub record: Record,
    pub reason: Reason,
    pub class: String,
    pub error: String,
    pub attempts: u32,
    pub first_failed_at: Timestamp,
    pub last_failed_at: Timestamp,
    pub fingerprint: String,
    pub replays: u32,
}

/// Groups dead letters by bug: the reason and the error with its ids and numbers removed, as 16 hex digits.
#[must_use]
pub fn bug_fingerprint(reason: Reason, error: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(reason.as_str());
    hasher.update([0]);
    hasher.update(without_particulars(error));
    let digest = Fingerprint(hasher.finalize().into()).to_string();
    digest.chars().take(16).collect()
}

/// Every word that holds a digit becomes `<n>`: numbers, UUIDs, hashes, coordinates.
fn without_particulars(error: &str) -> String {
    error
        .split(|c: char| !c.is_alphanumeric() && c != '-')
        .filter(|word| !word.is_empty())
        .map(|word| if word.contains(|c: char| c.is_ascii_digit()) { "<n>" } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_numbers_do_not_make_another_bug() {
        let of = |error: &str| bug_fingerprint(Reason::Permanent, error);
        assert_eq!(of("422: order 17 refused"), of("422: order 4711 refused"));
        assert_eq!(of("trace 4bf92f35-77b3-4da6 lost"), of("trace 00f067aa-0ba9-02b7 lost"));
        assert_ne!(of("quantity must be positive"), of("user must be known"));
        assert_ne!(of("x"), bug_fingerprint(Reason::Exhausted, "x"));
    }
}
