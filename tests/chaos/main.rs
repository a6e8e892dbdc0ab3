//! `make chaos`: everything that can break is broken at random while orders flow, and in the end every record is accounted for.
//!
//! Three brokers, a database server, a gateway and three workers, all real. The same seed breaks the same things in the same
//! order; when exactly is up to the machine. docs/chaos.md says how to read what is printed.

// A program for one purpose: what goes wrong ends it, as in a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    unreachable_pub
)]

mod bag;
mod chronicle;
mod content;
mod crew;
mod faults;
mod judge;
mod kills;
mod load;
mod report;
mod run;
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Breaks everything that can break, at random, and accounts for every record.
#[derive(Clone, Debug, Parser)]
#[command(bin_name = "make chaos", about)]
pub struct Arguments {
    /// How long things are broken; what follows takes as long as it takes, within limits.
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Repeats a run. Random unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Records produced each second.
    #[arg(long, default_value_t = 40)]
    rate: u32,
    /// What order is kept by. From the seed unless given.
    #[arg(long)]
    ordering: Option<Ordering>,
    /// The group's protocol. From the seed unless given.
    #[arg(long)]
    protocol: Option<Protocol>,
    /// What is done about deliveries of unknown effect.
    #[arg(long, default_value = "at_least_once")]
    semantics: Semantics,
    /// The worker's limit of parked records. From the seed unless given: some runs have a low one.
    #[arg(long)]
    parked_records: Option<u64>,
    /// One JSON object on standard output instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Ordering {
    OrderId,
    UserId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Protocol {
    Classic,
    Consumer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Semantics {
    AtLeastOnce,
    AtMostOnce,
}

/// Soon reached when the gateway is in trouble.
const FEW_PARKED: u64 = 100;
const MANY_PARKED: u64 = 1_000_000;

impl Arguments {
    fn seed(&self) -> u64 {
        self.seed.expect("set at the start")
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }

    fn ordering(&self) -> Ordering {
        // Keys with many records are the harder case.
        let of_seed = if self.seed() % 4 == 3 { Ordering::OrderId } else { Ordering::UserId };
        self.ordering.unwrap_or(of_seed)
    }

    fn parked_records(&self) -> u64 {
        let of_seed = if self.seed() % 4 == 1 { FEW_PARKED } else { MANY_PARKED };
        self.parked_records.unwrap_or(of_seed)
    }

    fn protocol(&self) -> Protocol {
        let of_seed = if self.seed() % 3 == 2 { Protocol::Consumer } else { Protocol::Classic };
        self.protocol.unwrap_or(of_seed)
    }
}

impl Ordering {
    fn as_str(self) -> &'static str {
        match self {
            Self::OrderId => "order_id",
            Self::UserId => "user_id",
        }
    }
}

impl Semantics {
    fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at_least_once",
            Self::AtMostOnce => "at_most_once",
        }
    }
}

impl Protocol {
    fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    arguments.seed.get_or_insert_with(|| fastrand::u64(..1_000_000));
    let verdict = run::run(&arguments).await;
    report::print(&arguments, &verdict);
    if verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
