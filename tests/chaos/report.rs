//! The verdict as a person reads it, and as JSON.

use std::collections::BTreeMap;
use std::fmt::Display;

use herald::cli::output::Style;
use serde_json::json;

use crate::arguments::RATE;
use crate::chronicle::KINDS;
use crate::judge::{Check, Numbers, Verdict};
use crate::{Arguments, Semantics};

/// Findings of one kind that are told in full.
const SHOWN: usize = 10;
const FAULTS_IN_A_LINE: usize = 5;

pub fn heading(arguments: &Arguments) -> String {
    format!(
        "herald chaos · seed {} · {} min · 3 brokers, PostgreSQL, 3 workers\n\
         order by {}, group protocol {}, {}, at most {} parked\n",
        arguments.seed(),
        arguments.minutes,
        arguments.ordering().as_str(),
        arguments.protocol().as_str(),
        arguments.semantics.as_str(),
        arguments.parked_records(),
    )
}

pub fn print(arguments: &Arguments, verdict: &Verdict) {
    if arguments.json {
        println!("{}", as_json(arguments, verdict));
    } else {
        println!("{}", as_table(arguments, verdict));
    }
}

fn as_table(arguments: &Arguments, verdict: &Verdict) -> String {
    let style = Style::of(&std::io::stdout());
    let numbers = &verdict.numbers;
    let mut lines = vec![String::new()];
    lines.extend(happened(numbers));
    lines.push(String::new());
    for check in Check::ALL {
        lines.extend(of_check(check, verdict, style));
    }
    lines.push(String::new());
    let repeat = repeat(arguments);
    lines.push(if verdict.is_clean() {
        format!("{}    again: {repeat}", style.good("every record accounted for ✓"))
    } else {
        format!("{}    again: {repeat}", style.bad("something is wrong ✗"))
    });
    lines.join("\n")
}

fn happened(numbers: &Numbers) -> Vec<String> {
    let crew = &numbers.crew;
    let mut lines = vec![row("faults", numbers.faults.values().sum(), "")];
    for (part, kinds) in by_part(numbers) {
        for (index, line) in kinds.chunks(FAULTS_IN_A_LINE).enumerate() {
            let told = list(line.iter().map(|(what, count)| (what, count)));
            lines.push(format!("    {:<24}{told}", if index == 0 { part } else { "" }));
        }
    }
    lines.push(row("", numbers.killed_while_delivering, "killed while the gateway owed them an answer"));
    lines.push(row("", numbers.frozen_while_delivering, "frozen for long while it owed them one"));
    lines.extend([
        row(
            "workers started",
            crew.started,
            &format!(
                "{} refused to start · {} ended in good order · {} cut off",
                crew.refused,
                crew.ended_clean,
                crew.cut_off.len()
            ),
        ),
        row(
            "produced",
            numbers.produced,
            &format!(
                "{} acknowledged · {} uncertain, of which {} arrived",
                numbers.acknowledged, numbers.uncertain, numbers.uncertain_arrived
            ),
        ),
        row("notified", numbers.notified, &format!("in {} requests", numbers.requests)),
        row("copies", numbers.copies, "of these, produced once more"),
        row("written twice", numbers.written_twice, "by the producer, which did not learn that the record was there"),
        row("ignored", numbers.ignored, "of a type that nobody is notified of"),
        row("dead letters", numbers.dead.values().sum(), &list(numbers.dead.iter())),
        row("delivered again", numbers.delivered_again.values().sum(), &list(numbers.delivered_again.iter())),
        row("settled late", numbers.settled_late, "of these, after another worker had claimed it"),
        row(
            "parked",
            numbers.parking.parked,
            &format!(
                "and {} removed; the workers' last numbers tell of {} and {}",
                numbers.parking.removed, numbers.parking.told_parked, numbers.parking.told_settled
            ),
        ),
        row(
            "uncertain",
            numbers.uncertain_ends,
            &format!(
                "of unknown effect, left to an operator; {} of them since a worker ended before it asked",
                numbers.uncertain_untold
            ),
        ),
    ]);
    lines
}

/// What was done to each part, in the order of the list of kinds.
fn by_part(numbers: &Numbers) -> Vec<(&'static str, Vec<(&'static str, usize)>)> {
    let mut parts: Vec<(&str, Vec<(&str, usize)>)> = Vec::new();
    for (part, what) in KINDS {
        let counted = (what, numbers.faults.get(&(part, what)).copied().unwrap_or_default());
        match parts.last_mut() {
            Some((last, kinds)) if *last == part => kinds.push(counted),
            _ => parts.push((part, vec![counted])),
        }
    }
    parts
}

fn of_check(check: Check, verdict: &Verdict, style: Style) -> Vec<String> {
    let none = Vec::new();
    let found = verdict.findings.get(&check).unwrap_or(&none);
    let (title, what) = described(check, &verdict.numbers);
    let line = row(title, found.len(), &what);
    let mut lines = vec![if found.is_empty() { line } else { style.bad(&line) }];
    lines.extend(found.iter().take(SHOWN).map(|finding| format!("      {finding}")));
    if found.len() > SHOWN {
        lines.push(format!("      and {} more", found.len() - SHOWN));
    }
    lines
}

fn described(check: Check, numbers: &Numbers) -> (&'static str, String) {
    let text = str::to_owned;
    match check {
        Check::Lost => ("lost", text("records without a notification")),
        Check::NotifiedTwice => ("notified twice", text("beyond what a fault explains, or with another key")),
        Check::OutOfOrder => {
            ("out of order", format!("of {} compared, by key and partition", numbers.compared_in_order))
        }
        Check::DeadLetters => (
            "wrong letters",
            format!(
                "poison and nothing else, byte for byte; {} published again, {} as pointers",
                numbers.letters_published_again, numbers.pointers
            ),
        ),
        Check::Accounts => ("open accounts", format!("of {} looks at a worker's own numbers", numbers.crew.looks)),
        Check::Invariants => ("violations", text("of invariants, told by the workers")),
        Check::Workers => ("bad ends", text("of workers: by themselves, or not when told")),
        Check::Recovery => (
            "not recovered",
            format!(
                "lag and parked records gone {:.0} s after the last fault, without a restart",
                numbers.recovered_in.as_secs_f64()
            ),
        ),
        Check::Idle => ("not exercised", text("parts of the proof that the run did not reach")),
        Check::Broker => ("lost by Kafka", text("acknowledged, and not in the log")),
    }
}

fn row(title: &str, number: usize, what: &str) -> String {
    format!("  {title:<16} {number:>7}   {what}").trim_end().to_owned()
}

fn list<'a, K: Display + 'a>(counts: impl Iterator<Item = (&'a K, &'a usize)>) -> String {
    counts.map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(" · ")
}

fn repeat(arguments: &Arguments) -> String {
    // What make was told: which PostgreSQL it is.
    let postgres = std::env::var("POSTGRES").map_or(String::new(), |version| format!(" POSTGRES={version}"));
    let command = format!("make chaos MINUTES={} SEED={}{postgres}", arguments.minutes, arguments.seed());
    let mut others = Vec::new();
    if arguments.rate != RATE {
        others.push(format!("--rate {}", arguments.rate));
    }
    if let Some(ordering) = arguments.ordering {
        others.push(format!("--ordering {}", ordering.as_str()));
    }
    if let Some(protocol) = arguments.protocol {
        others.push(format!("--protocol {}", protocol.as_str()));
    }
    if arguments.semantics != Semantics::AtLeastOnce {
        others.push(format!("--semantics {}", arguments.semantics.as_str()));
    }
    if let Some(limit) = arguments.parked_records {
        others.push(format!("--parked-records {limit}"));
    }
    if others.is_empty() { command } else { format!("{command} ARGS=\"{}\"", others.join(" ")) }
}

fn as_json(arguments: &Arguments, verdict: &Verdict) -> serde_json::Value {
    let numbers = &verdict.numbers;
    let crew = &numbers.crew;
    let checks: serde_json::Map<String, serde_json::Value> = Check::ALL
        .into_iter()
        .map(|check| {
            let found = verdict.findings.get(&check).cloned().unwrap_or_default();
            (described(check, numbers).0.replace(' ', "_").to_lowercase(), json!(found))
        })
        .collect();
    json!({
        "seed": arguments.seed(),
        "minutes": arguments.minutes,
        "ordering": arguments.ordering().as_str(),
        "protocol": arguments.protocol().as_str(),
        "semantics": arguments.semantics.as_str(),
        "parked_records": arguments.parked_records(),
        "clean": verdict.is_clean(),
        "faults": by_part(numbers)
            .into_iter()
            .map(|(part, kinds)| (part, kinds.into_iter().collect::<BTreeMap<_, _>>()))
            .collect::<BTreeMap<_, _>>(),
        "killed_while_delivering": numbers.killed_while_delivering,
        "frozen_while_delivering": numbers.frozen_while_delivering,
        "workers": {
            "started": crew.started,
            "refused": crew.refused,
            "ended_clean": crew.ended_clean,
            "ended_cut_off": crew.cut_off.len(),
            "looks": crew.looks,
        },
        "produced": numbers.produced,
        "acknowledged": numbers.acknowledged,
        "uncertain": numbers.uncertain,
        "uncertain_arrived": numbers.uncertain_arrived,
        "notified": numbers.notified,
        "requests": numbers.requests,
        "copies": numbers.copies,
        "ignored": numbers.ignored,
        "dead_letters": numbers.dead,
        "letters_published_again": numbers.letters_published_again,
        "written_twice": numbers.written_twice,
        "letters_as_pointers": numbers.pointers,
        "delivered_again": numbers.delivered_again.iter().map(|(cause, count)| (cause.to_string(), *count)).collect::<BTreeMap<_, _>>(),
        "settled_late": numbers.settled_late,
        "parking": {
            "parked": numbers.parking.parked,
            "removed": numbers.parking.removed,
            "told_parked": numbers.parking.told_parked,
            "told_settled": numbers.parking.told_settled,
        },
        "uncertain_ends": numbers.uncertain_ends,
        "uncertain_since_a_worker_ended": numbers.uncertain_untold,
        "compared_in_order": numbers.compared_in_order,
        "recovered_in_seconds": numbers.recovered_in.as_secs_f64(),
        "findings": checks,
    })
}
