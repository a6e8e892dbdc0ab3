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

mod arguments;
mod bag;
mod chronicle;
mod content;
mod crew;
mod faults;
mod judge;
mod load;
mod lookout;
mod report;
mod run;
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use clap::Parser as _;

pub use arguments::{Arguments, Ordering, Semantics};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    arguments.seed.get_or_insert_with(|| fastrand::u64(..1_000_000));
    let verdict = run::run(&arguments).await;
    report::print(&arguments, &verdict);
    if verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
