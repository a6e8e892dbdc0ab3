//! Asking before much is changed.

use std::io::{self, BufRead, IsTerminal};

use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::table::number;

/// Up to so many are changed without being asked twice.
const UNASKED: usize = 100;

/// For many, the operator types their count, unless `--yes` says so already. Without a terminal nobody can be asked.
pub(super) fn confirm(what: &str, count: usize, yes: bool) -> Result<(), Failure> {
    if count <= UNASKED { Ok(()) } else { confirm_always(what, count, yes) }
}

/// However few they are.
pub(super) fn confirm_always(what: &str, count: usize, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let told = number(i64::try_from(count).unwrap_or(i64::MAX));
    if !io::stdin().is_terminal() {
        return Err(Failure::Refused(format!("{what} {told} dead letters needs --yes where nobody can be asked")));
    }
    print(&format!("{what} {told} dead letters: type their number to go on: "))?;
    let mut typed = String::new();
    io::stdin().lock().read_line(&mut typed).map_err(anyhow::Error::from)?;
    if is_count(&typed, count) { Ok(()) } else { Err(Failure::Refused("nothing was changed".to_owned())) }
}

fn is_count(typed: &str, count: usize) -> bool {
    typed.trim().replace(',', "") == count.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_count_is_a_yes() {
        assert!(is_count("2,871\n", 2_871));
        assert!(is_count(" 2871 ", 2_871));
        for typed in ["", "y", "yes", "2870", "28710"] {
            assert!(!is_count(typed, 2_871), "{typed}");
        }
    }
}
