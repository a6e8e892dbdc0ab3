//! How much of Postgres's own speed is left when everything that is promised is kept.

use std::time::Duration;

use crate::bare;
use crate::source::Source;
use crate::stage::Stage;
use crate::support::unique;
use crate::table::{Goal, Row, median, per_second};
use crate::worker::{Watch, setup};

const GOAL: f64 = 0.5;

pub async fn measure(stage: &Stage) -> Vec<Row> {
    let amounts = stage.amounts;
    let source = Source::of_orders(&stage.kafka, amounts.partitions, amounts.orders).await;
    let speed = |took: Duration| f64::from(amounts.orders) / took.as_secs_f64();
    let (mut bare, mut worker) = (Vec::new(), Vec::new());
    for _ in 0..amounts.rounds {
        bare.push(speed(bare::measure(&stage.server, amounts.orders, amounts.partitions).await));
        worker.push(speed(worker_alone(stage, &source).await));
    }
    let (bare, worker) = (median(bare), median(worker));
    vec![Row {
        measure: "full guarantee, a channel that does nothing".to_owned(),
        herald: per_second(worker),
        against: format!("{} bare claim and settle", per_second(bare)),
        ratio: worker / bare,
        goal: Goal::AtLeast(GOAL),
    }]
}

/// One worker, from the first record polled to the last order settled; its offsets are committed before it is stopped.
pub async fn worker_alone(stage: &Stage, source: &Source) -> Duration {
    let ledger = stage.server.fresh().await;
    let group = unique("bench");
    let watch = Watch::spawn(&setup(source, &ledger, &group));
    let took = watch.time(source.orders).await;
    watch.all_committed(source, &group).await;
    drop(watch);
    stage.server.finish(ledger, source.orders).await;
    took
}
