//! The same order more than once: redelivered, produced again, in the hands of a worker that stands still or is killed.

use std::time::Duration;

use crate::support::gateway::Answer;
use crate::support::wait::{EVENTUALLY, equal, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::support::{World, orders};

const ORDER: &str = "1";

#[tokio::test]
async fn what_is_redelivered_from_the_beginning_is_notified_to_nobody() {
    let mut world = World::with_partitions(3).await;
    let events: Vec<_> = (0..300).map(orders::created).collect();
    world.produce(&events).await;
    let mut first = world.worker().start().await;
    world.all_committed().await;
    first.sigterm();
    assert_eq!(first.wait_exit(EVENTUALLY).await, 0, "{}", first.log());

    world.kafka.rewind(&world.group, &world.topic).await;
    let second = world.worker().start().await;
    second.wait_for_metric("herald_records_total", &[("outcome", "duplicate")], 300.0).await;
    world.all_committed().await;
    assert_eq!(world.gateway.requests().len(), 300);
    assert!(world.verdict().is_clean(), "{:?}", world.verdict());
    second.assert_accounting_closes().await;
}

fn setup(world: &World) -> WorkerSetup {
    world.worker().with("HERALD_KAFKA__SESSION_TIMEOUT", "6s").with("HERALD_WEBHOOK__TIMEOUT", "2m")
}

/// Two workers with a partition each; one is asking the gateway about the order and gets no answer. It comes first.
async fn one_of_two_waits_for_the_gateway(world: &mut World) -> [Worker; 2] {
    let workers = [setup(world).start().await, setup(world).start().await];
    for worker in &workers {
        worker.wait_for_metric("herald_consumer_assigned_partitions", &[], 1.0).await;
    }
    world.gateway.answer_order(ORDER, [Answer::Hang]);
    world.produce_in(0, &[orders::created(1)]).await;
    wait_until("the gateway was asked", EVENTUALLY, async || equal(world.gateway.requests_for(ORDER).len(), &1)).await;
    let is_asking = wait_until("one of them is asking", EVENTUALLY, async || {
        let mut asking = Vec::new();
        for worker in &workers {
            asking.push(worker.metrics().await.sum("herald_queue_length", &[("queue", "deliveries")]) > 0.5);
        }
        if asking[0] == asking[1] { Err(format!("{asking:?}")) } else { Ok(asking[0]) }
    })
    .await;
    let [one, other] = workers;
    if is_asking { [one, other] } else { [other, one] }
}

/// The copy in the other partition finds the claim of the first, waits, and is not lost.
async fn the_copy_waits(world: &mut World, other: &Worker) {
    world.produce_in(1, &[orders::created(1)]).await;
    wait_until("the copy found the claim of the first", EVENTUALLY, async || {
        let busy = other.metrics().await.sum("herald_claims_total", &[("result", "busy")]);
        if busy > 0.5 { Ok(()) } else { Err(format!("{busy} busy")) }
    })
    .await;
    assert_eq!(world.gateway.accepted(), 0);
}

/// Once settled; asked for again with the same key, since the claim was in flight when its worker went away.
async fn is_notified_once(world: &World, other: &Worker) {
    world.all_committed().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", other.log());
    assert_eq!((world.gateway.requests_for(ORDER).len(), world.gateway.accepted()), (2, 1));
    let state: String =
        sqlx::query_scalar("SELECT state FROM processed_orders").fetch_one(&world.database.pool).await.unwrap();
    assert_eq!(state, "d");
    other.assert_accounting_closes().await;
}

#[tokio::test]
async fn a_copy_in_another_partition_waits_for_the_claim_of_a_worker_that_is_killed() {
    let mut world = World::with_partitions(2).await;
    let [mut asking, other] = one_of_two_waits_for_the_gateway(&mut world).await;
    the_copy_waits(&mut world, &other).await;
    asking.kill9().await;
    is_notified_once(&world, &other).await;
}

#[tokio::test]
async fn a_worker_that_stood_still_longer_than_its_session_does_nothing_for_what_it_lost() {
    let mut world = World::with_partitions(2).await;
    let [mut asking, other] = one_of_two_waits_for_the_gateway(&mut world).await;
    the_copy_waits(&mut world, &other).await;
    asking.sigstop();
    is_notified_once(&world, &other).await;
    asking.sigcont();
    // Both go on: what comes next is notified once, whoever has its partition by then.
    let events: Vec<_> = (100..200).map(orders::created).collect();
    world.produce(&events).await;
    world.all_committed().await;
    wait_until("the one that stood still has its share again", EVENTUALLY, async || {
        let partitions = asking.metrics().await.sum("herald_consumer_assigned_partitions", &[]);
        if partitions > 0.5 { Ok(()) } else { Err(format!("{partitions} partitions\n{}", asking.log())) }
    })
    .await;
    assert!(world.verdict().is_clean(), "{:?}", world.verdict());
    assert_eq!(world.gateway.requests_for(ORDER).len(), 2, "the order was asked for after it was settled");
    tokio::join!(asking.assert_accounting_closes(), other.assert_accounting_closes());
}

#[tokio::test]
async fn an_order_that_was_produced_twice_is_notified_once() {
    let mut world = World::with_partitions(2).await;
    world.gateway.answer(Answer::ok().after(Duration::from_millis(20)));
    let events: Vec<_> = (0..100).map(orders::created).collect();
    world.produce_in(0, &events).await;
    world.produce_in(1, &events).await;
    world.produce_in(0, &events).await;
    let workers = [world.worker().start().await, world.worker().start().await];
    world.all_committed().await;
    assert!(world.verdict().is_clean(), "{:?}", world.verdict());
    assert_eq!(world.gateway.requests().len(), 100);
    for worker in &workers {
        worker.assert_accounting_closes().await;
    }
}
