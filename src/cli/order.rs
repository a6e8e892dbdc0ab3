//! `herald order`: what one order went through.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use super::arguments::ConfigArguments;
use super::dlq::{self, OperatorArguments};
use super::failure::Failure;
use super::output::{print, print_lines};
use super::table::{Align, Table, time_of_day};
use crate::core::input::LedgerState;
use crate::operations::{OrderPath, PathStep};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The order's id
    id: String,
    /// One JSON object for each step
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(
    arguments: &Arguments,
    operator: OperatorArguments,
    config: ConfigArguments,
) -> Result<(), Failure> {
    let operations = dlq::connect(operator, config)?;
    let path = operations.order_path(&arguments.id).await?;
    if arguments.json {
        return print_lines(path.steps.iter().map(as_json));
    }
    if path.ledger.is_empty() && path.steps.is_empty() {
        let topic = &operations.settings().kafka.topic;
        return print(&format!("order {}: nothing is known of it in {topic}\n", arguments.id));
    }
    print(&described(&arguments.id, &path))
}

fn as_json(step: &PathStep) -> serde_json::Value {
    json!({"at": step.at.rfc3339(), "event_type": step.event_type, "what": step.what, "detail": step.detail})
}

fn described(id: &str, path: &OrderPath) -> String {
    let mut text = String::new();
    for entry in &path.ledger {
        let since = entry.settled_at.unwrap_or(entry.claimed_at);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "order {id} · {} · {} {since}", entry.event_type, state(entry.state));
    }
    let mut table = Table::new(&[("time", Align::Left), ("what", Align::Left), ("", Align::Rest)]);
    let mut day = None;
    for step in &path.steps {
        let date = step.at.utc().map(|time| time.date_naive());
        let time = if date == day { time_of_day(step.at) } else { step.at.to_string() };
        day = date;
        table.row(vec![time, step.what.clone(), step.detail.clone()]);
    }
    text + &table.render()
}

fn state(state: LedgerState) -> &'static str {
    match state {
        LedgerState::Claimed => "being handled since",
        LedgerState::Parked => "waits since",
        LedgerState::Done => "notified",
        LedgerState::Dead => "dead since",
        LedgerState::Uncertain => "uncertain since",
    }
}
