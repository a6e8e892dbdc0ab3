//! Workers join and leave a group under load: nothing is lost, nothing comes twice, order per key is kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::support::World;
use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::orders::{self, Produced};
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Worker, WorkerSetup};

const EVENT_TYPES: [&str; 3] = ["ORDER_CREATED", "ORDER_PAID", "ORDER_SHIPPED"];
const ORDERS_AT_ONCE: u64 = 20;
/// More than this waits in the topic: enough for all workers to be busy, and little to do in the end.
const BACKLOG: usize = 300;

/// Produces the life of one order after another, all events of an order in one partition, until told that it is enough.
async fn load(world: &World, is_enough: &AtomicBool) -> Vec<Produced> {
    let mut produced = Vec::new();
    let mut order_ids = 0..;
    while !is_enough.load(Ordering::Relaxed) {
        let order_ids: Vec<u64> = order_ids.by_ref().take(ORDERS_AT_ONCE.try_into().unwrap()).collect();
        let lives = EVENT_TYPES.iter().flat_map(|kind| order_ids.iter().map(|id| orders::event(kind, *id)));
        let events: Vec<_> = lives.collect();
        let coordinates = world.kafka.produce(&world.topic, events.iter().map(keyed).collect()).await;
        produced.extend(events.iter().zip(coordinates).map(|(event, at)| orders::produced(event, at)));
        wait_until("the backlog shrinks", EVENTUALLY, async || {
            let waiting = produced.len().saturating_sub(world.gateway.accepted());
            let may_go_on = waiting < BACKLOG || is_enough.load(Ordering::Relaxed);
            if may_go_on { Ok(()) } else { Err(format!("{waiting} wait")) }
        })
        .await;
    }
    produced
}

fn keyed(event: &serde_json::Value) -> NewRecord {
    let key = Bytes::from(event["order"]["order_id"].to_string());
    NewRecord { key: Some(key), ..orders::record(event) }
}

fn setup(world: &World, protocol: &str) -> WorkerSetup {
    world.gateway.answer(Answer::ok().after(Duration::from_millis(20)));
    world
        .worker()
        .with("HERALD_KAFKA__GROUP_PROTOCOL", protocol)
        .with("HERALD_NOTIFICATION__EVENT_TYPES", &EVENT_TYPES.join(","))
        .with("HERALD_DELIVERY__MAX_CONCURRENT", "8")
        // Partitions change hands with records in memory, but not with all of them.
        .with("HERALD_LIMITS__RECORDS", "200")
}

async fn notified(worker: &Worker, at_least: f64) {
    wait_until("the worker notifies", EVENTUALLY, async || {
        let notified = worker.metrics().await.sum("herald_records_total", &[("outcome", "notified")]);
        if notified >= at_least { Ok(()) } else { Err(format!("{notified}\n{}", worker.log())) }
    })
    .await;
}

async fn assigned(worker: &Worker, partitions: f64) {
    worker.wait_for_metric("herald_consumer_assigned_partitions", &[], partitions).await;
}

async fn leaves(mut worker: Worker) {
    worker.sigterm();
    assert_eq!(worker.wait_exit(EVENTUALLY).await, 0, "{}", worker.log());
}

async fn assert_nothing_went_wrong(world: &World, last: &Worker) {
    world.all_committed().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", last.log());
    last.assert_accounting_closes().await;
    let query = "SELECT count(*) FROM processed_orders WHERE state <> 'd'";
    let open: i64 = sqlx::query_scalar(query).fetch_one(&world.database.pool).await.unwrap();
    assert_eq!(open, 0, "claims that nobody settled");
}

/// Two workers: one joins, the first leaves.
async fn two_workers(protocol: &str) {
    let mut world = World::with_partitions(4).await;
    let setup = setup(&world, protocol);
    let is_enough = AtomicBool::new(false);
    let changes = async {
        let first = setup.start().await;
        notified(&first, 50.0).await;
        let second = setup.start().await;
        notified(&second, 50.0).await;
        leaves(first).await;
        assigned(&second, 4.0).await;
        is_enough.store(true, Ordering::Relaxed);
        second
    };
    let (produced, last) = tokio::join!(load(&world, &is_enough), changes);
    world.produced = produced;
    assert_nothing_went_wrong(&world, &last).await;
}

/// Three workers: two join at once, the first leaves and comes back, another leaves.
async fn three_workers(protocol: &str) {
    let mut world = World::with_partitions(6).await;
    let setup = setup(&world, protocol);
    let is_enough = AtomicBool::new(false);
    let changes = async {
        let first = setup.start().await;
        notified(&first, 50.0).await;
        let (second, third) = tokio::join!(setup.start(), setup.start());
        tokio::join!(notified(&second, 30.0), notified(&third, 30.0));
        tokio::join!(assigned(&first, 2.0), assigned(&second, 2.0), assigned(&third, 2.0));
        leaves(first).await;
        tokio::join!(assigned(&second, 3.0), assigned(&third, 3.0));
        let first = setup.start().await;
        notified(&first, 30.0).await;
        leaves(second).await;
        tokio::join!(assigned(&first, 3.0), assigned(&third, 3.0));
        is_enough.store(true, Ordering::Relaxed);
        leaves(first).await;
        third
    };
    let (produced, last) = tokio::join!(load(&world, &is_enough), changes);
    world.produced = produced;
    assert_nothing_went_wrong(&world, &last).await;
}

#[tokio::test]
async fn two_workers_of_the_classic_protocol_hand_over_without_loss_or_repetition() {
    two_workers("classic").await;
}

#[tokio::test]
async fn two_workers_of_the_consumer_protocol_hand_over_without_loss_or_repetition() {
    two_workers("consumer").await;
}

#[tokio::test]
async fn three_workers_of_the_classic_protocol_hand_over_without_loss_or_repetition() {
    three_workers("classic").await;
}

#[tokio::test]
async fn three_workers_of_the_consumer_protocol_hand_over_without_loss_or_repetition() {
    three_workers("consumer").await;
}

async fn more_workers_than_partitions(protocol: &str) {
    let mut world = World::with_partitions(1).await;
    let setup = setup(&world, protocol);
    let first = setup.start().await;
    assigned(&first, 1.0).await;
    let second = setup.start().await;
    assigned(&second, 0.0).await;
    leaves(first).await;
    world.produce(&[orders::created(1)]).await;
    assigned(&second, 1.0).await;
    world.all_committed().await;
    assert!(world.verdict().is_clean());
}

#[tokio::test]
async fn a_worker_of_the_classic_protocol_without_a_partition_is_ready_and_takes_over_when_another_leaves() {
    more_workers_than_partitions("classic").await;
}

#[tokio::test]
async fn a_worker_of_the_consumer_protocol_without_a_partition_is_ready_and_takes_over_when_another_leaves() {
    more_workers_than_partitions("consumer").await;
}
