//! `herald dlq export`: dead letters as lines of JSON.

use clap::Args;

use super::selection::SelectionArguments;
use crate::cli::failure::Failure;
use crate::cli::output::print_lines;
use crate::operations::{Operations, Sight};

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// These dead letters
    ids: Vec<i64>,
    #[command(flatten)]
    selection: SelectionArguments,
    /// With the fields that dead_letters.mask hides; written to the audit
    #[arg(long)]
    unmask: bool,
}

pub(super) async fn execute(arguments: Arguments, operations: &Operations) -> Result<(), Failure> {
    let selection = arguments.selection.selection(arguments.ids);
    let sight = if arguments.unmask { Sight::Unmasked } else { Sight::Masked };
    let mask = operations.export_mask(&selection, sight).await?;
    let mut after = i64::MIN;
    loop {
        let (lines, last) = operations.export(&selection, after, &mask).await?;
        if lines.is_empty() {
            return Ok(());
        }
        print_lines(lines)?;
        after = last;
    }
}
