//! The column `history`: every failed attempt with its error, as JSON.

use serde::Deserialize;
use serde_json::json;

use super::text;
use crate::core::attempts::FailedAttempt;
use crate::core::record::Timestamp;

/// An attempt that failed, as it was written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastAttempt {
    pub number: u32,
    pub at: Timestamp,
    pub took_ms: u64,
    pub class: String,
    pub error: String,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    at_ms: i64,
    #[serde(default)]
    took_ms: u64,
    #[serde(default)]
    class: String,
    #[serde(default)]
    error: String,
}

/// With ages; the statement makes them times.
pub(super) fn encode(failures: &[FailedAttempt]) -> String {
    let items = failures.iter().map(|failure| {
        json!({
            "attempt": failure.number,
            "ago_ms": millis(failure.ago),
            "took_ms": millis(failure.took),
            "class": failure.class,
            "error": text::bounded(&failure.error),
        })
    });
    items.collect::<serde_json::Value>().to_string()
}

/// What cannot be read, of a later version, is left out.
pub(super) fn decode(stored: &str) -> Vec<PastAttempt> {
    let items: Vec<Stored> = serde_json::from_str(stored).unwrap_or_default();
    let past = items.into_iter().map(|item| PastAttempt {
        number: item.attempt,
        at: Timestamp(item.at_ms),
        took_ms: item.took_ms,
        class: item.class,
        error: item.error,
    });
    past.collect()
}

fn millis(duration: std::time::Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX / 2)
}
