//! What one order went through, from the ledger, what is parked, and the dead letters.

use super::cover::{Cover, seen};
use super::{OperationError, Operations, Selection};
use crate::core::decode::Decoded;
use crate::core::input::LedgerState;
use crate::core::json;
use crate::core::record::Timestamp;
use crate::postgres::{DeadLetterState, LedgerEntry, PastAttempt, PastReplay, ReplayTo, WaitingRecord, WholeLetter};

/// Dead letters of one order that are looked at.
const MAX_LETTERS: u32 = 200;

/// The path of one order.
#[derive(Clone, Debug, Default)]
pub struct OrderPath {
    pub ledger: Vec<LedgerEntry>,
    /// In the order of time.
    pub steps: Vec<PathStep>,
}

/// Something that happened to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStep {
    pub at: Timestamp,
    pub event_type: String,
    pub what: String,
    pub detail: String,
}

impl Operations {
    /// Everything that is known of the order.
    pub async fn order_path(&self, order_id: &str) -> Result<OrderPath, OperationError> {
        let (ledger, waiting, letters) = tokio::join!(
            self.postgres.ledger_entries(order_id),
            self.postgres.waiting_records(order_id),
            self.letters_of_order(order_id),
        );
        let (ledger, letters) = (ledger?, letters?);
        let mut path = OrderPath { ledger, steps: Vec::new() };
        let mask = &self.rules().mask;
        for letter in letters {
            path.of_letter(&seen(letter, mask).0);
        }
        for record in waiting? {
            path.of_waiting(&record, &Cover::of(&record.record, mask));
        }
        for entry in path.ledger.clone() {
            path.of_ledger(&entry);
        }
        path.steps.sort_by_key(|step| step.at);
        Ok(path)
    }

    /// Those under its identity, and poison and conflicts that tell of it.
    async fn letters_of_order(&self, order_id: &str) -> Result<Vec<WholeLetter>, OperationError> {
        let own = Selection { order_id: Some(order_id.to_owned()), ..Selection::default() };
        let mut letters = self.postgres.whole_letters(&own.to_json(), i64::MIN, MAX_LETTERS).await?;
        let suspects = self.postgres.synthetic_letters_with(order_id, MAX_LETTERS).await?;
        let suspects = Selection::of_ids(suspects).to_json();
        let decoder = self.settings.decoder();
        let tells_of_it = |letter: &WholeLetter| match decoder.decode(&letter.record) {
            Decoded::Event { event, .. } => *event.identity.order_id == *order_id,
            Decoded::Poison { .. } | Decoded::Ignored { .. } => names_order(letter, order_id),
        };
        let found = self.postgres.whole_letters(&suspects, i64::MIN, MAX_LETTERS).await?;
        letters.extend(found.into_iter().filter(tells_of_it));
        Ok(letters)
    }
}

/// Whether the payload is JSON that has this order id where events have it.
fn names_order(letter: &WholeLetter, order_id: &str) -> bool {
    let value = letter.record.value.as_deref().unwrap_or_default();
    let Some(json) = json::read_bytes(value) else { return false };
    match json.pointer("/order/order_id") {
        Some(serde_json::Value::String(text)) => text == order_id,
        Some(serde_json::Value::Number(number)) => number.as_str() == order_id,
        Some(_) | None => false,
    }
}

impl OrderPath {
    fn step(&mut self, at: Timestamp, event_type: &str, what: impl Into<String>, detail: impl Into<String>) {
        let step = PathStep { at, event_type: event_type.to_owned(), what: what.into(), detail: detail.into() };
        self.steps.push(step);
    }

    fn of_ledger(&mut self, entry: &LedgerEntry) {
        let at = entry.coordinates;
        let from = format!("{}/{} @ {}", entry.topic, at.partition, at.offset);
        self.step(entry.claimed_at, &entry.event_type, "claimed", format!("{from}, epoch {}", entry.epoch));
        let Some(settled_at) = entry.settled_at else { return };
        match entry.state {
            LedgerState::Done => self.step(settled_at, &entry.event_type, "notified", from),
            LedgerState::Uncertain => {
                self.step(settled_at, &entry.event_type, "uncertain", "it is not known whether it was notified");
            }
            // The dead letter tells.
            LedgerState::Dead | LedgerState::Claimed | LedgerState::Parked => {}
        }
    }

    fn of_waiting(&mut self, record: &WaitingRecord, cover: &Cover) {
        let why = if record.is_replay { "for its replay" } else { "for its retry" };
        self.step(record.parked_at, &record.event_type, "parked", format!("waits {why} until {}", record.due_at));
        let mut history = record.history.clone();
        for attempt in &mut history {
            attempt.error = cover.text(&attempt.error);
        }
        self.of_attempts(&record.event_type, &history);
    }

    fn of_letter(&mut self, letter: &WholeLetter) {
        let listed = &letter.listed;
        let at = listed.coordinates;
        if let Some(appended) = letter.record.timestamp {
            let from = format!("partition {} @ {}", at.partition, at.offset);
            self.step(appended, &listed.event_type, "appended", from);
        }
        self.of_attempts(&listed.event_type, &letter.history);
        for replay in &letter.replays {
            self.of_replay(&listed.event_type, replay);
        }
        let told = format!("{}, {}: {}", listed.id, listed.reason, listed.error);
        self.step(listed.last_failed_at, &listed.event_type, "dead letter", told);
        if let Some(closed) = listed.closed.as_ref().filter(|_| listed.state == DeadLetterState::Discarded) {
            let by = closed.by.as_deref().unwrap_or("nobody known");
            let why = closed.reason.as_deref().unwrap_or_default();
            self.step(closed.at, &listed.event_type, "discarded", format!("{} by {by}, {why}", listed.id));
        }
    }

    fn of_replay(&mut self, event_type: &str, replay: &PastReplay) {
        let what = format!("replay r{}", replay.replay);
        let to = if replay.to == ReplayTo::Topic { " to the topic" } else { "" };
        let why = if replay.reason.is_empty() { String::new() } else { format!(": {}", replay.reason) };
        if let Some(at) = replay.begun_at {
            self.step(at, event_type, &*what, format!("by {}{to}{why}", replay.by));
        }
        if let (Some(at), Some(outcome)) = (replay.ended_at, &replay.outcome) {
            let detail = replay.detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
            self.step(at, event_type, what, format!("ended, {}{detail}", outcome.replace('_', " ")));
        }
    }

    fn of_attempts(&mut self, event_type: &str, history: &[PastAttempt]) {
        for attempt in history {
            let detail = format!("{} ({} ms)", attempt.error, attempt.took_ms);
            self.step(attempt.at, event_type, format!("attempt {}", attempt.number), detail);
        }
    }
}
