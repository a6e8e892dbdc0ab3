//! `herald dlq`: one file per subcommand, and one for the pair that closes and opens. Everything is done by `operations`; here arguments are read and answers are shown.

mod audit;
mod closing;
mod confirm;
mod edit;
mod export;
mod groups;
mod list;
mod publish;
mod reindex;
mod replay;
mod replays;
mod selection;
mod show;

use clap::{Args, Subcommand};

use super::arguments::ConfigArguments;
use super::failure::Failure;
use crate::config::Purpose;
use crate::operations::{OperationError, Operations};
use crate::postgres::Postgres;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Dead letters by bug: how many, since when, and an example
    Groups(groups::Arguments),
    /// Dead letters, the newest first
    List(list::Arguments),
    /// One dead letter whole: every attempt, headers, payload
    Show(show::Arguments),
    /// Process dead letters again: plan first, then execute
    Replay(replay::Arguments),
    /// Replays: list, pause, resume, cancel
    Replays(replays::Arguments),
    /// Close dead letters for good, with a reason; can be undone
    Discard(closing::DiscardArguments),
    /// Open discarded dead letters again
    Restore(closing::RestoreArguments),
    /// Write dead letters as lines of JSON
    Export(export::Arguments),
    /// Rebuild the table from a dead-letter topic
    Reindex(reindex::Arguments),
    /// What operators did, and what was refused
    Audit(audit::Arguments),
}

/// In whose name.
#[derive(Args, Clone, Debug)]
pub(super) struct OperatorArguments {
    /// Your name for the audit; the login name by default
    #[arg(long, global = true, value_name = "NAME")]
    operator: Option<String>,
}

pub(super) async fn execute(
    command: Command,
    operator: OperatorArguments,
    config: ConfigArguments,
) -> Result<(), Failure> {
    let operations = connect(operator, config)?;
    match command {
        Command::Groups(arguments) => groups::execute(arguments, &operations).await,
        Command::List(arguments) => list::execute(arguments, &operations).await,
        Command::Show(arguments) => show::execute(&arguments, &operations).await,
        Command::Replay(arguments) => replay::execute(arguments, &operations).await,
        Command::Replays(arguments) => replays::execute(&arguments, &operations).await,
        Command::Discard(arguments) => closing::discard(arguments, &operations).await,
        Command::Restore(arguments) => closing::restore(arguments, &operations).await,
        Command::Export(arguments) => export::execute(arguments, &operations).await,
        Command::Reindex(arguments) => reindex::execute(&arguments, &operations).await,
        Command::Audit(arguments) => audit::execute(&arguments, &operations).await,
    }
}

pub(super) fn connect(operator: OperatorArguments, config: ConfigArguments) -> Result<Operations, Failure> {
    let settings = config.load(Purpose::Work)?.settings;
    let postgres = Postgres::connect(&settings).map_err(|error| Failure::Refused(error.to_string()))?;
    let operator = operator.operator.or_else(login_name).unwrap_or_else(|| "unknown".to_owned());
    Ok(Operations::new(postgres, settings, operator))
}

fn login_name() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    set("SUDO_USER").or_else(|| set("USER")).or_else(|| set("LOGNAME"))
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Refused(why) => Self::Refused(why),
            OperationError::Unavailable(why) => Self::Failed(anyhow::anyhow!(why)),
        }
    }
}
