//! How fast Herald is, compared with what can be compared: in one run on one machine, in turns.
//!
//! The numbers alone say little between machines; the ratios do. Nothing here fails a build: a goal that is not reached is printed.

// A program for one purpose: what goes wrong ends it, as in a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    unreachable_pub
)]

mod bare;
mod failures;
mod gateway;
mod guarantee;
mod keys;
mod latency;
mod ledger;
mod machine;
mod memory;
mod peers;
mod process;
mod restarts;
mod slept;
mod source;
mod stage;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;
mod work;
mod worker;
mod workers;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use herald::cli::output::Style;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use machine::Machine;
use stage::{Amounts, Stage};
use table::Row;

/// Measures the worker: all but the peers unless some are named.
#[derive(Debug, Parser)]
#[command(bin_name = "make bench", about)]
struct Arguments {
    /// What to measure.
    measures: Vec<Measure>,
    #[command(flatten)]
    amounts: Amounts,
    /// After this long it stops, whatever is left to measure.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// One JSON object on standard output instead of the table.
    #[arg(long)]
    json: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// The full guarantee against the bare loop of claims and settlements.
    Guarantee,
    /// Slept work, one key to a thousand.
    Keys,
    /// From a record appended to its delivery started.
    Latency,
    /// With a backlog, and with parked keys.
    Memory,
    /// One worker, two and four.
    Workers,
    /// With records that fail.
    Failures,
    /// From a start, and from kill -9, to the next delivery.
    Restarts,
    /// The same job on others: `make bench-peers`.
    Peers,
}

const ALL: [Measure; 7] = [
    Measure::Guarantee,
    Measure::Keys,
    Measure::Latency,
    Measure::Memory,
    Measure::Workers,
    Measure::Failures,
    Measure::Restarts,
];

impl Measure {
    async fn rows(self, stage: &Stage) -> Vec<Row> {
        match self {
            Self::Guarantee => guarantee::measure(stage).await,
            Self::Keys => keys::measure(stage).await,
            Self::Latency => latency::measure(stage).await,
            Self::Memory => memory::measure(stage).await,
            Self::Workers => workers::measure(stage).await,
            Self::Failures => failures::measure(stage).await,
            Self::Restarts => restarts::measure(stage).await,
            Self::Peers => peers::measure(stage).await,
        }
    }
}

#[tokio::main]
async fn main() {
    if slept::is_wanted() {
        return slept::work().await;
    }
    let arguments = Arguments::parse();
    let say = |line: &str| {
        if arguments.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    };
    let stage = Stage::set(arguments.amounts).await;
    let machine = Machine::look(&stage.server.facts().await);
    say(&format!("herald bench · real Kafka, private PostgreSQL\n{}", machine.table()));
    say(&table::columns());
    let style = Style::of(&std::io::stdout());
    let measures = if arguments.measures.is_empty() { ALL.to_vec() } else { arguments.measures };
    let started = Instant::now();
    let deadline = started + Duration::from_mins(arguments.minutes);
    let mut rows = Vec::new();
    for measure in measures {
        let Ok(found) = timeout_at(deadline, measure.rows(&stage)).await else {
            say(&format!("  stopped in the measure {measure:?}: --minutes {} are over", arguments.minutes));
            break;
        };
        for row in found {
            say(&row.line(style));
            rows.push(row.json());
        }
    }
    let (load, minutes) = (machine::load(), started.elapsed().as_secs_f64() / 60.0);
    say(&format!("\n  took {minutes:.1} minutes; load average {} at the start, {load} at the end", machine.load));
    if arguments.json {
        println!("{}", json!({"machine": machine, "load_at_end": load, "rows": rows}));
    }
}
