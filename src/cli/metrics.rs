//! `herald metrics`: what `/metrics` shows.

use anyhow::Context;
use clap::Subcommand;

use super::failure::Failure;
use super::output::print;
use crate::telemetry;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print docs/metrics.md
    Docs,
}

pub(super) fn execute(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Docs => print(&telemetry::docs::markdown().context("the metrics cannot be described")?),
    }
}
