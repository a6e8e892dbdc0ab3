//! What the gateway answers decides how often, and when, an order is sent.

use std::time::{Duration, Instant};

use crate::support::gateway::{Answer, Request};
use crate::support::letters::rows;
use crate::support::worker::Worker;
use crate::support::{World, orders};

async fn worker_of(world: &World) -> Worker {
    world
        .worker()
        .with("HERALD_RETRY__INITIAL_BACKOFF", "100ms")
        .with("HERALD_RETRY__MAX_BACKOFF", "1s")
        .with("HERALD_WEBHOOK__TIMEOUT", "1s")
        .start()
        .await
}

async fn assert_attempts(worker: &Worker, expected: [(&str, f64); 5]) {
    for (result, count) in expected {
        worker.wait_for_metric("herald_attempts_total", &[("result", result)], count).await;
    }
    worker.assert_accounting_closes().await;
}

/// They are one notification tried again, each begun after the one before had ended.
fn assert_one_notification(requests: &[Request]) {
    assert!(requests.iter().all(|request| request.idempotency_key() == requests[0].idempotency_key()));
    assert!(requests.iter().all(|request| request.body == requests[0].body));
    let ends: Vec<Option<Instant>> = requests.iter().map(|request| request.answered).collect();
    for (end, next) in ends.iter().zip(&requests[1..]) {
        assert!(end.is_none_or(|end| end <= next.received));
    }
}

fn statuses(requests: &[Request]) -> Vec<Option<u16>> {
    requests.iter().map(|request| request.status).collect()
}

#[tokio::test]
async fn an_order_answered_500_twice_is_sent_a_third_time_and_notified_once() {
    let mut world = World::with_partitions(1).await;
    world.gateway.answer_order("1", [Answer::status(500), Answer::status(500).with_body("again")]);
    let worker = worker_of(&world).await;
    world.produce(&[orders::created(1), orders::created(2)]).await;
    world.all_committed().await;
    let requests = world.gateway.requests_for("1");
    assert_eq!(statuses(&requests), [Some(500), Some(500), Some(200)]);
    assert_one_notification(&requests);
    assert_eq!(statuses(&world.gateway.requests_for("2")), [Some(200)]);
    assert!(world.verdict().is_clean());
    assert_attempts(&worker, [("ok", 2.0), ("transient", 2.0), ("unknown", 0.0), ("permanent", 0.0), ("outage", 0.0)])
        .await;
    worker.wait_for_metric("herald_retries_scheduled_total", &[], 2.0).await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], 2.0).await;
    assert!(rows(&world.database.pool).await.is_empty());
}

#[tokio::test]
async fn an_order_answered_429_is_not_sent_before_the_time_that_the_gateway_asks_for() {
    let mut world = World::with_partitions(1).await;
    world.gateway.answer_order("1", [Answer::status(429).retry_after("3")]);
    let worker = worker_of(&world).await;
    world.produce(&[orders::created(1), orders::created(2)]).await;
    world.all_committed().await;
    let requests = world.gateway.requests_for("1");
    assert_eq!(statuses(&requests), [Some(429), Some(200)]);
    assert_one_notification(&requests);
    let waited = requests[1].received - requests[0].answered.unwrap();
    assert!(waited >= Duration::from_secs(3), "{waited:?}");
    // Another order is not made to wait with it.
    let other = &world.gateway.requests_for("2")[0];
    assert!(other.received < requests[1].received);
    assert_attempts(&worker, [("ok", 2.0), ("transient", 1.0), ("unknown", 0.0), ("permanent", 0.0), ("outage", 0.0)])
        .await;
}

#[tokio::test]
async fn an_order_answered_400_is_sent_once_and_given_up() {
    let mut world = World::with_partitions(1).await;
    world.gateway.always_answer_order("1", Answer::status(400));
    let worker = worker_of(&world).await;
    world.produce(&[orders::created(1), orders::created(2)]).await;
    world.all_committed().await;
    assert_eq!(statuses(&world.gateway.requests_for("1")), [Some(400)]);
    assert_eq!(world.published(1).await.len(), 1);
    assert_attempts(&worker, [("ok", 1.0), ("transient", 0.0), ("unknown", 0.0), ("permanent", 1.0), ("outage", 0.0)])
        .await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], 1.0).await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "dead_lettered")], 1.0).await;
}

#[tokio::test]
async fn a_request_that_is_never_answered_ends_at_the_timeout_and_is_sent_again_with_the_same_key() {
    let mut world = World::with_partitions(1).await;
    world.gateway.answer_order("1", [Answer::Hang, Answer::Reset]);
    let worker = worker_of(&world).await;
    let others: Vec<_> = (2..50).map(orders::created).collect();
    world.produce(&[orders::created(1)]).await;
    world.produce(&others).await;
    world.all_committed().await;
    let requests = world.gateway.requests_for("1");
    assert_eq!(statuses(&requests), [None, None, Some(200)]);
    assert_one_notification(&requests);
    let hung = requests[1].received - requests[0].received;
    // The timeout began when the request was sent, a moment before all of it had arrived.
    assert!(hung >= Duration::from_millis(900), "{hung:?}");
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_attempts(&worker, [("ok", 49.0), ("transient", 0.0), ("unknown", 2.0), ("permanent", 0.0), ("outage", 0.0)])
        .await;
    assert!(rows(&world.database.pool).await.is_empty());
}
