//! The same order again: read again from the beginning, or twice in the topic. It is notified once.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use herald::core::record::{Header, Offset, Partition};
use serde_json::json;

use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::letters::{self, letter_of};
use crate::support::wait::{EVENTUALLY, SOON, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::support::{World, orders};

/// The copies of this order are in both partitions.
const ORDER: u64 = 1;

#[tokio::test]
async fn orders_read_again_from_the_beginning_are_not_notified_again() {
    let mut world = World::with_partitions(2).await;
    let events: Vec<_> = (0..300).map(orders::created).collect();
    world.produce(&events).await;
    let mut first = world.worker().start().await;
    world.all_committed().await;
    first.sigterm();
    assert_eq!(first.wait_exit(EVENTUALLY).await, 0, "{}", first.log());

    world.kafka.rewind(&world.group, &world.topic, Offset(0)).await;
    let second = world.worker().start().await;
    second.wait_for_metric("herald_records_total", &[("outcome", "duplicate")], 300.0).await;
    world.all_committed().await;
    second.assert_accounting_closes().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(world.gateway.requests().len(), 300);
}

#[tokio::test]
async fn a_copy_in_another_partition_waits_for_the_frozen_worker_that_holds_the_claim() {
    let mut world = World::with_partitions(2).await;
    let [mut holder, peer] = owners_of_a_partition_each(&world, &patient(&world, "45s")).await;
    world.gateway.answer_order(&ORDER.to_string(), [Answer::ok().after(Duration::from_secs(3))]);
    notify_in_first_partition(&mut world).await;
    holder.sigstop();
    world.produce_in(1, &[orders::created(ORDER)]).await;
    wait_until_busy(&peer).await;
    wait_until("the answer is given", SOON, async || match world.gateway.accepted() {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    holder.sigcont();

    world.all_committed().await;
    assert_eq!(world.gateway.requests().len(), 1, "one notification");
    holder.wait_for_metric("herald_records_total", &[("outcome", "notified")], 1.0).await;
    peer.wait_for_metric("herald_records_total", &[("outcome", "duplicate")], 1.0).await;
    for worker in [&holder, &peer] {
        worker.assert_accounting_closes().await;
    }
}

#[tokio::test]
async fn an_order_whose_worker_was_killed_is_notified_by_its_peer_with_the_same_idempotency_key() {
    let mut world = World::with_partitions(2).await;
    let [mut holder, peer] = owners_of_a_partition_each(&world, &patient(&world, "6s")).await;
    world.gateway.answer_order(&ORDER.to_string(), [Answer::Hang]);
    notify_in_first_partition(&mut world).await;
    world.produce_in(1, &[orders::created(ORDER)]).await;
    wait_until_busy(&peer).await;
    world.assert_no_commit_passes_an_unfinished_record().await;
    holder.kill9().await;
    world.assert_no_commit_passes_an_unfinished_record().await;

    world.all_committed().await;
    assert_eq!(world.gateway.accepted(), 1);
    assert_two_requests_with_one_key(&world);
    peer.wait_for_metric("herald_claims_total", &[("result", "takeover")], 1.0).await;
    peer.wait_for_metric("herald_records_total", &[("outcome", "notified")], 1.0).await;
    peer.wait_for_metric("herald_records_total", &[("outcome", "duplicate")], 1.0).await;
    peer.assert_accounting_closes().await;
}

#[tokio::test]
async fn an_order_whose_worker_is_frozen_past_its_session_is_repeated_once_with_the_same_idempotency_key() {
    let mut world = World::with_partitions(2).await;
    let [mut holder, peer] = owners_of_a_partition_each(&world, &patient(&world, "6s")).await;
    world.gateway.answer_order(&ORDER.to_string(), [Answer::ok().after(Duration::from_secs(3))]);
    notify_in_first_partition(&mut world).await;
    holder.sigstop();
    world.produce_in(1, &[orders::created(ORDER)]).await;
    wait_until_busy(&peer).await;
    world.all_committed().await;
    peer.wait_for_metric("herald_claims_total", &[("result", "takeover")], 1.0).await;
    holder.sigcont();

    world.shared_equally(&[&holder, &peer]).await;
    holder.wait_for_metric("herald_records_in_flight", &[], 0.0).await;
    let others: Vec<_> = (2..42).map(orders::created).collect();
    world.produce(&others).await;
    world.all_committed().await;
    assert_two_requests_with_one_key(&world);
    let verdict = world.verdict();
    assert!(verdict.lost.is_empty() && verdict.repeated.len() == 1, "{verdict:?}");
    assert_eq!(world.gateway.requests().len(), 42);
    for worker in [&holder, &peer] {
        worker.assert_accounting_closes().await;
    }
}

#[tokio::test]
async fn an_order_that_comes_again_with_other_content_is_a_conflict_and_was_notified_once() {
    let mut world = World::with_partitions(2).await;
    let worker = world.worker().start().await;
    world.produce_in(0, &[orders::created(ORDER)]).await;
    world.all_committed().await;
    let again = |quantity: u32, partition| {
        let mut event = orders::created(ORDER);
        event["order"]["quantity"] = json!(quantity);
        let headers = vec![Header { name: Bytes::from_static(b"n"), value: Some(Bytes::from_static(b"\0\xff")) }];
        NewRecord { key: Some(Bytes::from_static(b"\xff")), headers, ..orders::record(&event).in_partition(partition) }
    };
    let places = world.kafka.produce(&world.topic, vec![again(400, 0), again(500, 1)]).await;
    // The first content again is no conflict.
    world.produce_in(1, &[orders::created(ORDER)]).await;
    world.all_committed().await;

    let requests = world.gateway.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].body["order"], orders::created(ORDER)["order"]);
    let rows = world.buried(2).await;
    assert!(rows.iter().all(|row| row.reason == "conflict" && places.contains(&row.place())), "{rows:?}");
    let letters = world.published(2).await;
    let source = world.kafka.records(&world.topic).await;
    for place in &places {
        let original = source.iter().find(|record| record.coordinates == *place).unwrap();
        assert!(letters::is_whole(letter_of(&letters, *place), original));
    }
    world.assert_kept_as_they_came(&places).await;
    assert_eq!(world.orders_in_state("d").await, BTreeSet::from([ORDER.to_string()]));
    for (outcome, count) in [("notified", 1.0), ("duplicate", 1.0), ("dead_lettered", 2.0)] {
        worker.wait_for_metric("herald_records_total", &[("outcome", outcome)], count).await;
    }
    worker.assert_accounting_closes().await;
}

/// Longer than any freeze here: an answer that waits in the socket of a frozen worker is still an answer.
fn patient(world: &World, session_timeout: &str) -> WorkerSetup {
    let setup = world.worker().with("HERALD_KAFKA__SESSION_TIMEOUT", session_timeout);
    setup.with("HERALD_WEBHOOK__TIMEOUT", "2m")
}

/// The owner of the first partition, and that of the second.
async fn owners_of_a_partition_each(world: &World, setup: &WorkerSetup) -> [Worker; 2] {
    let (one, other) = tokio::join!(setup.start(), setup.start());
    world.shared_equally(&[&one, &other]).await;
    if world.owners().await[&Partition(0)] == one.pid() { [one, other] } else { [other, one] }
}

/// Returns once the request is at the gateway, its answer pending.
async fn notify_in_first_partition(world: &mut World) {
    world.produce_in(0, &[orders::created(ORDER)]).await;
    wait_until("the gateway is asked", SOON, async || match world.gateway.requests().len() {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
}

async fn wait_until_busy(worker: &Worker) {
    wait_until("the copy waits for the claim", SOON, async || {
        let busy = worker.metrics().await.sum("herald_claims_total", &[("result", "busy")]);
        if busy >= 1.0 { Ok(()) } else { Err(busy) }
    })
    .await;
}

fn assert_two_requests_with_one_key(world: &World) {
    let requests = world.gateway.requests_for(&ORDER.to_string());
    let keys: BTreeSet<_> = requests.iter().map(|request| request.idempotency_key().unwrap()).collect();
    assert_eq!((requests.len(), keys.len()), (2, 1), "{requests:?}");
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
