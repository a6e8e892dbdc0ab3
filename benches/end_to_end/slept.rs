//! This program as the worker: `herald run` with work that is slept in the process.

use herald::channels::Channel;
use herald::channels::stand_in::StandIn;
use herald::cli::run;
use herald::config::{Purpose, Sources, load};
use herald::postgres::Postgres;

use crate::keys::LONGEST_WORK_MILLIS;
use crate::work;

/// Set for the process that is to be the worker.
pub const VARIABLE: &str = "BENCH_WORKER";

pub fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

pub async fn work() {
    let settings = load(&Sources::of_process(None, Vec::new()).unwrap(), Purpose::Work).unwrap().settings;
    let postgres = Postgres::connect(&settings).unwrap();
    let channel = StandIn::new(|order_id| work::sleep(order_id.parse().unwrap(), LONGEST_WORK_MILLIS));
    run::work(settings, postgres, Channel::StandIn(channel)).await.unwrap();
}
