//! One worker, two, four: in one group, on the partitions of one topic and one ledger.

use std::time::Duration;

use crate::source::{self, Source};
use crate::stage::Stage;
use crate::support::unique;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::table::{Goal, Row, median, per_second};
use crate::worker::{Watch, setup};

const WORKERS: [u32; 3] = [1, 2, 4];

pub async fn measure(stage: &Stage) -> Vec<Row> {
    let mut speeds: [Vec<f64>; WORKERS.len()] = Default::default();
    for _ in 0..stage.amounts.rounds {
        for (workers, speeds) in WORKERS.into_iter().zip(&mut speeds) {
            let took = time(stage, workers).await;
            speeds.push(f64::from(stage.amounts.orders) / took.as_secs_f64());
        }
    }
    let speeds = speeds.map(median);
    let [one, ..] = speeds;
    let row = |(workers, speed): (u32, f64)| Row {
        measure: format!("throughput, {workers} worker{}", if workers == 1 { "" } else { "s" }),
        herald: per_second(speed),
        against: format!("{} of one", per_second(one)),
        ratio: speed / one,
        goal: Goal::None,
    };
    WORKERS.into_iter().zip(speeds).map(row).collect()
}

/// All have their share before there is anything to read, and then there is everything at once.
async fn time(stage: &Stage, workers: u32) -> Duration {
    let partitions = stage.amounts.partitions.max(4);
    let mut source = Source::empty(&stage.kafka, partitions).await;
    let ledger = stage.server.fresh().await;
    let setup = setup(&source, &ledger, &unique("bench"));
    let watch = Watch::over((0..workers).map(|_| setup.spawn()).collect());
    wait_until("the workers share the partitions", EVENTUALLY, async || {
        let assigned = watch.assigned().await;
        let are_all = (assigned.iter().sum::<f64>() - f64::from(partitions)).abs() < 0.5;
        let has_least = assigned.iter().all(|count| *count >= f64::from(partitions) / f64::from(workers) - 0.9);
        if are_all && has_least { Ok(()) } else { Err(format!("{assigned:?}")) }
    })
    .await;
    let orders = stage.amounts.orders;
    let (took, ()) =
        tokio::join!(watch.time(orders), source.append_at_once(0..orders, |order| source::record(order, order)));
    drop(watch);
    stage.server.finish(ledger, orders).await;
    took
}
