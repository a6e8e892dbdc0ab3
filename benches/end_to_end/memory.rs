//! Memory that does not grow with what waits: in Kafka, and parked in Postgres.

use std::time::Duration;

use crate::bare;
use crate::process::resident_mebibytes;
use crate::source::Source;
use crate::stage::Stage;
use crate::support::unique;
use crate::table::{Goal, Row, grouped, median};
use crate::worker::{Watch, setup};

const LIMIT_MEBIBYTES: f64 = 150.0;

/// What the last third of the backlog may take more than the second, at the median. Twenty bytes that stay of each record are 6.4 MiB of
/// a million's third, more than that of 100 MiB.
const FLAT: f64 = 1.05;
/// How often the memory is looked at: the kernel is asked, and not the worker.
const LOOK: Duration = Duration::from_millis(50);

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
    // Until then buffers fill.
    watch.all_ended(source.orders / 3).await;
    let second = typical(&watch, source.orders / 3 * 2).await;
    let last = typical(&watch, source.orders).await;
    watch.all_committed(source, &group).await;
    let peak = watch.peak_mebibytes();
    drop(watch);
    stage.server.finish(ledger, source.orders).await;
    let name = format!("memory, a backlog of {}", grouped(f64::from(source.orders)));
    let flat = Row {
        measure: format!("{name}: flat"),
        herald: format!("{last:.1} MiB"),
        against: format!("{second:.1} MiB in the second third"),
        ratio: last / second,
        goal: Goal::AtMost(FLAT),
    };
    vec![limit(name, peak), flat]
}

/// The median of its memory until as many have ended.
async fn typical(watch: &Watch, orders: u32) -> f64 {
    let mut looks = Vec::new();
    let mut looking = tokio::time::interval(LOOK);
    let ended = watch.all_ended(orders);
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => return median(looks),
            _ = looking.tick() => looks.push(resident_mebibytes(watch.pid())),
        }
    }
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
