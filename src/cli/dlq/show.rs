//! `herald dlq show`: one dead letter whole.

use std::fmt::Write;

use clap::Args;

use super::groups::short_group;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::table::{folded, number, terminal_width, time_of_day};
use crate::core::record::{Header, Record};
use crate::operations::{Operations, Payload, Shown, Sight, as_line, hex, trace_id};
use crate::postgres::{DeadLetterState, ListedLetter, PastReplay, ReplayTo};

/// Where values stand.
const INDENT: usize = 10;
/// Narrower terminals wrap by themselves.
const MIN_ROOM: usize = 30;

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    id: i64,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Show fields that dead_letters.mask hides; written to the audit
    #[arg(long)]
    unmask: bool,
}

pub(super) async fn execute(arguments: &Arguments, operations: &Operations) -> Result<(), Failure> {
    let sight = if arguments.unmask { Sight::Unmasked } else { Sight::Masked };
    let shown = operations.show(arguments.id, sight).await?;
    if arguments.json {
        return print(&format!("{}\n", as_line(&shown.letter, &shown.payload)));
    }
    let topic = &operations.settings().kafka.topic;
    print(&described(&shown, topic))
}

fn described(shown: &Shown, topic: &str) -> String {
    let letter = &shown.letter.listed;
    let at = letter.coordinates;
    let mut text = String::new();
    let room = terminal_width().saturating_sub(INDENT).max(MIN_ROOM);
    let mut line = |name: &str, value: &str| {
        for (number, part) in folded(value, room).iter().enumerate() {
            let name = if number == 0 { name } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", format!("{name:INDENT$}{part}").trim_end());
        }
    };
    let alike = format!("group {} ({} alike)", short_group(&letter.group), number(shown.alike));
    line("dead", &format!("letter {} · {} · {} · {alike}", letter.id, letter.reason, letter.state.as_str()));
    line("order", &format!("{} · {}", letter.order_id, letter.event_type));
    let appended = shown.letter.record.timestamp.map_or_else(|| "no time".to_owned(), |at| at.to_string());
    line("from", &format!("{topic}/{} @ {} · {appended}", at.partition, number(at.offset.0)));
    let published = shown.letter.published_at.map_or_else(|| "not yet".to_owned(), |at| at.to_string());
    line("published", &published);
    if let Some(trace) = trace_id(&shown.letter) {
        line("trace", &trace);
    }
    for attempt in attempts(shown) {
        line("attempt", &attempt);
    }
    line("error", &letter.error.replace(['\n', '\r', '\t'], " "));
    line("replays", &number(letter.replays));
    for replay in &shown.letter.replays {
        line("replay", &replayed(replay));
    }
    for header in headers(&shown.letter.record) {
        line("header", &header);
    }
    line("key", &shown.letter.record.key.as_deref().map_or_else(|| "none".to_owned(), bytes));
    line("payload", &payload(&shown.payload));
    for entry in &shown.ledger {
        let when = entry.settled_at.unwrap_or(entry.claimed_at);
        let state = format!("{:?}", entry.state).to_lowercase();
        line("ledger", &format!("{} is {state} since {when}", entry.event_type));
    }
    line("next", &next(letter));
    text
}

fn attempts(shown: &Shown) -> Vec<String> {
    let told = shown.letter.history.iter().map(|attempt| {
        let error = attempt.error.replace(['\n', '\r', '\t'], " ");
        format!("{:<3} {}  {} ms  {error}", attempt.number, time_of_day(attempt.at), attempt.took_ms)
    });
    told.collect()
}

/// `r20  2026-11-23 09:02:58Z by ops, dead again · gateway limit raised, INC-812`.
fn replayed(replay: &PastReplay) -> String {
    let at = replay.begun_at.or(replay.ended_at).map_or_else(|| "not begun".to_owned(), |at| at.to_string());
    let to = if replay.to == ReplayTo::Topic { " to the topic" } else { "" };
    let outcome = replay.outcome.as_deref().unwrap_or("under way").replace('_', " ");
    // Of a failure, the attempts above tell.
    let is_told = replay.outcome.as_deref().is_some_and(|outcome| outcome == "dead_again" || outcome == "quarantined");
    let detail = replay.detail.as_ref().filter(|_| !is_told).map_or_else(String::new, |detail| format!(": {detail}"));
    let why = if replay.reason.is_empty() { String::new() } else { format!(" · {}", replay.reason) };
    format!("r{}  {at} by {}{to}, {outcome}{detail}{why}", replay.replay, replay.by)
}

fn headers(record: &Record) -> Vec<String> {
    let told = record.headers.iter().map(|Header { name, value }| {
        let value = value.as_deref().map_or_else(|| "null".to_owned(), bytes);
        format!("{} {value}", bytes(name))
    });
    told.collect()
}

/// Text as it is, other bytes in hex.
fn bytes(bytes: &[u8]) -> String {
    let is_plain = |text: &&str| !text.chars().any(char::is_control);
    if let Some(text) = std::str::from_utf8(bytes).ok().filter(is_plain) {
        return format!("{text:?}");
    }
    format!("0x{} ({} bytes)", hex(bytes), bytes.len())
}

fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Absent => "none: a tombstone".to_owned(),
        Payload::Json(text) => text.clone(),
        Payload::Bytes(hex) => format!("0x{hex} ({} bytes, no JSON)", hex.len() / 2),
        Payload::Hidden { bytes } => format!("{bytes} bytes that cannot be masked: --unmask shows them"),
    }
}

fn next(letter: &ListedLetter) -> String {
    let id = letter.id;
    match (letter.state, &letter.closed) {
        (DeadLetterState::Open | DeadLetterState::Quarantined, _) => {
            format!("herald dlq replay {id}    herald dlq discard {id} --why …    herald order {}", letter.order_id)
        }
        (DeadLetterState::Replaying, _) => format!("a replay has it    herald order {}", letter.order_id),
        (DeadLetterState::Discarded, Some(closed)) => format!(
            "discarded by {} at {}, {}: herald dlq restore {id}",
            closed.by.as_deref().unwrap_or("nobody known"),
            closed.at,
            closed.reason.as_deref().unwrap_or_default(),
        ),
        (DeadLetterState::Discarded, None) => format!("herald dlq restore {id}"),
        (DeadLetterState::Resolved, _) => {
            format!("nothing: its order was notified    herald order {}", letter.order_id)
        }
    }
}
