//! `herald dlq discard` closes dead letters for good, and `herald dlq restore` undoes it.

use clap::Args;
use serde_json::json;

use super::confirm::confirm;
use super::selection::SelectionArguments;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::table::number;
use crate::operations::{CloseReason, Closing, Operations};

#[derive(Args, Debug)]
pub(in crate::cli) struct DiscardArguments {
    #[command(flatten)]
    wanted: Wanted,
    /// Why: fixed_at_source, obsolete, duplicate, test_data, unrepairable, other
    #[arg(long, value_name = "CODE", value_parser = reason)]
    why: CloseReason,
    /// In words; required for other
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct RestoreArguments {
    #[command(flatten)]
    wanted: Wanted,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

/// Which ones, and how the operator is asked and told.
#[derive(Args, Debug)]
struct Wanted {
    /// These dead letters
    ids: Vec<i64>,
    #[command(flatten)]
    selection: SelectionArguments,
    /// Do not ask, however many they are
    #[arg(long)]
    yes: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn discard(arguments: DiscardArguments, operations: &Operations) -> Result<(), Failure> {
    let DiscardArguments { wanted, why, note } = arguments;
    let frozen = operations.freeze_to_discard(wanted.selection.selection(wanted.ids)).await?;
    confirm("discarding", frozen.ids.len(), wanted.yes)?;
    let closing = operations.discard(&frozen, why, &note).await?;
    told("discarded", &closing, wanted.json)
}

pub(super) async fn restore(arguments: RestoreArguments, operations: &Operations) -> Result<(), Failure> {
    let RestoreArguments { wanted, note } = arguments;
    let frozen = operations.freeze_to_restore(wanted.selection.selection(wanted.ids)).await?;
    confirm("restoring", frozen.ids.len(), wanted.yes)?;
    let closing = operations.restore(&frozen, &note).await?;
    told("restored", &closing, wanted.json)
}

/// Says what was done, and what was not since somebody else was first.
fn told(what: &str, closing: &Closing, as_json: bool) -> Result<(), Failure> {
    let count = |count: usize| number(i64::try_from(count).unwrap_or(i64::MAX));
    if as_json {
        print(&format!("{}\n", json!({"done": closing.done, "left": closing.left_count})))?;
    } else {
        print(&format!("{} {what}\n", count(closing.done.len())))?;
    }
    if closing.left_count == 0 {
        return Ok(());
    }
    let mut lines = vec![format!("{} were not {what}: they changed meanwhile", count(closing.left_count))];
    lines.extend(closing.left.iter().map(|(id, state)| format!("  {id}: {state}")));
    Err(Failure::Partly(lines.join("\n")))
}

fn reason(text: &str) -> Result<CloseReason, String> {
    let names = CloseReason::ALL.map(CloseReason::as_str).join(", ");
    let found = CloseReason::ALL.into_iter().find(|reason| reason.as_str() == text);
    found.ok_or_else(|| format!("expected one of {names}"))
}
