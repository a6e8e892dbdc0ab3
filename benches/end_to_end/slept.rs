//! This program as the worker: `herald run` with work that is slept in the process.

use std::fs;
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use herald::channels::Channel;
use herald::channels::stand_in::StandIn;
use herald::cli::run;
use herald::config::{Purpose, Sources, load};
use herald::postgres::Postgres;

use crate::keys::LONGEST_WORK_MILLIS;
use crate::work;

/// Set for the process that is to be the worker: the file in which it says when the first order was in its hands, as the peers do.
pub const VARIABLE: &str = "BENCH_WORKER";

/// Orders of this number and above are there before it counts.
pub const WARM_UP_FROM: u32 = 1_000_000;

pub fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

pub async fn work() {
    let settings = load(&Sources::of_process(None, Vec::new()).unwrap(), Purpose::Work).unwrap().settings;
    let postgres = Postgres::connect(&settings).unwrap();
    let channel = StandIn::new(|order_id| {
        let order_id = order_id.parse().unwrap();
        if order_id < u64::from(WARM_UP_FROM) {
            begin();
        }
        work::sleep(order_id, LONGEST_WORK_MILLIS);
    });
    run::work(settings, postgres, Channel::StandIn(channel)).await.unwrap();
}

fn begin() {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        fs::write(std::env::var_os(VARIABLE).unwrap(), now.as_nanos().to_string()).unwrap();
    });
}

/// When the first order was in the worker's hands.
pub fn begun(file: &Path) -> SystemTime {
    let nanos = fs::read_to_string(file).unwrap().parse().expect("when work began");
    UNIX_EPOCH + Duration::from_nanos(nanos)
}
