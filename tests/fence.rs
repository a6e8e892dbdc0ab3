//! A worker whose partition was taken away decides nothing about it any more, and what it had done counts.

use std::time::Duration;

use crate::support::gateway::Answer;
use crate::support::wait::{EVENTUALLY, equal, wait_until};
use crate::support::worker::Worker;
use crate::support::{World, orders};

/// As a later owner would: whoever had the partitions is fenced.
async fn take_partitions_away(world: &World) {
    let statement = "UPDATE partition_epochs SET epoch = epoch + 1, owner = 'another'";
    let rows = sqlx::query(statement).execute(&world.database.pool).await.unwrap().rows_affected();
    assert!(rows > 0, "no worker had raised an epoch");
}

async fn state_of(world: &World, order_id: &str) -> Option<String> {
    let query = "SELECT state FROM processed_orders WHERE order_id = $1";
    sqlx::query_scalar(query).bind(order_id).fetch_optional(&world.database.pool).await.unwrap()
}

async fn asked_for(world: &World, order_id: &str, times: usize) {
    wait_until(&format!("the gateway was asked for {order_id}"), EVENTUALLY, async || {
        equal(world.gateway.requests_for(order_id).len(), &times)
    })
    .await;
}

async fn fenced(worker: &Worker, at_least: f64) {
    wait_until("the worker finds itself fenced", EVENTUALLY, async || {
        let fenced = worker.metrics().await.sum("herald_consumer_fenced_total", &[]);
        if fenced >= at_least { Ok(()) } else { Err(format!("{fenced}\n{}", worker.log())) }
    })
    .await;
}

async fn dead_letters(world: &World, order_id: &str) -> i64 {
    let query = "SELECT count(*) FROM dead_letters WHERE order_id = $1";
    sqlx::query_scalar(query).bind(order_id).fetch_one(&world.database.pool).await.unwrap()
}

#[tokio::test]
async fn a_worker_that_is_fenced_under_load_begins_afresh_and_finishes_everything() {
    let mut world = World::with_partitions(2).await;
    world.gateway.answer(Answer::ok().after(Duration::from_millis(20)));
    let worker = world.worker().with("HERALD_DELIVERY__MAX_CONCURRENT", "4").start().await;
    for round in 0..4_u64 {
        let events: Vec<_> = (round * 150..(round + 1) * 150).map(orders::created).collect();
        world.produce_evenly(&events).await;
        // The claims of this round find the last one's epochs raised, in both partitions.
        fenced(&worker, 2.0 * f64::from(u32::try_from(round).unwrap())).await;
        wait_until("the worker goes on", EVENTUALLY, async || {
            // At least one of the 75 of each partition: it has begun afresh in both.
            let (seen, enough) = (world.gateway.accepted(), world.produced.len() - 74);
            if seen >= enough { Ok(()) } else { Err(format!("{seen} of {enough}\n{}", worker.log())) }
        })
        .await;
        take_partitions_away(&world).await;
    }
    world.produce(&[orders::created(1_000), orders::created(1_001)]).await;
    world.all_committed().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", worker.log());
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn a_delivery_that_ends_after_its_partition_was_taken_away_is_settled_and_not_repeated() {
    let mut world = World::with_partitions(1).await;
    world.produce(&[orders::created(1)]).await;
    world.gateway.answer_order("1", [Answer::ok().after(Duration::from_secs(5))]);
    let worker = world.worker().start().await;
    asked_for(&world, "1", 1).await;
    take_partitions_away(&world).await;
    // Its claim tells the worker.
    world.produce(&[orders::created(2)]).await;
    fenced(&worker, 1.0).await;
    assert_eq!(world.gateway.accepted(), 0, "the delivery has ended too early to prove anything");
    world.all_committed().await;
    assert!(world.verdict().is_clean(), "{:?}", world.verdict());
    assert_eq!(state_of(&world, "1").await.as_deref(), Some("d"));
    assert_eq!(world.gateway.requests_for("1").len(), 1);
}

#[tokio::test]
async fn a_failure_that_ends_after_the_partition_was_taken_away_is_no_dead_letter_until_the_worker_owns_it_again() {
    let mut world = World::with_partitions(1).await;
    world.produce(&[orders::created(1)]).await;
    let refusal = Answer::status(422).with_body("no such user");
    world.gateway.answer_order("1", [refusal.clone().after(Duration::from_secs(2)), refusal]);
    let worker = world.worker().start().await;
    asked_for(&world, "1", 1).await;
    take_partitions_away(&world).await;
    fenced(&worker, 1.0).await;
    asked_for(&world, "1", 2).await;
    world.all_committed().await;
    assert_eq!(state_of(&world, "1").await.as_deref(), Some("x"));
    assert_eq!(dead_letters(&world, "1").await, 1);
    worker.wait_for_metric("herald_dead_letters_published_total", &[], 1.0).await;
    assert_eq!(world.kafka.records(&world.dlq_topic).await.len(), 1);
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn a_worker_that_wakes_after_another_took_over_neither_claims_nor_dead_letters() {
    let mut world = World::with_partitions(1).await;
    world.produce(&[orders::created(1), orders::created(2), orders::created(3)]).await;
    let refusal = Answer::status(422).with_body("no such user");
    // The first worker gets this answer only after it was frozen.
    world.gateway.answer_order("1", [refusal.clone().after(Duration::from_secs(2)), refusal]);
    let setup = world.worker().with("HERALD_KAFKA__SESSION_TIMEOUT", "6s");
    let mut frozen = setup.start().await;
    frozen.wait_for_metric("herald_records_total", &[("outcome", "notified")], 2.0).await;
    asked_for(&world, "1", 1).await;
    frozen.sigstop();
    assert_eq!(world.gateway.requests_for("1")[0].status, None, "the first answer came before the freeze");
    let next = setup.start().await;
    asked_for(&world, "1", 2).await;
    next.wait_for_metric("herald_dead_letters_published_total", &[], 1.0).await;
    frozen.sigcont();
    world.produce(&[orders::created(4)]).await;
    world.all_committed().await;
    wait_until("the first worker is back in the group", EVENTUALLY, async || {
        let metrics = frozen.metrics().await;
        equal(metrics.sum("herald_records_in_flight", &[]), &0.0)
    })
    .await;
    frozen.assert_accounting_closes().await;
    frozen.sigterm();
    assert_eq!(frozen.wait_exit(EVENTUALLY).await, 0, "{}", frozen.log());

    assert_eq!(dead_letters(&world, "1").await, 1);
    assert_eq!(world.kafka.records(&world.dlq_topic).await.len(), 1);
    let verdict = world.verdict();
    let is_only_the_dead_letter = verdict.lost.iter().all(|(order_id, _)| order_id == "1");
    assert!(is_only_the_dead_letter && verdict.repeated.is_empty(), "{verdict:?}");
}
