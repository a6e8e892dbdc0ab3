//! The end of a worker: what runs may end, what does not is left to the next one.

use std::time::Duration;

use crate::support::gateway::Answer;
use crate::support::wait::{EVENTUALLY, SOON, equal, wait_until};
use crate::support::worker::Worker;
use crate::support::{World, orders};

/// Waits until so many requests have arrived at the gateway.
async fn requests_arrived(world: &World, count: usize) {
    wait_until("the deliveries run", EVENTUALLY, async || {
        let arrived = world.gateway.requests().len();
        if arrived >= count { Ok(()) } else { Err(format!("{arrived} of {count}")) }
    })
    .await;
}

async fn is_draining(worker: &Worker) {
    wait_until("/readyz says that the worker drains", SOON, async || {
        let (status, body) = worker.get("/readyz").await.map_err(|error| error.to_string())?;
        let reasons: serde_json::Value = serde_json::from_str(&body).unwrap();
        let is_named = reasons["reasons"].as_array().unwrap().iter().any(|one| one["reason"] == "draining");
        equal((status, is_named), &(503, true))
    })
    .await;
}

async fn settled(world: &World) -> i64 {
    let query = "SELECT count(*) FROM processed_orders WHERE state = 'd'";
    sqlx::query_scalar(query).fetch_one(&world.database.pool).await.unwrap()
}

async fn committed(world: &World) -> i64 {
    let offsets = world.kafka.committed_offsets(&world.group, &world.topic).await;
    offsets.values().map(|offset| offset.0).sum()
}

#[tokio::test]
async fn deliveries_that_run_at_sigterm_end_and_are_settled_and_committed() {
    let mut world = World::with_partitions(1).await;
    let events: Vec<_> = (0..30).map(orders::created).collect();
    world.produce(&events).await;
    world.gateway.answer(Answer::ok().after(Duration::from_secs(3)));
    let setup = world.worker().with("HERALD_DELIVERY__MAX_CONCURRENT", "10");
    let mut worker = setup.start().await;
    requests_arrived(&world, 10).await;
    worker.sigterm();
    is_draining(&worker).await;
    assert_eq!(worker.wait_exit(EVENTUALLY).await, 0, "{}", worker.log());

    let (requests, accepted) = (world.gateway.requests().len(), world.gateway.accepted());
    assert_eq!(requests, accepted, "a delivery was cut off");
    assert!(accepted < 30, "nothing was left to do");
    let accepted = i64::try_from(accepted).unwrap();
    assert_eq!((settled(&world).await, committed(&world).await), (accepted, accepted));

    world.gateway.answer(Answer::ok());
    let _next = setup.start().await;
    world.all_committed().await;
    assert!(world.verdict().is_clean(), "{:?}", world.verdict());
}

#[tokio::test]
async fn a_delivery_that_outlasts_the_drain_is_done_by_the_next_worker_with_the_same_idempotency_key() {
    let mut world = World::with_partitions(1).await;
    let events: Vec<_> = (0..20).map(orders::created).collect();
    world.produce(&events).await;
    world.gateway.answer_order("7", [Answer::Hang]);
    let setup = world.worker().with("HERALD_DELIVERY__DRAIN_TIMEOUT", "2s").with("HERALD_WEBHOOK__TIMEOUT", "2m");
    let mut worker = setup.start().await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], 19.0).await;
    worker.sigterm();
    is_draining(&worker).await;
    assert_eq!(worker.wait_exit(EVENTUALLY).await, 1, "{}", worker.log());
    let log = worker.log();
    assert!(log.contains("error: stopped before everything had ended: 1 delivery was aborted"), "{log}");
    assert_eq!(settled(&world).await, 19);
    let cut_off = world.produced.iter().find(|one| one.order_id == "7").unwrap().coordinates.offset;
    assert!(committed(&world).await <= cut_off.0, "the commit passed the order that was cut off");

    let _next = setup.start().await;
    world.all_committed().await;
    assert!(world.verdict().is_clean(), "{:?}", world.verdict());
    let tries = world.gateway.requests_for("7");
    assert_eq!(tries.len(), 2);
    assert_eq!(tries[0].idempotency_key(), tries[1].idempotency_key());
}

#[tokio::test]
async fn a_retry_that_waits_at_sigterm_is_left_to_the_next_worker_at_once() {
    let mut world = World::with_partitions(1).await;
    world.produce(&[orders::created(1), orders::created(2)]).await;
    world.gateway.answer_order("1", [Answer::status(503).retry_after("20")]);
    let mut worker = world.worker().start().await;
    worker.wait_for_metric("herald_retries_scheduled_total", &[("where", "lane")], 1.0).await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], 1.0).await;
    worker.sigterm();
    assert_eq!(worker.wait_exit(Duration::from_secs(15)).await, 0, "{}", worker.log());

    let _next = world.worker().start().await;
    world.all_committed().await;
    assert!(world.verdict().is_clean(), "{:?}", world.verdict());
}

#[tokio::test]
async fn an_idle_worker_ends_at_once_and_leaves_no_partition_behind() {
    let mut world = World::with_partitions(2).await;
    let mut worker = world.worker().start().await;
    worker.wait_for_metric("herald_consumer_assigned_partitions", &[], 2.0).await;
    worker.sigterm();
    assert_eq!(worker.wait_exit(SOON).await, 0, "{}", worker.log());
    world.produce(&[orders::created(1)]).await;
    let next = world.worker().start().await;
    next.wait_for_metric("herald_consumer_assigned_partitions", &[], 2.0).await;
    world.all_committed().await;
    assert!(world.verdict().is_clean());
}

#[tokio::test]
async fn a_second_signal_ends_a_drain_at_once() {
    let mut world = World::with_partitions(1).await;
    world.produce(&[orders::created(1)]).await;
    world.gateway.answer_order("1", [Answer::Hang]);
    let setup = world.worker().with("HERALD_DELIVERY__DRAIN_TIMEOUT", "2m").with("HERALD_WEBHOOK__TIMEOUT", "5m");
    let mut worker = setup.start().await;
    requests_arrived(&world, 1).await;
    worker.sigterm();
    is_draining(&worker).await;
    worker.sigterm();
    assert_eq!(worker.wait_exit(SOON).await, 1, "{}", worker.log());
    assert!(worker.log().contains("a second signal"), "{}", worker.log());

    let _next = world.worker().start().await;
    world.all_committed().await;
    assert!(world.verdict().is_clean(), "{:?}", world.verdict());
}
