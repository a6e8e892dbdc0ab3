//! `herald config`: what is configured, and what can be.

use clap::Subcommand;
use serde_json::Value;

use super::arguments::ConfigArguments;
use super::failure::Failure;
use super::output::print;
use crate::config::{self, Purpose};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the effective configuration with the origin of each value, secrets redacted
    Print {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a herald.toml with every key at its default
    Example,
    /// Print the JSON schema of herald.toml
    Schema,
    /// Print docs/configuration.md
    #[command(hide = true)]
    Docs,
}

pub(super) fn execute(command: &Command, arguments: ConfigArguments) -> Result<(), Failure> {
    match command {
        Command::Print { json: false } => print(&arguments.load(Purpose::Inspect)?.to_toml()),
        Command::Print { json: true } => print(&lines(&arguments.load(Purpose::Inspect)?.to_json())),
        Command::Example => print(&config::example()),
        Command::Schema => print(&lines(&config::schema())),
        Command::Docs => print(&config::markdown()),
    }
}

fn lines(value: &Value) -> String {
    format!("{value:#}\n")
}
