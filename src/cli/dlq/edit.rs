//! The payload of a dead letter in the operator's editor.

use std::io::Write;
use std::process::Command;

use anyhow::Context;

use crate::cli::failure::Failure;
use crate::operations::{Operations, Sight};

/// What the operator made of the payload.
pub(super) async fn edited(id: i64, operations: &Operations) -> Result<Vec<u8>, Failure> {
    if !operations.settings().dead_letters.edit {
        // The service layer refuses and writes it down; nobody is to edit for nothing.
        return Ok(Vec::new());
    }
    // Who edits sees what is masked: that is in the audit.
    let shown = operations.show(id, Sight::Unmasked).await?;
    let before = shown.letter.record.value.unwrap_or_default();
    let mut file = tempfile::Builder::new().suffix(".json").tempfile().context("a file to edit")?;
    file.write_all(&before).context("a file to edit")?;
    file.flush().context("a file to edit")?;
    let editor = std::env::var("VISUAL").or_else(|_| std::env::var("EDITOR")).unwrap_or_else(|_| "vi".to_owned());
    // As a shell would run it: editors are set with their arguments.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file.path()).status();
    let status = status.with_context(|| format!("the editor {editor}"))?;
    if !status.success() {
        return Err(Failure::Refused(format!("{editor} ended with {status}: nothing was changed")));
    }
    let after = std::fs::read(file.path()).context("the edited file")?;
    let after = after.strip_suffix(b"\n").unwrap_or(&after).to_vec();
    if after == before {
        return Err(Failure::Refused("the payload was not changed: replay it without --edit".to_owned()));
    }
    Ok(after)
}
