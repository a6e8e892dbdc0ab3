//! Parses the command line, runs the command, and maps its failure to an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use herald::cli::Cli;
use herald::cli::output::Style;

fn main() -> ExitCode {
    match Cli::parse().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut stderr = io::stderr().lock();
            let message = failure.message(Style::of(&stderr));
            // Nobody is left to be told when standard error is gone; the exit code still says it.
            let _ = stderr.write_all(message.as_bytes());
            failure.exit_code()
        }
    }
}
