//! `herald dlq replays`: what runs, and pause, resume, cancel.

use clap::{Args, Subcommand};
use serde_json::json;

use super::publish;
use super::replay::{closing, ratio};
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_lines};
use crate::cli::table::{Align, Table, number};
use crate::operations::Operations;
use crate::postgres::{Replay, ReplayTo};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    change: Option<Change>,
    /// Only this one
    #[arg(value_parser = replay_id)]
    id: Option<i64>,
    /// How many, the newest first
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// One JSON object for each
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Change {
    /// Begin nothing more of it until it is resumed
    Pause {
        #[arg(value_parser = replay_id)]
        id: i64,
    },
    /// Go on with a paused or a stopped one
    Resume {
        #[arg(value_parser = replay_id)]
        id: i64,
        /// For a stopped one: the part that may fail from here on
        #[arg(long, value_parser = ratio)]
        max_failure_ratio: Option<f64>,
    },
    /// Give back what no worker has begun; for good
    Cancel {
        #[arg(value_parser = replay_id)]
        id: i64,
    },
}

pub(super) async fn execute(arguments: &Arguments, operations: &Operations) -> Result<(), Failure> {
    let changed = match arguments.change {
        Some(Change::Pause { id }) => Some(operations.pause_replay(id).await?),
        Some(Change::Resume { id, .. }) if operations.replay(id).await?.to == ReplayTo::Topic => {
            let publishing = operations.resume_publishing(id).await?;
            return publish::publish(operations.replay(id).await?, publishing, operations, arguments.json).await;
        }
        Some(Change::Resume { id, max_failure_ratio }) => Some(operations.resume_replay(id, max_failure_ratio).await?),
        Some(Change::Cancel { id }) => Some(operations.cancel_replay(id).await?),
        None => None,
    };
    if let Some(replay) = changed {
        return print(&format!("{}\n", closing(&replay)));
    }
    let replays = match arguments.id {
        Some(id) => vec![operations.replay(id).await?],
        None => operations.replays(arguments.limit).await?,
    };
    if arguments.json {
        return print_lines(replays.iter().map(as_json));
    }
    if replays.is_empty() {
        return print("no replays\n");
    }
    print(&table(&replays))
}

fn table(replays: &[Replay]) -> String {
    let mut table = Table::new(&[
        ("id", Align::Left),
        ("state", Align::Left),
        ("planned", Align::Left),
        ("by", Align::Left),
        ("letters", Align::Right),
        ("notified", Align::Right),
        ("dup", Align::Right),
        ("dead", Align::Right),
        ("published", Align::Right),
        ("to do", Align::Right),
        ("why", Align::Rest),
    ]);
    for replay in replays {
        let progress = &replay.progress;
        table.row(vec![
            format!("r{}", replay.id),
            replay.state.as_str().to_owned(),
            replay.planned_at.to_string(),
            replay.planned_by.clone(),
            number(progress.total()),
            number(progress.notified),
            number(progress.duplicate),
            number(progress.dead),
            number(progress.published),
            number(progress.planned + progress.scheduled),
            replay.reason.clone(),
        ]);
    }
    table.render()
}

pub(super) fn as_json(replay: &Replay) -> serde_json::Value {
    let progress = &replay.progress;
    json!({
        "id": replay.id,
        "state": replay.state.as_str(),
        "to_topic": replay.to == ReplayTo::Topic,
        "planned_by": replay.planned_by,
        "planned_at": replay.planned_at.rfc3339(),
        "changed_by": replay.changed_by,
        "changed_at": replay.changed_at.rfc3339(),
        "reason": replay.reason,
        "letters": progress.total(),
        "to_do": progress.planned + progress.scheduled,
        "notified": progress.notified,
        "duplicate": progress.duplicate,
        "dead_again": progress.dead.saturating_sub(replay.quarantined),
        "quarantined": replay.quarantined,
        "published": progress.published,
        "left_out": progress.left_out.saturating_sub(replay.cancelled),
        "cancelled": replay.cancelled,
    })
}

/// `p7`, `r7` or `7`.
pub(super) fn replay_id(text: &str) -> Result<i64, String> {
    let digits = text.trim_start_matches(['p', 'r']);
    digits.parse().map_err(|_| "expected the id of a plan or a replay, such as p7 or r7".to_owned())
}
