//! The command line: one file per subcommand.

mod arguments;
mod check;
mod config;
mod demo;
mod dlq;
mod failure;
mod metrics;
mod migrate;
mod order;
pub mod output;
pub mod run;
pub(crate) mod table;

pub use arguments::ConfigArguments;
pub use failure::Failure;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// A Kafka notification worker that loses nothing and repeats nothing.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the worker
    Run,
    /// Look at brokers, topics, database and channel: what is wrong and how to mend it
    Check(check::Arguments),
    /// Apply database migrations
    Migrate,
    /// Show, describe and document the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// See, close and replay dead letters
    Dlq {
        #[command(flatten)]
        operator: dlq::OperatorArguments,
        #[command(subcommand)]
        command: Box<dlq::Command>,
    },
    /// What one order went through
    Order {
        #[command(flatten)]
        operator: dlq::OperatorArguments,
        #[command(flatten)]
        order: order::Arguments,
    },
    Demo(demo::DemoArguments),
    /// Describe the metrics
    #[command(subcommand, hide = true)]
    Metrics(metrics::Command),
}

impl Cli {
    /// Runs the subcommand to its end.
    pub fn execute(self) -> Result<(), Failure> {
        match self.command {
            Command::Run => block_on(run::execute(self.config)),
            Command::Check(arguments) => block_on(check::execute(&arguments, self.config)),
            Command::Migrate => block_on(migrate::execute(self.config)),
            Command::Config(command) => config::execute(&command, self.config),
            Command::Dlq { operator, command } => block_on(dlq::execute(*command, operator, self.config)),
            Command::Order { operator, order } => block_on(order::execute(&order, operator, self.config)),
            Command::Demo(arguments) => demo::execute(&arguments),
            Command::Metrics(command) => metrics::execute(&command),
        }
    }
}

fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("the async runtime cannot be started")?.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
