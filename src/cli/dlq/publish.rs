//! `herald dlq replay --to-topic`: the records again in their topic, for every group that reads it. This command publishes them.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::confirm::confirm_always;
use super::replay::{bar, closing};
use super::replays::as_json;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::table::number;
use crate::config::Kafka;
use crate::kafka::readers::{Reader, Reads};
use crate::operations::{Operations, Publishing};
use crate::postgres::{Replay, ReplayState};

/// Where nothing can be redrawn.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How an operator wants to be asked and told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) yes: bool,
    pub(super) json: bool,
}

/// Names the groups that the plan reaches, asks, and publishes.
pub(super) async fn execute(plan: Replay, operations: &Operations, manner: Manner) -> Result<(), Failure> {
    let readers = operations.readers().await?;
    if !manner.json {
        print(&told(&readers, &operations.settings().kafka))?;
    }
    if plan.state == ReplayState::Planned {
        let count = usize::try_from(plan.progress.total()).unwrap_or(usize::MAX);
        confirm_always("publishing", count, manner.yes)?;
    }
    let publishing = operations.begin_publishing(plan.id, &readers).await?;
    publish(plan, publishing, operations, manner.json).await
}

/// Publishes until it is over or taken from us, and tells how the letters ended.
pub(super) async fn publish(
    first: Replay,
    mut publishing: Publishing,
    operations: &Operations,
    json: bool,
) -> Result<(), Failure> {
    let bar = bar(&first, json);
    let mut told: Option<Instant> = None;
    let replay = loop {
        let replay = operations.publish_next(&mut publishing).await?;
        bar.set_position(replay.progress.ended());
        if replay.state != ReplayState::Publishing {
            break replay;
        }
        if bar.is_hidden() && !json && told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            let (ended, total) = (number(replay.progress.ended()), number(replay.progress.total()));
            print(&format!("r{} {ended}/{total}\n", replay.id))?;
        }
    };
    bar.finish_and_clear();
    print(&if json { format!("{}\n", as_json(&replay)) } else { format!("{}\n", closing(&replay)) })?;
    if replay.state == ReplayState::Done && replay.progress.left_out == 0 {
        return Ok(());
    }
    // Everything was told already.
    Err(Failure::Partly(String::new()))
}

/// The groups, a line each, with what says that they read the topic.
pub(super) fn told(readers: &[Reader], kafka: &Kafka) -> String {
    let mut text = format!("  to {}, for every group that reads it:\n", kafka.topic);
    let width = readers.iter().map(|reader| reader.group.chars().count()).max().unwrap_or_default();
    for Reader { group, reads } in readers {
        let ours = if *group == kafka.group { " · this one" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {group:width$}  {}{ours}", reason(*reads));
    }
    if readers.is_empty() {
        text.push_str("    none that may be seen: only groups that this client may describe are named\n");
    }
    text
}

pub(super) fn readers_as_json(readers: &[Reader]) -> Value {
    let reads = |reads: Reads| match reads {
        Reads::Committed => "committed",
        Reads::Subscribed => "subscribed",
        Reads::Perhaps => "perhaps",
    };
    readers.iter().map(|reader| json!({"group": reader.group, "reads": reads(reader.reads)})).collect()
}

fn reason(reads: Reads) -> &'static str {
    match reads {
        Reads::Committed => "has committed offsets",
        Reads::Subscribed => "is subscribed, nothing committed yet",
        Reads::Perhaps => "may read it: a share group, or its offsets cannot be seen",
    }
}
