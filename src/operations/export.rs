//! Dead letters as lines of JSON, for `jq` and for whoever takes them elsewhere.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::cover::seen;
use super::payload::{Payload, Sight, hex};
use super::{OperationError, Operations, Selection};
use crate::core::record::Timestamp;
use crate::core::trace::TraceParent;
use crate::postgres::{ListedLetter, PastAttempt, PastReplay, ReplayTo, WholeLetter};

/// Letters that are read at once.
const PAGE: u32 = 200;

/// One dead letter, whole. The payload is its own text, so that no number loses a digit.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    listed: Value,
    timestamp: Option<String>,
    trace_id: Option<String>,
    key: Value,
    headers: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hidden_bytes: Option<usize>,
    history: Vec<Value>,
    replay_history: Vec<Value>,
}

impl Operations {
    /// The next selected dead letters after the id `after`, oldest first, each as a line of JSON; empty at the end.
    pub async fn export(
        &self,
        selection: &Selection,
        after: i64,
        mask: &[String],
    ) -> Result<(Vec<String>, i64), OperationError> {
        let letters = self.postgres.whole_letters(&selection.to_json(), after, PAGE).await?;
        let last = letters.last().map_or(after, |letter| letter.listed.id);
        let line = |letter: WholeLetter| {
            let (letter, payload) = seen(letter, mask);
            as_line(&letter, &payload)
        };
        Ok((letters.into_iter().map(line).collect(), last))
    }

    /// The fields that an export masks. That none are is written to the audit.
    pub async fn export_mask(&self, selection: &Selection, sight: Sight) -> Result<Vec<String>, OperationError> {
        self.may_search(selection, "export", sight).await?;
        let count = self.postgres.count_letters(&selection.to_json()).await?;
        Ok(self.mask(selection, sight, count).await?.to_vec())
    }
}

/// One dead letter as a line of JSON.
#[must_use]
pub fn as_line(letter: &WholeLetter, payload: &Payload) -> String {
    let (mut json, mut bytes, mut hidden) = (None, None, None);
    match payload {
        Payload::Absent => {}
        Payload::Json(text) => json = serde_json::from_str::<&RawValue>(text).ok(),
        Payload::Bytes(text) => bytes = Some(text.as_str()),
        Payload::Hidden { bytes } => hidden = Some(*bytes),
    }
    let header = |header: &crate::core::record::Header| json!({"name": bytes_as_json(&header.name), "value": header.value.as_deref().map(bytes_as_json)});
    let line = Line {
        listed: listed_as_json(&letter.listed),
        timestamp: letter.record.timestamp.and_then(Timestamp::rfc3339),
        trace_id: trace_id(letter),
        key: letter.record.key.as_deref().map_or(Value::Null, bytes_as_json),
        headers: letter.record.headers.iter().map(header).collect(),
        payload: json,
        payload_hex: bytes,
        payload_hidden_bytes: hidden,
        history: letter.history.iter().map(attempt_as_json).collect(),
        replay_history: letter.replays.iter().map(replay_as_json).collect(),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

impl ListedLetter {
    /// As lists and exports have it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        listed_as_json(self)
    }
}

fn listed_as_json(letter: &ListedLetter) -> Value {
    let mut json = json!({
        "id": letter.id,
        "state": letter.state.as_str(),
        "reason": letter.reason.as_str(),
        "class": letter.class,
        "error": letter.error,
        "group": letter.group,
        "order_id": letter.order_id,
        "event_type": letter.event_type,
        "partition": letter.coordinates.partition.0,
        "offset": letter.coordinates.offset.0,
        "attempts": letter.attempts,
        "replays": letter.replays,
        "first_failed_at": letter.first_failed_at.rfc3339(),
        "last_failed_at": letter.last_failed_at.rfc3339(),
    });
    if let (Some(closed), Some(fields)) = (&letter.closed, json.as_object_mut()) {
        fields.insert("closed_at".to_owned(), closed.at.rfc3339().into());
        fields.insert("closed_by".to_owned(), closed.by.clone().into());
        fields.insert("close_reason".to_owned(), closed.reason.clone().into());
        fields.insert("close_note".to_owned(), closed.note.clone().into());
    }
    json
}

fn attempt_as_json(attempt: &PastAttempt) -> Value {
    json!({
        "attempt": attempt.number,
        "at": attempt.at.rfc3339(),
        "took_ms": attempt.took_ms,
        "class": attempt.class,
        "error": attempt.error,
    })
}

fn replay_as_json(replay: &PastReplay) -> Value {
    json!({
        "replay": replay.replay,
        "to_topic": replay.to == ReplayTo::Topic,
        "by": replay.by,
        "reason": replay.reason,
        "begun_at": replay.begun_at.and_then(Timestamp::rfc3339),
        "ended_at": replay.ended_at.and_then(Timestamp::rfc3339),
        "outcome": replay.outcome,
        "detail": replay.detail,
    })
}

/// Of the trace that the producer began.
#[must_use]
pub fn trace_id(letter: &WholeLetter) -> Option<String> {
    TraceParent::of(&letter.record).map(|parent| format!("{:032x}", parent.trace_id))
}

/// Text where it is some, else `{"hex": …}`.
fn bytes_as_json(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| json!({"hex": hex(bytes)}), Value::from)
}
