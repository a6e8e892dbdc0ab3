//! The command line: one file per subcommand.

mod arguments;
mod config;
mod demo;
mod failure;
pub mod output;

pub use arguments::ConfigArguments;
pub use failure::Failure;

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
    /// Show, describe and document the configuration
    #[command(subcommand)]
    Config(config::Command),
    Demo(demo::DemoArguments),
}

impl Cli {
    /// Runs the subcommand to its end.
    pub fn execute(self) -> Result<(), Failure> {
        match self.command {
            Command::Config(command) => config::execute(&command, self.config),
            Command::Demo(arguments) => demo::execute(&arguments),
        }
    }
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
