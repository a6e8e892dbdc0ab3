//! An outage of the channel is told from poison: while it is away one record after another asks for it, nothing is spent and
//! nothing is given up. A record that fails alone is given up, and harms nobody.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use crate::support::gateway::{Answer, Request};
use crate::support::kafka::Broker;
use crate::support::letters::{self, rows};
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::support::{World, orders};

const EVENT_TYPES: [&str; 6] = ["T0", "T1", "T2", "T3", "T4", "T5"];
const GATEWAY: (&str, &str) = ("dependency", "gateway");

/// Asks often whether the gateway is back.
fn setup(world: &World) -> WorkerSetup {
    world
        .worker()
        .with("HERALD_NOTIFICATION__EVENT_TYPES", &format!("ORDER_CREATED,{}", EVENT_TYPES.join(",")))
        .with("HERALD_BREAKER__INITIAL_WAIT", "100ms")
        .with("HERALD_BREAKER__MAX_WAIT", "400ms")
        .with("HERALD_RETRY__INITIAL_BACKOFF", "100ms")
        .with("HERALD_RETRY__MAX_BACKOFF", "1s")
}

/// An outage that spent an attempt would make dead letters.
fn one_attempt(world: &World) -> WorkerSetup {
    setup(world).with("HERALD_RETRY__MAX_ATTEMPTS", "1")
}

/// The first two events of each order, in one partition.
fn pairs(order_ids: std::ops::Range<u64>) -> Vec<Value> {
    order_ids.flat_map(|id| ["T0", "T1"].map(|kind| orders::event(kind, id))).collect()
}

async fn is_open(worker: &Worker, is_expected: bool) {
    let what = if is_expected { "the breaker is open" } else { "the breaker is closed" };
    wait_until(what, EVENTUALLY, async || {
        let metrics = worker.metrics().await;
        let state = |state| metrics.sum("herald_breaker_state", &[GATEWAY, ("state", state)]);
        let states = [state("closed"), state("open"), state("half_open")];
        assert!((states.iter().sum::<f64>() - 1.0).abs() < f64::EPSILON, "{states:?}");
        if (states[0] < 1.0) == is_expected { Ok(()) } else { Err(format!("{states:?}\n{}", worker.log())) }
    })
    .await;
}

async fn asked(world: &World, count: usize) {
    wait_until(&format!("the gateway was asked {count} times"), EVENTUALLY, async || {
        let requests = world.gateway.requests().len();
        if requests >= count { Ok(()) } else { Err(format!("{requests} times")) }
    })
    .await;
}

async fn assert_all_is_told(world: &World, worker: &Worker) {
    world.parked_when(0).await;
    world.all_committed().await;
    is_open(worker, false).await;
    worker.wait_ready().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", worker.log());
    assert_eq!(rows(&world.database.pool).await.len(), 0, "dead letters");
    worker.assert_accounting_closes().await;
}

async fn assert_nothing_was_spent(worker: &Worker) {
    let metrics = worker.metrics().await;
    for result in ["transient", "unknown", "permanent"] {
        assert!(metrics.sum("herald_attempts_total", &[("result", result)]) < 1.0, "{result}\n{}", worker.log());
    }
}

#[tokio::test]
async fn while_the_gateway_is_away_one_record_at_a_time_asks_for_it_each_time_of_another_key() {
    let mut world = World::with_partitions(2).await;
    // The first answer opens the breaker: what is asked again is asked as a probe.
    let worker = one_attempt(&world).with("HERALD_BREAKER__OUTAGES", "1").start().await;
    world.gateway.answer(Answer::status(401).after(Duration::from_millis(200)));
    world.produce_evenly(&pairs(0..20)).await;
    worker.wait_unready("breaker").await;
    is_open(&worker, true).await;
    asked(&world, 20 + 8).await;
    let requests = world.gateway.requests();
    let probes: Vec<&Request> = requests.iter().filter(|request| request.sequence > 0).collect();
    for pair in probes.windows(2) {
        let answered = pair[0].answered.expect("a probe runs beside another");
        assert!(pair[1].received >= answered, "two probes at a time");
        assert_ne!(pair[0].order_id(), pair[1].order_id());
    }
    let keys: HashSet<String> = probes.iter().map(|request| request.order_id()).collect();
    assert!(keys.len() >= 5, "{keys:?}");
    let metrics = worker.metrics().await;
    assert!((metrics.sum("herald_consumer_paused_partitions", &[("cause", "breaker")]) - 2.0).abs() < f64::EPSILON);
    assert!((metrics.sum("herald_breaker_opened_total", &[GATEWAY]) - 1.0).abs() < f64::EPSILON);

    world.gateway.answer(Answer::ok());
    assert_all_is_told(&world, &worker).await;
    assert_nothing_was_spent(&worker).await;
}

#[tokio::test]
async fn a_worker_stays_in_its_group_while_the_gateway_is_away_for_longer_than_it_may_go_without_polling() {
    const MAX_POLL_INTERVAL: Duration = Duration::from_secs(6);
    let mut world = World::with_partitions(3).await;
    let worker = one_attempt(&world)
        .with("HERALD_KAFKA__MAX_POLL_INTERVAL", "6s")
        .with("HERALD_KAFKA__SESSION_TIMEOUT", "6s")
        .with("HERALD_DELIVERY__DRAIN_TIMEOUT", "1s")
        .start()
        .await;
    worker.wait_for_metric("herald_consumer_assigned_partitions", &[], 3.0).await;
    let rebalances = async || worker.metrics().await.sum("herald_consumer_rebalances_total", &[]);
    let before = rebalances().await;
    world.gateway.down().await;
    world.produce_evenly(&pairs(0..60)).await;
    is_open(&worker, true).await;
    tokio::time::sleep(MAX_POLL_INTERVAL * 5 / 2).await;
    // Records that came meanwhile wait in the topic.
    world.produce_evenly(&pairs(60..120)).await;
    worker.wait_unready("breaker").await;
    worker.wait_for_metric("herald_consumer_assigned_partitions", &[], 3.0).await;
    assert!((rebalances().await - before).abs() < f64::EPSILON, "{}", worker.log());

    world.gateway.up().await;
    assert_all_is_told(&world, &worker).await;
    assert_nothing_was_spent(&worker).await;
    assert!((rebalances().await - before).abs() < f64::EPSILON, "{}", worker.log());
    assert_eq!(world.gateway.requests().len(), 240);
}

#[tokio::test]
async fn errors_for_everybody_are_an_outage_and_make_no_dead_letters_though_all_attempts_are_spent() {
    let mut world = World::with_partitions(2).await;
    let worker = one_attempt(&world).start().await;
    world.produce_evenly(&pairs(0..20)).await;
    asked(&world, 40).await;
    world.gateway.answer(Answer::status(500));
    world.produce_evenly(&pairs(100..140)).await;
    is_open(&worker, true).await;
    worker.wait_unready("breaker").await;
    // Those that met the outage first have no attempt left, and others ask for the gateway.
    let kept = worker.metrics().await.sum("herald_exhausted_without_evidence_total", &[]);
    assert!(kept >= 10.0, "{kept}");
    let so_far = world.gateway.requests().len();
    asked(&world, so_far + 10).await;
    world.gateway.answer(Answer::ok());
    assert_all_is_told(&world, &worker).await;
}

#[tokio::test]
async fn orders_are_notified_once_each_and_nothing_is_spent_although_the_broker_is_killed_meanwhile() {
    let mut broker = Broker::private().await;
    let mut world = World::on((*broker).clone(), 3).await;
    world.gateway.answer(Answer::ok().after(Duration::from_millis(100)));
    let worker = one_attempt(&world).with("HERALD_DELIVERY__MAX_CONCURRENT", "8").start().await;
    world.produce_evenly(&pairs(0..150)).await;
    asked(&world, 50).await;
    broker.kill().await;
    // What was fetched is notified, as long as the broker is away.
    let at_the_kill = world.gateway.accepted();
    wait_until("orders are notified without the broker", EVENTUALLY, async || {
        let accepted = world.gateway.accepted();
        if accepted > at_the_kill { Ok(()) } else { Err(accepted) }
    })
    .await;
    worker.wait_unready("kafka").await;
    broker.restart().await;
    world.produce_evenly(&pairs(200..210)).await;
    assert_all_is_told(&world, &worker).await;
    assert_nothing_was_spent(&worker).await;
}

/// Notifies orders of other keys until told that it is enough: the evidence that the channel works.
async fn show_that_it_works(world: &mut World, mut is_enough: impl AsyncFnMut(&World) -> bool) {
    let mut order_ids = 1_000..;
    while !is_enough(world).await {
        let next: Vec<Value> = order_ids.by_ref().take(5).map(orders::created).collect();
        let before = world.gateway.accepted();
        world.produce(&next).await;
        wait_until("another is notified", EVENTUALLY, async || {
            if world.gateway.accepted() > before { Ok(()) } else { Err("none is") }
        })
        .await;
    }
}

#[tokio::test]
async fn behind_an_exhausted_record_those_of_its_key_get_one_attempt_each_until_one_succeeds() {
    let mut world = World::with_partitions(1).await;
    let worker = setup(&world).with("HERALD_RETRY__MAX_ATTEMPTS", "3").start().await;
    // Long enough that others are notified meanwhile.
    let no = || Answer::status(500).after(Duration::from_millis(1_500));
    // T0 three times, T1 and T2 once; T3 succeeds, so T4 may fail again.
    world.gateway.answer_order("7", [no(), no(), no(), no(), no(), Answer::ok(), no(), no()]);
    world.produce(&EVENT_TYPES.map(|kind| orders::event(kind, 7))).await;
    show_that_it_works(&mut world, async |world| {
        world.gateway.requests_for("7").iter().any(|request| request.event_type() == "T5" && request.is_accepted())
    })
    .await;
    world.all_committed().await;
    let dead = rows(&world.database.pool).await;
    let dead: Vec<_> = dead.iter().map(|row| (row.koffset, &*row.reason, row.attempts)).collect();
    assert_eq!(dead, [(0, "exhausted", 3), (1, "exhausted", 1), (2, "exhausted", 1)]);
    let kinds: Vec<String> =
        world.gateway.requests_for("7").iter().map(|request| request.event_type().to_owned()).collect();
    assert_eq!(kinds, ["T0", "T0", "T0", "T1", "T2", "T3", "T4", "T4", "T4", "T5"]);
    assert!(world.verdict().out_of_order.is_empty());
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn a_key_that_always_fails_neither_clogs_its_partition_nor_keeps_the_breaker_open() {
    let mut world = World::with_partitions(1).await;
    // All orders of one user, who cannot be notified.
    let hopeless: Vec<u64> = (0..6).map(|number| number * 100).collect();
    for order_id in &hopeless {
        // Long enough that others are notified meanwhile.
        world.gateway.always_answer_order(&order_id.to_string(), Answer::status(500).after(Duration::from_secs(1)));
    }
    let worker = setup(&world)
        .with("HERALD_ORDERING__KEY", "user_id")
        .with("HERALD_RETRY__MAX_ATTEMPTS", "3")
        .with("HERALD_RETRY__PARK_AFTER", "500ms")
        .start()
        .await;
    let events = hopeless.iter().map(|id| orders::created(*id)).chain((201..300).map(orders::created));
    world.produce(&events.collect::<Vec<_>>()).await;
    asked(&world, 99).await;
    assert!((worker.metrics().await.sum("herald_breaker_opened_total", &[GATEWAY])).abs() < f64::EPSILON);

    // An outage on top of it.
    world.gateway.down().await;
    world.produce(&(301..350).map(orders::created).collect::<Vec<_>>()).await;
    is_open(&worker, true).await;
    world.gateway.up().await;
    is_open(&worker, false).await;
    show_that_it_works(&mut world, async |world| letters::rows(&world.database.pool).await.len() == hopeless.len())
        .await;
    world.parked_when(0).await;
    world.all_committed().await;
    let dead = rows(&world.database.pool).await;
    let is_hopeless = |order_id: &str| hopeless.contains(&order_id.parse().unwrap());
    assert!(dead.iter().all(|row| row.reason == "exhausted" && is_hopeless(&row.order_id)), "{dead:?}");
    // Their order is kept to the end.
    assert!(dead.is_sorted_by_key(|row| row.koffset), "{dead:?}");
    let verdict = world.verdict();
    assert!(verdict.lost.len() == hopeless.len() && verdict.repeated.is_empty(), "{verdict:?}");
    is_open(&worker, false).await;
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn nothing_is_given_up_until_the_channel_has_worked_for_another_key() {
    let mut world = World::with_partitions(1).await;
    let worker =
        setup(&world).with("HERALD_RETRY__MAX_ATTEMPTS", "2").with("HERALD_RETRY__MAX_BACKOFF", "200ms").start().await;
    world.gateway.always_answer_order("7", Answer::status(500));
    world.produce(&[orders::created(7)]).await;
    world.all_committed().await;
    asked(&world, 6).await;
    assert_eq!(rows(&world.database.pool).await.len(), 0);
    assert_eq!(world.parked_when(1).await[0].order_id, "7");
    assert!(worker.metrics().await.sum("herald_exhausted_without_evidence_total", &[]) >= 3.0);

    world.produce(&[orders::created(8)]).await;
    let dead = world.buried(1).await;
    assert_eq!((&*dead[0].order_id, &*dead[0].reason), ("7", "exhausted"));
    assert!(dead[0].attempts > 6);
    world.parked_when(0).await;
    world.all_committed().await;
    worker.assert_accounting_closes().await;
}
