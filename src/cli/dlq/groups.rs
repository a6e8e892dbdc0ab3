//! `herald dlq groups`: dead letters by bug.

use chrono::Utc;
use clap::Args;
use serde_json::json;

use super::selection::SelectionArguments;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_lines};
use crate::cli::table::{Align, Table, number, short_time, sparkline};
use crate::operations::Operations;
use crate::postgres::{DeadLetterState, LetterGroup};

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    selection: SelectionArguments,
    /// One JSON object for each group
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(arguments: Arguments, operations: &Operations) -> Result<(), Failure> {
    let selection = arguments.selection.selection(Vec::new()).or_in_states(&DeadLetterState::NOT_CLOSED);
    let (groups, expiring) = tokio::join!(operations.groups(&selection), operations.expiring());
    let (groups, expiring) = (groups?, expiring?);
    if arguments.json {
        return print_lines(groups.iter().map(as_json));
    }
    if groups.is_empty() {
        return print("no dead letters\n");
    }
    print(&format!("{}{}\n", table(&groups), closing(&groups, expiring)))
}

fn table(groups: &[LetterGroup]) -> String {
    let today = Utc::now().date_naive();
    let mut table = Table::new(&[
        ("open", Align::Right),
        ("reason", Align::Left),
        ("first", Align::Left),
        ("last", Align::Left),
        ("trend", Align::Left),
        ("replays", Align::Right),
        ("group", Align::Left),
        ("sample", Align::Right),
        ("what", Align::Rest),
    ]);
    for group in groups {
        table.row(vec![
            number(group.count),
            group.reason.to_string(),
            short_time(group.first_failed_at, today),
            short_time(group.last_failed_at, today),
            sparkline(&group.trend),
            number(group.replays),
            short_group(&group.group).to_owned(),
            group.sample_id.to_string(),
            group.sample_error.clone(),
        ]);
    }
    table.render()
}

/// Enough of a group's name to tell it from others.
pub(super) fn short_group(group: &str) -> &str {
    group.get(..6).unwrap_or(group)
}

fn closing(groups: &[LetterGroup], expiring: u64) -> String {
    let letters: u64 = groups.iter().map(|group| group.count).sum();
    let oldest = groups.iter().map(|group| group.first_failed_at).min();
    let oldest = oldest.map_or_else(String::new, |at| format!(" · oldest {at}"));
    let what = if groups.len() == 1 { "group" } else { "groups" };
    let expiring = match expiring {
        0 => "none expires within 24h".to_owned(),
        count => format!("{} expire within 24h: replay or discard them", number(count)),
    };
    format!("{} in {} {what}{oldest} · {expiring}", number(letters), groups.len())
}

fn as_json(group: &LetterGroup) -> serde_json::Value {
    json!({
        "group": group.group,
        "reason": group.reason.as_str(),
        "count": group.count,
        "first_failed_at": group.first_failed_at.rfc3339(),
        "last_failed_at": group.last_failed_at.rfc3339(),
        "trend": group.trend,
        "replays": group.replays,
        "sample_id": group.sample_id,
        "sample_error": group.sample_error,
    })
}
