//! Memory that does not grow with what waits: in Kafka, and parked in Postgres.

use std::time::Duration;

use crate::bare;
use crate::source::Source;
use crate::stage::Stage;
use crate::support::unique;
use crate::table::{Goal, Row, grouped};
use crate::worker::{Watch, setup};

const LIMIT_MEBIBYTES: f64 = 150.0;

/// What a million may take more than a tenth of it.
const FLAT: f64 = 1.1;

pub async fn measure(stage: &Stage) -> Vec<Row> {
    let source = Source::of_orders(&stage.kafka, stage.amounts.partitions, stage.amounts.backlog).await;
    let mut rows = backlog(stage, &source).await;
    rows.push(parked(stage).await);
    rows.push(due(stage).await);
    rows
}

async fn backlog(stage: &Stage, source: &Source) -> Vec<Row> {
    let ledger = stage.server.fresh().await;
    let group = unique("bench");
    let watch = Watch::spawn(&setup(source, &ledger, &group));
    watch.all_ended(source.orders / 10).await;
    let early = watch.peak_mebibytes();
    watch.all_ended(source.orders).await;
    watch.all_committed(source, &group).await;
    let peak = watch.peak_mebibytes();
    drop(watch);
    stage.server.finish(ledger, source.orders).await;
    let name = format!("memory, a backlog of {}", grouped(f64::from(source.orders)));
    let flat = Row {
        measure: format!("{name}: flat"),
        herald: format!("{peak:.0} MiB"),
        against: format!("{early:.0} MiB when a tenth was done"),
        ratio: peak / early,
        goal: Goal::AtMost(FLAT),
    };
    vec![limit(name, peak), flat]
}

/// Every key is parked, and as many healthy orders pass by.
async fn parked(stage: &Stage) -> Row {
    let keys = stage.amounts.parked;
    let source = Source::of_orders(&stage.kafka, stage.amounts.partitions, keys).await;
    let ledger = stage.server.fresh().await;
    let group = unique("bench");
    bare::park(&ledger, &source, &group, keys, Duration::from_hours(1)).await;
    let watch = Watch::spawn(&setup(&source, &ledger, &group));
    watch.all_ended(keys).await;
    watch.wait_for("herald_parked_keys", keys).await;
    watch.all_committed(&source, &group).await;
    let peak = watch.peak_mebibytes();
    drop(watch);
    stage.server.finish(ledger, keys).await;
    limit(format!("memory, {} parked keys", grouped(f64::from(keys))), peak)
}

/// Every parked key is due at once.
async fn due(stage: &Stage) -> Row {
    let keys = stage.amounts.parked;
    let source = Source::empty(&stage.kafka, stage.amounts.partitions).await;
    let ledger = stage.server.fresh().await;
    let group = unique("bench");
    bare::park(&ledger, &source, &group, keys, Duration::ZERO).await;
    let watch = Watch::spawn(&setup(&source, &ledger, &group));
    watch.wait_for("herald_parked_settled_total", keys).await;
    let peak = watch.peak_mebibytes();
    drop(watch);
    stage.server.finish(ledger, keys).await;
    limit("- the same, all due at once".to_owned(), peak)
}

fn limit(measure: String, peak: f64) -> Row {
    Row {
        measure,
        herald: format!("{peak:.0} MiB"),
        against: format!("{LIMIT_MEBIBYTES:.0} MiB"),
        ratio: peak / LIMIT_MEBIBYTES,
        goal: Goal::AtMost(1.0),
    }
}
