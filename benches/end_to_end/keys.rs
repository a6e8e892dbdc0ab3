//! Parallel Consumer's own scenario: one partition, 0 to 5 ms of work for each record, 100 at once, few keys or many.
//!
//! The work is slept in the process, as the peers' handlers sleep it: neither sends a request.

use std::collections::HashMap;
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::slept;
use crate::source::{self, Source};
use crate::stage::Stage;
use crate::support::kafka::Kafka;
use crate::support::unique;
use crate::table::{Goal, Row, grouped, median};
use crate::work;
use crate::worker::{Watch, setup_with_slept_work};

pub const KEYS: [u64; 4] = [1, 10, 100, 1_000];
pub const CONCURRENT: u64 = 100;
pub const LONGEST_WORK_MILLIS: u64 = 5;

/// Orders before it counts, each of its own key.
const WARM_UP: u32 = 10_000;

pub async fn measure(stage: &Stage) -> Vec<Row> {
    let orders = stage.amounts.slept;
    let mut rows = Vec::new();
    for keys in KEYS {
        let mut took = Vec::new();
        for _ in 0..stage.amounts.rounds {
            took.push(time(stage, keys).await.as_secs_f64());
        }
        let (took, least) = (median(took), least(orders, keys).as_secs_f64());
        rows.push(Row {
            measure: format!("{} orders, {keys} keys, 0-5 ms each", grouped(f64::from(orders))),
            herald: format!("{took:.2} s"),
            against: format!("{least:.2} s of sleep that cannot overlap"),
            ratio: took / least,
            goal: Goal::None,
        });
    }
    rows
}

/// A topic that is full of these orders.
pub async fn topic(kafka: &Kafka, orders: u32, keys: u64) -> Source {
    let mut source = Source::empty(kafka, 1).await;
    source.append(0..orders, |order| source::record(order, key_of(order, keys))).await;
    source
}

/// From the first order in hand to the last one settled: the ledger is on, as always. The worker has worked before, as the peers have.
pub async fn time(stage: &Stage, keys: u64) -> Duration {
    let orders = stage.amounts.slept;
    let mut source = Source::empty(&stage.kafka, 1).await;
    let warm_up = slept::WARM_UP_FROM..slept::WARM_UP_FROM + WARM_UP;
    source.append(warm_up, |order| source::record(order, order)).await;
    let ledger = stage.server.fresh().await;
    let group = unique("bench");
    let begun = NamedTempFile::new().unwrap();
    let setup = setup_with_slept_work(&source, &ledger, &group, begun.path())
        .with("HERALD_ORDERING__KEY", "record_key")
        .with("HERALD_DELIVERY__MAX_CONCURRENT", &CONCURRENT.to_string());
    let watch = Watch::spawn(&setup);
    watch.first_polled().await;
    watch.all_ended(WARM_UP).await;
    source.append_at_once(0..orders, move |order| source::record(order, key_of(order, keys))).await;
    // A look before the end costs the worker, and one that is late nothing: the server knows when the last was settled.
    tokio::time::sleep(least(orders, keys) * 2).await;
    watch.all_ended(source.orders).await;
    let settled = stage.server.last_settled(&ledger).await;
    let took = settled.duration_since(slept::begun(begun.path())).unwrap();
    drop(watch);
    stage.server.finish(ledger, source.orders).await;
    took
}

fn key_of(order: u64, keys: u64) -> u64 {
    order % keys
}

/// The longest of the work of one key and a hundredth of all work.
fn least(orders: u32, keys: u64) -> Duration {
    let mut by_key: HashMap<u64, u64> = HashMap::new();
    for order in 0..u64::from(orders) {
        *by_key.entry(key_of(order, keys)).or_default() += work::millis(order, LONGEST_WORK_MILLIS);
    }
    let longest = by_key.values().copied().max().unwrap_or_default();
    let share = by_key.values().sum::<u64>() / CONCURRENT;
    Duration::from_millis(longest.max(share))
}
