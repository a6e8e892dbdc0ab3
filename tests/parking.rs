//! Retries that are far away wait in Postgres: their partition goes on, the records of their key wait behind them in order, and
//! whoever owns the partition by then delivers them.

use std::time::Duration;

use serde_json::Value;

use crate::support::gateway::{Answer, Request};
use crate::support::letters::rows;
use crate::support::wait::{EVENTUALLY, equal, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::support::{World, orders};

const EVENT_TYPES: [&str; 4] = ["ORDER_CREATED", "ORDER_PAID", "ORDER_SHIPPED", "ORDER_CLOSED"];
/// All but the last.
const LIFE: [&str; 3] = ["ORDER_CREATED", "ORDER_PAID", "ORDER_SHIPPED"];

/// A worker that is missed soon when it is killed.
fn setup(world: &World) -> WorkerSetup {
    world
        .worker()
        .with("HERALD_NOTIFICATION__EVENT_TYPES", &EVENT_TYPES.join(","))
        .with("HERALD_KAFKA__SESSION_TIMEOUT", "6s")
        .with("HERALD_RETRY__PARK_AFTER", "1s")
}

/// Come back in so many seconds.
fn later(seconds: u64) -> Answer {
    Answer::status(503).retry_after(&seconds.to_string())
}

fn life(order_ids: impl Iterator<Item = u64>) -> Vec<Value> {
    order_ids.flat_map(|id| LIFE.map(|kind| orders::event(kind, id))).collect()
}

fn count(records: u64) -> f64 {
    f64::from(u32::try_from(records).unwrap())
}

/// The time from the answer to the first request for this order to the next request.
fn first_wait(world: &World, order_id: u64) -> Duration {
    let requests = world.gateway.requests_for(&order_id.to_string());
    requests[1].received.duration_since(requests[0].answered.unwrap())
}

async fn assert_all_is_told(world: &World, inherited: u64, workers: &[&Worker]) {
    world.parked_when(0).await;
    world.all_committed().await;
    let verdict = world.verdict();
    let logs = || workers.iter().map(|worker| worker.log()).collect::<String>();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", logs());
    for worker in workers {
        worker.assert_accounting_closes().await;
    }
    assert_parking_closes(inherited, workers).await;
}

/// I7, the second sum, when nothing is parked any more: as many have left the table as these workers parked, and inherited from
/// those before them.
async fn assert_parking_closes(inherited: u64, workers: &[&Worker]) {
    wait_until("what was parked is settled", EVENTUALLY, async || {
        let (mut came, mut settled) = (count(inherited), 0.0);
        for worker in workers {
            let metrics = worker.metrics().await;
            came += metrics.sum("herald_records_total", &[("outcome", "parked")]);
            settled += metrics.sum("herald_parked_settled_total", &[]);
        }
        equal(settled, &came)
    })
    .await;
}

/// Parked by workers that are gone.
async fn left_parked(world: &World) -> u64 {
    u64::try_from(world.parked().await.len()).unwrap()
}

#[tokio::test]
async fn a_slow_key_holds_up_no_other_and_as_many_as_there_are_places_hold_up_all() {
    let mut world = World::with_partitions(1).await;
    let setup = setup(&world).with("HERALD_WEBHOOK__TIMEOUT", "1m");
    let worker = setup.with("HERALD_DELIVERY__MAX_CONCURRENT", "4").start().await;
    world.gateway.answer_order("1", [Answer::ok().after(Duration::from_secs(8))]);
    world.produce(&life(1..2).into_iter().chain((100..150).map(orders::created)).collect::<Vec<_>>()).await;
    world.all_committed().await;
    let slow = world.gateway.requests_for("1")[0].answered.unwrap();
    let is_other = |request: &Request| request.order_id() != "1";
    assert!(world.gateway.requests().iter().all(|request| !is_other(request) || request.answered.unwrap() < slow));

    let all_places = 200..204_u64;
    for order_id in all_places.clone() {
        world.gateway.answer_order(&order_id.to_string(), [Answer::ok().after(Duration::from_secs(3))]);
    }
    let before = world.gateway.requests().len();
    world.produce(&all_places.clone().chain(300..310).map(orders::created).collect::<Vec<_>>()).await;
    assert_all_is_told(&world, 0, &[&worker]).await;
    let since = &world.gateway.requests()[before..];
    let (slow, others): (Vec<_>, Vec<_>) = since.iter().partition(|one| one.order_id().starts_with('2'));
    let first_answer = slow.iter().filter_map(|request| request.answered).min().unwrap();
    assert_eq!((slow.len(), others.len()), (4, 10));
    assert!(others.iter().all(|request| request.received >= first_answer), "{others:?}");
}

#[tokio::test]
async fn a_record_told_to_wait_a_minute_is_parked_with_those_behind_it_and_its_partition_goes_on() {
    let mut world = World::with_partitions(1).await;
    world.gateway.answer_order("1", [later(60)]);
    let events =
        life(1..2).into_iter().chain((100..150).map(orders::created)).chain([orders::event("ORDER_CLOSED", 1)]);
    world.produce(&events.collect::<Vec<_>>()).await;
    // With the default of `retry.park_after`, which is half a minute.
    let worker = world.worker().with("HERALD_NOTIFICATION__EVENT_TYPES", &EVENT_TYPES.join(",")).start().await;
    world.all_committed().await;
    let parked = world.parked_when(4).await;
    let kinds: Vec<_> = parked.iter().map(|row| (&*row.order_id, &*row.event_type, row.attempts)).collect();
    let expected: Vec<_> = EVENT_TYPES.iter().map(|kind| ("1", *kind, i32::from(*kind == "ORDER_CREATED"))).collect();
    assert_eq!(kinds, expected);
    assert_eq!(world.gateway.accepted(), 50, "healthy keys are not held up");
    worker.wait_for_metric("herald_records_total", &[("outcome", "parked")], 4.0).await;
    worker.wait_for_metric("herald_retries_scheduled_total", &[("where", "parked")], 1.0).await;
    worker.wait_for_metric("herald_records_in_flight", &[], 0.0).await;
    worker.wait_for_metric("herald_parked_records", &[("kind", "retry")], 4.0).await;
    worker.wait_for_metric("herald_parked_keys", &[], 1.0).await;

    // Later records of the key, and of others.
    world.produce(&[orders::created(150), orders::created(151)]).await;
    assert_all_is_told(&world, 0, &[&worker]).await;
    let waited = first_wait(&world, 1);
    assert!(waited >= Duration::from_mins(1), "{waited:?}");
    assert_eq!(world.gateway.requests_for("1").len(), 5);
    worker.wait_for_metric("herald_parked_settled_total", &[("outcome", "notified")], 4.0).await;
    worker.wait_for_metric("herald_parked_records", &[], 0.0).await;
}

/// Five keys are parked in two partitions when the worker ends; the next one goes on with them.
async fn parked_records_survive(end: impl AsyncFnOnce(&mut Worker)) {
    const WAIT: u64 = 12;
    let mut world = World::with_partitions(2).await;
    for order_id in 0..5 {
        world.gateway.answer_order(&order_id.to_string(), [later(WAIT)]);
    }
    // Its attempts before and after are counted together.
    world.gateway.always_answer_order("4", Answer::status(500));
    let setup = setup(&world).with("HERALD_RETRY__MAX_ATTEMPTS", "2").with("HERALD_RETRY__MAX_BACKOFF", "1s");
    let mut first = setup.start().await;
    world.produce_in(0, &life(0..2)).await;
    world.produce_in(1, &life(2..5)).await;
    world.produce(&(100..120).map(orders::created).collect::<Vec<_>>()).await;
    let parked = world.parked_when(15).await;
    world.all_committed().await;
    end(&mut first).await;

    let inherited = left_parked(&world).await;
    let next = setup.start().await;
    assert_eq!(world.parked().await, parked);
    let closed = |order_id| orders::event("ORDER_CLOSED", order_id);
    world.produce_in(0, &[closed(0), orders::created(120), closed(1)]).await;
    world.produce_in(1, &[closed(2), closed(3)]).await;
    // So that there is evidence against the one that fails.
    let mut healthy = 200;
    wait_until("the events of the last order are dead letters", EVENTUALLY, async || {
        world.produce(&[orders::created(healthy)]).await;
        healthy += 1;
        let dead = rows(&world.database.pool).await.len();
        if dead == LIFE.len() { Ok(()) } else { Err(format!("{dead} are")) }
    })
    .await;
    world.parked_when(0).await;
    world.all_committed().await;

    let mut verdict = world.verdict();
    verdict.lost.retain(|(order_id, _)| order_id != "4");
    assert!(verdict.is_clean(), "{verdict:?}\n{}", next.log());
    for order_id in 0..5 {
        let waited = first_wait(&world, order_id);
        assert!(waited >= Duration::from_secs(WAIT), "order {order_id} came back after {waited:?}");
    }
    let letters = rows(&world.database.pool).await;
    let requests =
        world.gateway.requests_for("4").into_iter().filter(|request| request.event_type() == "ORDER_CREATED");
    let attempts = i32::try_from(requests.count()).unwrap();
    assert_eq!((&*letters[0].order_id, &*letters[0].reason, letters[0].attempts), ("4", "exhausted", attempts));
    next.assert_accounting_closes().await;
    assert_parking_closes(inherited, &[&next]).await;
}

#[tokio::test]
async fn parked_records_their_attempts_and_their_due_times_survive_a_restart() {
    parked_records_survive(async |worker| {
        worker.sigterm();
        assert_eq!(worker.wait_exit(EVENTUALLY).await, 0, "{}", worker.log());
    })
    .await;
}

#[tokio::test]
async fn parked_records_their_attempts_and_their_due_times_survive_a_kill() {
    parked_records_survive(async |worker| worker.kill9().await).await;
}

#[tokio::test]
async fn a_worker_that_gets_a_partition_gets_its_parked_records_with_it() {
    let mut world = World::with_partitions(2).await;
    for order_id in 0..6 {
        world.gateway.answer_order(&order_id.to_string(), [later(12)]);
    }
    let setup = setup(&world);
    let first = setup.start().await;
    world.produce_in(0, &life(0..3)).await;
    world.produce_in(1, &life(3..6)).await;
    world.parked_when(18).await;
    let second = setup.start().await;
    world.shared_equally(&[&first, &second]).await;
    assert_eq!(world.parked().await.len(), 18, "they were due before the partition changed hands");
    // One record of a parked key for the new owner to hold back.
    world.produce_in(0, &[orders::event("ORDER_CLOSED", 0)]).await;
    world.produce_in(1, &[orders::event("ORDER_CLOSED", 3)]).await;
    assert_all_is_told(&world, 0, &[&first, &second]).await;
    for worker in [&first, &second] {
        worker.wait_for_metric("herald_parked_settled_total", &[("outcome", "notified")], 10.0).await;
    }
}

#[tokio::test]
async fn when_partitions_are_added_parked_records_stay_where_they_are_and_copies_elsewhere_are_duplicates() {
    let mut world = World::with_partitions(1).await;
    let mut worker =
        setup(&world).with("HERALD_KAFKA__OPTIONS__TOPIC_METADATA_REFRESH_INTERVAL_MS", "500").start().await;
    for order_id in ["1", "2"] {
        world.gateway.answer_order(order_id, [later(20)]);
    }
    world.produce_in(0, &life(1..3)).await;
    world.parked_when(6).await;
    world.kafka.grow_topic(&world.topic, 3).await;
    worker.wait_for_metric("herald_consumer_assigned_partitions", &[], 3.0).await;

    // A producer that hashes keys has moved order 1. Its copy is known, and parked already; its next event is first in the lane of
    // another partition, and passes those that are parked in the old one.
    world.produce_in(1, &[orders::created(1), orders::event("ORDER_CLOSED", 1)]).await;
    world.produce_in(0, &[orders::event("ORDER_CLOSED", 2)]).await;
    world.produce_in(2, &(100..110).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "duplicate")], 1.0).await;
    let closed = |request: &Request| request.event_type() == "ORDER_CLOSED";
    assert!(world.gateway.requests_for("1").iter().any(closed), "the key of another partition waits for nobody");
    assert!(!world.gateway.requests_for("2").iter().any(closed), "the key of this partition waits");
    assert!(world.parked().await.iter().all(|row| row.kpartition == 0));

    // And a restart finds all of it with three partitions.
    worker.kill9().await;
    let inherited = left_parked(&world).await;
    let next = setup(&world).start().await;
    assert_all_is_told(&world, inherited, &[&next]).await;
    assert!(first_wait(&world, 2) >= Duration::from_secs(20));
}

/// All that was produced is fetched, and has ended or waits.
async fn all_is_fetched(worker: &Worker, produced: u64) {
    wait_until("everything is fetched and was tried", EVENTUALLY, async || {
        let metrics = worker.metrics().await;
        let polled = metrics.sum("herald_records_polled_total", &[]);
        let delivering = metrics.sum("herald_queue_length", &[("queue", "deliveries")]);
        let is_tried = polled >= count(produced) && delivering < 1.0;
        if is_tried { Ok(()) } else { Err(format!("{polled} fetched, {delivering} run")) }
    })
    .await;
}

#[tokio::test]
async fn over_the_limit_of_parked_records_some_wait_in_memory_then_partitions_pause_but_for_a_few() {
    const LIMIT: usize = 1_000;
    let mut world = World::with_partitions(2).await;
    // Half of the orders are told to come back, so that the channel counts as working.
    for order_id in (0..10_000).step_by(2) {
        world.gateway.answer_order(&u64::to_string(&order_id), [later(3_600)]);
    }
    let setup = setup(&world)
        .with("HERALD_LIMITS__PARKED_RECORDS", &LIMIT.to_string())
        .with("HERALD_LIMITS__RECORDS", "300")
        .with("HERALD_BREAKER__FAILING_PERCENT", "100");
    let mut worker = setup.start().await;
    let mut produced = 0;
    while world.parked().await.len() < LIMIT {
        let events: Vec<_> = (produced..produced + 100).map(orders::created).collect();
        produced += 100;
        world.produce_evenly(&events).await;
        all_is_fetched(&worker, produced).await;
        worker.wait_for_metric("herald_records_in_flight", &[], 0.0).await;
    }
    // The table is full: half of these wait in memory.
    let parked = world.parked().await.len();
    world.produce_evenly(&(produced..produced + 200).map(orders::created).collect::<Vec<_>>()).await;
    produced += 200;
    all_is_fetched(&worker, produced).await;
    worker.wait_for_metric("herald_records_in_flight", &[], 100.0).await;
    assert_eq!(world.parked().await.len(), parked);

    // Half of the memory is full too: what fails is parked beyond the limit, and after each fetch nothing more is taken for a while.
    for _ in 0..3 {
        world.produce_evenly(&(produced..produced + 200).map(orders::created).collect::<Vec<_>>()).await;
        produced += 200;
        all_is_fetched(&worker, produced).await;
    }
    let labels = [("cause", "parked_limit")];
    worker.wait_for_metric("herald_consumer_paused_partitions", &labels, 2.0).await;
    worker.wait_ready().await;
    let parked = world.parked().await.len();
    assert!((LIMIT + 100..LIMIT + 500).contains(&parked), "{parked} are parked");

    // The hour is over.
    worker.kill9().await;
    world.gateway.forget_next();
    sqlx::raw_sql("UPDATE parked_events SET due_at = now()").execute(&world.database.pool).await.unwrap();
    let inherited = left_parked(&world).await;
    let next = setup.start().await;
    assert_all_is_told(&world, inherited, &[&next]).await;
    next.wait_for_metric("herald_consumer_paused_partitions", &[], 0.0).await;
    assert_eq!(rows(&world.database.pool).await.len(), 0);
}

#[tokio::test]
async fn check_and_a_start_warn_of_parked_records_that_wait_under_another_ordering_key() {
    const WARNING: &str = "2 of 2 parked records wait under another ordering.key";
    let mut world = World::with_partitions(1).await;
    world.gateway.answer_order("1", [later(3_600)]);
    world.gateway.answer_order("2", [later(3_600)]);
    world.produce(&[orders::created(1), orders::created(2)]).await;
    let mut worker = setup(&world).start().await;
    world.parked_when(2).await;
    let same = setup(&world).run_command(&["check"]).await;
    assert!(!same.stdout.contains("ordering.key"), "{}", same.stdout);
    worker.kill9().await;
    let changed = setup(&world).with("HERALD_ORDERING__KEY", "user_id");
    let check = changed.run_command(&["check"]).await;
    assert!(check.code == Some(0) && check.stdout.contains(WARNING), "{}{}", check.stdout, check.stderr);
    let next = changed.start().await;
    assert!(next.log().contains(WARNING), "{}", next.log());
}
