//! Records fail, come late, hang, pile up or are gone.

use std::time::Duration;

use herald::core::record::Offset;

use crate::drill::Drill;
use crate::prometheus::Prometheus;
use crate::support::gateway::Answer;
use crate::support::{World, orders};
use crate::traffic::{self, Batch, Traffic};

pub async fn poison_burst(prometheus: &Prometheus) {
    let mut drill = Drill::usual(prometheus, "herald-poison").await;
    drill.traffic = Some(Traffic::start(&drill.world, Batch { poison: 4, ..Batch::USUAL }));
    drill.raises(&["HeraldDeadLetterNewReason", "HeraldDeliveredBurnFast"]).await;
}

pub async fn old_records(prometheus: &Prometheus) {
    let mut drill = Drill::usual(prometheus, "herald-late").await;
    drill.traffic = Some(Traffic::start(&drill.world, Batch { age: Duration::from_mins(10), ..Batch::USUAL }));
    drill.raises(&["HeraldFreshBurnFast"]).await;
}

/// Of a hundred records one is poison, and nine are late: six times what the objectives allow, and not fourteen times.
pub async fn some_fail_and_some_are_late(prometheus: &Prometheus) {
    let world = World::with_partitions(2).await;
    let setup = world.worker();
    let mut drill = Drill::quiet(prometheus, "herald-slow-burn", world, setup, 1).await;
    let good: Vec<_> = (1..=1_500).map(orders::created).collect();
    drill.world.produce_evenly(&good).await;
    // Before any other, or their share would be larger for a moment.
    drill.workers[0].wait_for_metric("herald_records_total", &[("outcome", "notified")], 1_500.0).await;
    drill.sees("sum(herald_records_total{job=\"herald-slow-burn\"})", 1_500.0).await;
    let bad = Batch { orders: 150, poison: 15, age: Duration::from_mins(10), ..Batch::USUAL };
    traffic::produce(&drill.world, bad).await;
    drill.raises(&["HeraldDeadLetterNewReason", "HeraldDeliveredBurnSlow", "HeraldFreshBurnSlow"]).await;
}

/// One request that hangs holds its partition and no other.
pub async fn partition_held(prometheus: &Prometheus) {
    let world = World::with_partitions(2).await;
    let patient = world.worker().with("HERALD_WEBHOOK__TIMEOUT", "5m");
    let mut drill = Drill::with(prometheus, "herald-held", world, patient, 1).await;
    hold(&mut drill).await;
    drill.raises(&["HeraldPartitionStuck"]).await;
}

/// The same where Kafka is told, while the worker runs, to keep records for twenty seconds only.
pub async fn backlog_near_retention(prometheus: &Prometheus) {
    let world = World::with_partitions(2).await;
    let patient = world.worker().with("HERALD_WEBHOOK__TIMEOUT", "5m");
    let mut drill = Drill::with(prometheus, "herald-retention", world, patient, 1).await;
    drill.world.kafka.alter_topic(&drill.world.topic, &[("retention.ms", "20000")]).await;
    drill.workers[0].wait_for_metric("herald_topic_retention_seconds", &[], 20.0).await;
    hold(&mut drill).await;
    drill.raises(&["HeraldBacklogNearRetention", "HeraldPartitionStuck"]).await;
}

async fn hold(drill: &mut Drill<'_>) {
    drill.world.gateway.always_answer_order("held", Answer::Hang);
    let mut held = orders::created(1);
    held["order"]["order_id"] = "held".into();
    drill.world.produce_in(0, &[held]).await;
}

/// One record a second ends, and two hundred wait: the partition moves, and is behind all the same.
pub async fn gateway_too_slow(prometheus: &Prometheus) {
    let world = World::with_partitions(1).await;
    world.gateway.answer(Answer::ok().after(Duration::from_secs(1)));
    let setup = world.worker().with("HERALD_DELIVERY__MAX_CONCURRENT", "1");
    let mut drill = Drill::quiet(prometheus, "herald-behind", world, setup, 1).await;
    drill.world.produce(&(1..=200).map(orders::created).collect::<Vec<_>>()).await;
    drill.raises(&["HeraldLagHigh", "HeraldLagCritical"]).await;
}

/// Nobody ran while retention removed what the group had not read.
pub async fn records_lost(prometheus: &Prometheus) {
    let mut world = World::with_partitions(2).await;
    world.produce_evenly(&(1..=100).map(orders::created).collect::<Vec<_>>()).await;
    world.kafka.rewind(&world.group, &world.topic, Offset(10)).await;
    world.kafka.delete_records_before(&world.topic, Offset(30)).await;
    let setup = world.worker().with("HERALD_KAFKA__ON_LOST_OFFSETS", "earliest");
    let drill = Drill::quiet(prometheus, "herald-lost", world, setup, 1).await;
    drill.workers[0].wait_for_metric("herald_offsets_lost_total", &[], 40.0).await;
    drill.raises(&["HeraldOffsetsLost"]).await;
}

/// One order in five is to be tried again in an hour.
pub async fn retries_pile_up(prometheus: &Prometheus) {
    let mut drill = Drill::usual(prometheus, "herald-retries").await;
    drill.gateway_answers(Batch::REFUSED, &Answer::status(503).retry_after("3600"));
    drill.traffic = Some(Traffic::start(&drill.world, Batch { refused: 1, ..Batch::USUAL }));
    drill.raises(&["HeraldRetriesPilingUp"]).await;
}
