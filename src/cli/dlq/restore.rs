//! `herald dlq restore`: undo a discard.

use clap::Args;

use super::confirm::confirm;
use super::discard::told;
use super::selection::SelectionArguments;
use crate::cli::failure::Failure;
use crate::operations::Operations;

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// These dead letters
    ids: Vec<i64>,
    #[command(flatten)]
    selection: SelectionArguments,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Do not ask, however many they are
    #[arg(long)]
    yes: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(arguments: Arguments, operations: &Operations) -> Result<(), Failure> {
    let selection = arguments.selection.selection(arguments.ids);
    let frozen = operations.freeze_to_restore(selection).await?;
    confirm("restoring", frozen.ids.len(), arguments.yes)?;
    let closing = operations.restore(&frozen, &arguments.note).await?;
    told("restored", &closing, arguments.json)
}
