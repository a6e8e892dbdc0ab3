//! `herald dlq replay`: a plan first, then its execution.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::confirm::confirm;
use super::groups::short_group;
use super::publish;
use super::replays::{as_json, replay_id};
use super::selection::SelectionArguments;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::table::number;
use crate::kafka::readers::Reader;
use crate::operations::{Operations, Plan, ReplayWish, Selection};
use crate::postgres::{Prospect, Replay, ReplayState, ReplayTo};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Where nothing can be redrawn.
const TELL_EVERY: u32 = 10;

#[derive(Args, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in crate::cli) struct Arguments {
    /// These dead letters; a single one is replayed at once
    ids: Vec<i64>,
    #[command(flatten)]
    selection: SelectionArguments,
    /// Execute this plan
    #[arg(long, value_name = "PLAN", value_parser = replay_id, conflicts_with = "ids")]
    plan: Option<i64>,
    /// Dead letters each second
    #[arg(long, default_value_t = 50.0, value_parser = rate)]
    rate: f64,
    /// Process so many first, and the rest only when they did not fail too often
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    canary: u32,
    /// Stop when more than this part of what was processed has failed again
    #[arg(long, default_value_t = 0.2, value_parser = ratio)]
    max_failure_ratio: f64,
    /// Publish the original records to the source topic, for every group that reads it, instead of to this group's workers alone
    #[arg(long, conflicts_with_all = ["canary", "edit"])]
    to_topic: bool,
    /// Also what is quarantined after too many replays
    #[arg(long)]
    override_cap: bool,
    /// Change the payload in $EDITOR first; one dead letter only
    #[arg(long)]
    edit: bool,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    /// Do not ask, however many they are
    #[arg(long)]
    yes: bool,
    /// Wait for the end and say how each ended
    #[arg(long)]
    wait: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(arguments: Arguments, operations: &Operations) -> Result<(), Failure> {
    let wish = ReplayWish {
        to: if arguments.to_topic { ReplayTo::Topic } else { ReplayTo::Workers },
        rate: arguments.rate,
        canary: arguments.canary,
        max_failure_ratio: arguments.max_failure_ratio,
        override_cap: arguments.override_cap,
        reason: arguments.why,
    };
    let is_single = arguments.ids.len() == 1;
    let plan = match (arguments.plan, arguments.ids.as_slice()) {
        (Some(id), _) => operations.replay(id).await?,
        (None, [id]) if arguments.edit => {
            let payload = super::edit::edited(*id, operations).await?;
            operations.plan_edited(*id, payload, &wish).await?.replay
        }
        (None, _) if arguments.edit => return Err(Failure::Refused("--edit takes exactly one dead letter".to_owned())),
        (None, [id]) => operations.plan_replay(Selection::of_ids(vec![*id]), &wish).await?.replay,
        (None, _) => {
            let plan = operations.plan_replay(arguments.selection.selection(arguments.ids), &wish).await?;
            let readers = match plan.replay.to {
                ReplayTo::Topic => Some(operations.readers().await?),
                ReplayTo::Workers => None,
            };
            if arguments.json {
                return print(&format!("{}\n", plan_as_json(&plan, readers.as_deref())));
            }
            let reached = readers.map(|readers| publish::told(&readers, &operations.settings().kafka));
            return print(&plan_as_text(&plan, reached.as_deref()));
        }
    };
    if plan.to == ReplayTo::Topic {
        let manner = publish::Manner { yes: arguments.yes, json: arguments.json };
        return publish::execute(plan, operations, manner).await;
    }
    let count = usize::try_from(plan.progress.total()).unwrap_or(usize::MAX);
    if plan.state == ReplayState::Planned && !is_single {
        confirm("replaying", count, arguments.yes)?;
    }
    let replay = operations.execute_plan(plan.id).await?;
    if arguments.wait {
        return wait(replay, operations, arguments.json).await;
    }
    if arguments.json {
        return print(&format!("{}\n", as_json(&replay)));
    }
    let id = replay.id;
    print(&format!(
        "replay r{id} of {} dead letters runs in the workers\nwatch: herald dlq replays r{id}    pause: herald dlq replays pause r{id}\n",
        number(replay.progress.total())
    ))
}

/// How many letters have which prospect.
fn prospects(plan: &Plan) -> impl Iterator<Item = (Prospect, u64)> {
    Prospect::ALL.into_iter().map(|prospect| {
        let count = plan.prospects.iter().filter(|letter| letter.prospect == prospect).count();
        (prospect, u64::try_from(count).unwrap_or(u64::MAX))
    })
}

fn plan_as_json(plan: &Plan, readers: Option<&[Reader]>) -> Value {
    let replay = &plan.replay;
    let counts: Map<_, _> =
        prospects(plan).map(|(prospect, count)| (prospect.as_str().replace(' ', "_"), count.into())).collect();
    let groups: Map<_, _> = by_group(plan).into_iter().map(|(name, count)| (name, count.into())).collect();
    let mut json = json!({"plan": format!("p{}", replay.id), "valid_until": replay.valid_until.rfc3339(),
                          "letters": replay.progress.total(), "prospects": counts, "groups": groups});
    if let (Some(readers), Some(fields)) = (readers, json.as_object_mut()) {
        fields.insert("reaches".to_owned(), publish::readers_as_json(readers));
    }
    json
}

/// With the groups that it reaches, where it goes to the topic.
fn plan_as_text(plan: &Plan, reached: Option<&str>) -> String {
    let replay = &plan.replay;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "plan p{} · {} dead letters frozen at {} · valid until {}",
        replay.id,
        number(replay.progress.total()),
        replay.planned_at,
        replay.valid_until
    );
    for (prospect, count) in prospects(plan).filter(|(_, count)| *count > 0) {
        let (name, note) = told(prospect, replay.to);
        let _ = writeln!(text, "{}", format!("  {name:20}{:>8}  {note}", number(count)).trim_end());
    }
    for (name, count) in by_group(plan) {
        let _ = writeln!(text, "  {name:20}{:>8}", number(count));
    }
    let wait = if reached.is_some() { "" } else { " --wait" };
    let _ = writeln!(text, "{}  {}", reached.unwrap_or_default(), terms(replay));
    let _ = writeln!(text, "run it:  herald dlq replay --plan p{}{wait}", replay.id);
    text
}

/// What is taken, by reason and group.
fn by_group(plan: &Plan) -> Vec<(String, u64)> {
    let mut groups: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    for letter in plan.prospects.iter().filter(|letter| letter.prospect.is_taken(plan.replay.to)) {
        *groups.entry(format!("{} {}", letter.reason, short_group(&letter.group))).or_default() += 1;
    }
    groups.into_iter().collect()
}

/// What a prospect is called, and what follows from it.
fn told(prospect: Prospect, to: ReplayTo) -> (&'static str, &'static str) {
    match (prospect, to) {
        (Prospect::Processed, ReplayTo::Topic) => ("would be published", ""),
        (Prospect::AlreadyNotified, ReplayTo::Topic) => {
            (prospect.as_str(), "left out: without --to-topic they are resolved")
        }
        (_, ReplayTo::Topic | ReplayTo::Workers) => (prospect.as_str(), note(prospect)),
    }
}

fn note(prospect: Prospect) -> &'static str {
    match prospect {
        Prospect::Processed => "",
        Prospect::AlreadyNotified => "end as duplicate, nothing is sent",
        Prospect::Published => "left out: they are in the topic since they failed",
        Prospect::BeingReplayed => "left out: another replay has them",
        Prospect::BeingHandled => "left out: their order is being handled",
        Prospect::Quarantined => "left out: --override-cap takes them",
        Prospect::Closed => "left out",
        Prospect::Superseded => "left out: a later dead letter of the order has taken their place",
        Prospect::Pruned => "left out: whether the order was notified since is not known",
    }
}

fn terms(replay: &Replay) -> String {
    let progress = &replay.progress;
    let seconds = f64::from(u32::try_from(progress.total()).unwrap_or(u32::MAX)) / progress.rate;
    let about = humantime::format_duration(Duration::from_secs(1).mul_f64(seconds.ceil().max(1.0)));
    let canary = if progress.canary > 0 { format!(" · canary {}", progress.canary) } else { String::new() };
    let percent = progress.max_failure_ratio * 100.0;
    let bound = match replay.to {
        ReplayTo::Workers => format!(" · stops above {percent:.0} % failures"),
        ReplayTo::Topic => String::new(),
    };
    format!("rate {}/s{canary}{bound} · about {about}", progress.rate)
}

/// Watches until it ends, stops or is taken from us, and tells how the letters ended.
async fn wait(first: Replay, operations: &Operations, json: bool) -> Result<(), Failure> {
    let bar = bar(&first, json);
    let mut replay = first;
    let mut looks: u32 = 0;
    while replay.state == ReplayState::Running {
        bar.set_position(replay.progress.ended());
        if bar.is_hidden() && !json && looks.is_multiple_of(TELL_EVERY) {
            let told =
                format!("r{} {}/{}\n", replay.id, number(replay.progress.ended()), number(replay.progress.total()));
            print(&told)?;
        }
        looks = looks.wrapping_add(1);
        tokio::time::sleep(LOOK_EVERY).await;
        replay = operations.replay(replay.id).await?;
    }
    bar.finish_and_clear();
    if json {
        print(&format!("{}\n", as_json(&replay)))?;
    } else {
        print(&format!("{}\n", closing(&replay)))?;
    }
    let progress = &replay.progress;
    if replay.state == ReplayState::Done && progress.dead == 0 && progress.left_out == 0 {
        return Ok(());
    }
    // Everything was told already.
    Err(Failure::Partly(String::new()))
}

pub(super) fn bar(replay: &Replay, json: bool) -> ProgressBar {
    if json || !io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = format!(
        "replay r{} {{bar:40}} {{pos}}/{{len}}  {{per_sec}}  {{eta}} left    pause: herald dlq replays pause r{}",
        replay.id, replay.id
    );
    let style = ProgressStyle::with_template(&template).map(|style| style.progress_chars("━╸─"));
    let bar = ProgressBar::new(replay.progress.total());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// `done in 58 s   notified 2,860 · duplicate 4 · dead again 3`.
pub(super) fn closing(replay: &Replay) -> String {
    let progress = &replay.progress;
    let took = replay.started_at.zip(replay.finished_at).map(|(from, to)| to.0.saturating_sub(from.0) / 1_000);
    let took = took.map_or_else(String::new, |seconds| format!(" in {seconds} s"));
    let parts = [
        ("notified", progress.notified),
        ("duplicate", progress.duplicate),
        ("dead again", progress.dead.saturating_sub(replay.quarantined)),
        ("quarantined", replay.quarantined),
        ("published", progress.published),
        ("left out", progress.left_out.saturating_sub(replay.cancelled)),
        ("cancelled", replay.cancelled),
        ("to do", progress.planned + progress.scheduled),
    ];
    let told: Vec<String> = parts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {}", number(*count)))
        .collect();
    let next = match replay.state {
        ReplayState::Stopped => format!(
            "\ntoo many failed: herald dlq list --replays 1- · herald dlq replays resume r{} --max-failure-ratio …",
            replay.id
        ),
        ReplayState::Paused => format!("\ngo on: herald dlq replays resume r{}", replay.id),
        ReplayState::Planned
        | ReplayState::Running
        | ReplayState::Publishing
        | ReplayState::Cancelled
        | ReplayState::Done => String::new(),
    };
    format!("r{} {}{took}   {}{next}", replay.id, replay.state.as_str(), told.join(" · "))
}

fn rate(text: &str) -> Result<f64, String> {
    let wrong = || "expected a number above 0 and up to 10000".to_owned();
    let rate: f64 = text.parse().map_err(|_| wrong())?;
    if rate > 0.0 && rate <= 10_000.0 { Ok(rate) } else { Err(wrong()) }
}

/// `0.2`, or `20%`.
pub(super) fn ratio(text: &str) -> Result<f64, String> {
    let wrong = || "expected a part such as 0.2 or 20%".to_owned();
    let (digits, scale) = text.strip_suffix('%').map_or((text, 1.0), |digits| (digits, 100.0));
    let ratio: f64 = digits.parse().map_err(|_| wrong())?;
    let ratio = ratio / scale;
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_parts_or_percents() {
        assert_eq!(ratio("0.2"), Ok(0.2));
        assert_eq!(ratio("20%"), Ok(0.2));
        assert_eq!(ratio("1"), Ok(1.0));
        for wrong in ["", "1.1", "-1", "200%", "x"] {
            assert!(ratio(wrong).is_err(), "{wrong}");
        }
        assert!(rate("0").is_err() && rate("nan").is_err());
    }
}
