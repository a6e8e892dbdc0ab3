//! What a dead letter went through, as JSON: the column `history` has every failed attempt with its error, and a query tells its replays.

use serde::Deserialize;
use serde_json::json;

use super::replays::ReplayTo;
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

/// A replay that a dead letter was part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastReplay {
    pub replay: i64,
    pub to: ReplayTo,
    pub by: String,
    pub reason: String,
    pub begun_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// How it ended for this letter: `notified`, `dead_again`, and so on; absent while it has not.
    pub outcome: Option<String>,
    pub detail: Option<String>,
}

#[derive(Deserialize)]
struct StoredReplay {
    replay: i64,
    to_topic: bool,
    by: String,
    reason: String,
    begun_ms: Option<i64>,
    ended_ms: Option<i64>,
    outcome: Option<String>,
    detail: Option<String>,
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

/// What cannot be read, of a later version, is left out.
pub(super) fn decode_replays(stored: &str) -> Vec<PastReplay> {
    let items: Vec<StoredReplay> = serde_json::from_str(stored).unwrap_or_default();
    let past = items.into_iter().map(|item| PastReplay {
        replay: item.replay,
        to: if item.to_topic { ReplayTo::Topic } else { ReplayTo::Workers },
        by: item.by,
        reason: item.reason,
        begun_at: item.begun_ms.map(Timestamp),
        ended_at: item.ended_ms.map(Timestamp),
        outcome: item.outcome,
        detail: item.detail,
    });
    past.collect()
}

fn millis(duration: std::time::Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX / 2)
}
