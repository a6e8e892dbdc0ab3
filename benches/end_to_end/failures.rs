//! What failing records cost the healthy ones: 1 % fail once, 0.1 % are refused for good.

use std::time::Duration;

use crate::gateway::{Behaviour, Fate, Gateway};
use crate::source::Source;
use crate::stage::Stage;
use crate::support::unique;
use crate::table::{Goal, Row, median, per_second};
use crate::worker::{Watch, setup_with_gateway};

/// A request for each order is dearer than none: a part of the orders says as much.
const PART: u32 = 4;

pub async fn measure(stage: &Stage) -> Vec<Row> {
    let amounts = stage.amounts;
    let source = Source::of_orders(&stage.kafka, amounts.partitions, amounts.orders / PART).await;
    let speed = |took: Duration| f64::from(source.orders) / took.as_secs_f64();
    let (mut healthy, mut failing) = (Vec::new(), Vec::new());
    for _ in 0..amounts.rounds {
        healthy.push(speed(time(stage, &source, Behaviour::Accepts).await));
        failing.push(speed(time(stage, &source, Behaviour::Fails).await));
    }
    let (healthy, failing) = (median(healthy), median(failing));
    vec![Row {
        measure: "throughput, 1 % transient, 0.1 % poison".to_owned(),
        herald: per_second(failing),
        against: format!("{} with all healthy", per_second(healthy)),
        ratio: failing / healthy,
        goal: Goal::None,
    }]
}

/// To the last retry of the last order.
async fn time(stage: &Stage, source: &Source, behaviour: Behaviour) -> Duration {
    let gateway = Gateway::start(behaviour);
    let ledger = stage.server.fresh().await;
    let group = unique("bench");
    let watch = Watch::spawn(&setup_with_gateway(source, &ledger, &group, gateway.url()));
    let took = watch.time(source.orders).await;
    watch.all_committed(source, &group).await;
    drop(watch);
    let refused = match behaviour {
        Behaviour::Fails => (0..source.orders).filter(|order| Fate::of(u64::from(*order)) == Fate::Refused).count(),
        Behaviour::Accepts | Behaviour::Remembers => 0,
    };
    stage.server.finish(ledger, source.orders - u32::try_from(refused).unwrap()).await;
    took
}
