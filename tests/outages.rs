//! Postgres, the gateway or the broker gone for a while: no attempt is spent, nothing is dead-lettered, and all is notified afterwards.
//!
//! All workers have one attempt only: if an outage spent it, the order would be a dead letter.

use std::time::Duration;

use futures_util::future::join_all;
use herald::demo::postgres::PrivatePostgres;
use herald::supervised::Signal;
use sqlx::PgPool;

use crate::support::gateway::Answer;
use crate::support::kafka::{BrokerHandle, Cluster, NewRecord};
use crate::support::letters::rows;
use crate::support::pgbouncer::PgBouncer;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::support::{World, orders, postgres};

/// The shortest that brokers allow unless told otherwise.
const SESSION_TIMEOUT: &str = "6s";

fn one_attempt(world: &World) -> WorkerSetup {
    world.worker().with("HERALD_RETRY__MAX_ATTEMPTS", "1")
}

async fn produce(world: &mut World, order_ids: std::ops::Range<u64>) {
    world.produce(&order_ids.map(orders::created).collect::<Vec<_>>()).await;
}

async fn wait_accepted(world: &World, count: usize) {
    wait_until(&format!("{count} orders are notified"), EVENTUALLY, async || {
        let accepted = world.gateway.accepted();
        if accepted >= count { Ok(()) } else { Err(format!("{accepted} are")) }
    })
    .await;
}

/// Every order was notified once, at its first attempt, and everything that was polled is accounted for.
async fn assert_nothing_was_spent(world: &World, worker: &Worker, orders: u32) {
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", worker.log());
    worker.wait_ready().await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], f64::from(orders)).await;
    worker.assert_accounting_closes().await;
    let metrics = worker.metrics().await;
    for (name, labels) in [
        ("herald_records_total", &[("outcome", "dead_lettered")]),
        ("herald_attempts_total", &[("result", "transient")]),
        ("herald_attempts_total", &[("result", "unknown")]),
        ("herald_attempts_total", &[("result", "permanent")]),
        ("herald_retries_scheduled_total", &[("where", "lane")]),
    ] {
        assert!(metrics.sum(name, labels) < 1.0, "{name}{labels:?}");
    }
}

#[tokio::test]
async fn orders_are_notified_once_each_although_postgres_crashes_while_they_are_delivered() {
    let world = World::with_partitions(3).await;
    let (server, url) = postgres::private().await;
    let setup = one_attempt(&world).with("DATABASE_URL", &url);
    postgres_crashes_while_orders_are_delivered(world, server, &url, setup).await;
}

#[tokio::test]
async fn orders_are_notified_once_each_although_postgres_crashes_behind_pgbouncer() {
    let world = World::with_partitions(3).await;
    let (server, url) = postgres::private().await;
    let pgbouncer = PgBouncer::start(&url).await;
    let setup = pgbouncer.before(one_attempt(&world));
    postgres_crashes_while_orders_are_delivered(world, server, &url, setup).await;
}

async fn postgres_crashes_while_orders_are_delivered(
    mut world: World,
    mut server: PrivatePostgres,
    url: &str,
    setup: WorkerSetup,
) {
    let worker = setup.start().await;
    // Deliveries are under way when the server crashes, and end while it is gone.
    world.gateway.answer(Answer::ok().after(Duration::from_millis(300)));
    produce(&mut world, 0..600).await;
    wait_accepted(&world, 50).await;
    server.crash().unwrap();
    produce(&mut world, 600..700).await;
    world.kafka.produce(&world.topic, vec![NewRecord::of("poison")]).await;
    worker.wait_unready("postgres").await;
    assert!(worker.metrics().await.sum("herald_ledger_batches_held_total", &[]) > 0.0);

    server.restart().await.unwrap();
    world.all_committed().await;
    let pool = PgPool::connect(url).await.unwrap();
    let letters = rows(&pool).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0].reason, "undecodable");
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", worker.log());
    assert_eq!(world.gateway.requests().len(), 700);
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], 700.0).await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "dead_lettered")], 1.0).await;
    worker.wait_for_metric("herald_attempts_total", &[], 700.0).await;
    worker.assert_accounting_closes().await;
    worker.wait_ready().await;
}

#[tokio::test]
async fn a_worker_stays_in_its_group_and_keeps_the_order_while_postgres_is_away_for_longer_than_it_may_go_without_polling()
 {
    const MAX_POLL_INTERVAL: Duration = Duration::from_secs(6);
    let mut world = World::with_partitions(3).await;
    let (mut server, url) = postgres::private().await;
    let worker = one_attempt(&world)
        .with("DATABASE_URL", &url)
        .with("HERALD_NOTIFICATION__EVENT_TYPES", "ORDER_CREATED,ORDER_PAID")
        // What is claimed is delivered all the same: so few that most of the records are not claimed yet.
        .with("HERALD_LIMITS__RECORDS", "100")
        .with("HERALD_DELIVERY__MAX_CONCURRENT", "50")
        .with("HERALD_KAFKA__MAX_POLL_INTERVAL", "6s")
        .with("HERALD_KAFKA__SESSION_TIMEOUT", SESSION_TIMEOUT)
        .with("HERALD_DELIVERY__DRAIN_TIMEOUT", "1s")
        .start()
        .await;
    worker.wait_for_metric("herald_consumer_assigned_partitions", &[], 3.0).await;
    let rebalances = async || worker.metrics().await.sum("herald_consumer_rebalances_total", &[]);
    let before = rebalances().await;
    // Deliveries of the first of two are under way when the server crashes.
    world.gateway.answer(Answer::ok().after(Duration::from_millis(300)));
    let pairs = |ids: std::ops::Range<u64>| -> Vec<_> {
        ids.flat_map(|id| ["ORDER_CREATED", "ORDER_PAID"].map(|kind| orders::event(kind, id))).collect()
    };
    world.produce_evenly(&pairs(0..300)).await;
    wait_accepted(&world, 50).await;
    server.crash().unwrap();
    worker.wait_unready("postgres").await;
    tokio::time::sleep(MAX_POLL_INTERVAL * 5 / 2).await;
    world.produce_evenly(&pairs(300..330)).await;
    worker.wait_for_metric("herald_consumer_assigned_partitions", &[], 3.0).await;
    let sent = world.gateway.requests().len();
    assert!(sent < 600, "nothing was left to do");

    server.restart().await.unwrap();
    world.all_committed().await;
    assert_nothing_was_spent(&world, &worker, 660).await;
    assert!((rebalances().await - before).abs() < f64::EPSILON, "{}", worker.log());
    assert_eq!(world.gateway.requests().len(), 660);
}

#[tokio::test]
async fn a_worker_that_was_idle_when_postgres_went_goes_on_when_it_is_back() {
    let mut world = World::with_partitions(1).await;
    let (mut server, url) = postgres::private().await;
    let worker = one_attempt(&world).with("DATABASE_URL", &url).start().await;
    server.crash().unwrap();
    produce(&mut world, 0..10).await;
    worker.wait_unready("postgres").await;
    assert!(world.gateway.requests().is_empty(), "nothing is sent that no claim protects");
    server.restart().await.unwrap();
    world.all_committed().await;
    assert_nothing_was_spent(&world, &worker, 10).await;
}

#[tokio::test]
async fn while_none_of_three_brokers_answers_a_worker_says_so_and_while_one_does_it_goes_on() {
    let mut cluster = Cluster::start(0).await;
    let mut world = World::on(cluster.kafka().clone(), 3).await;
    let worker = one_attempt(&world).start().await;
    let opened = async |times| {
        worker.wait_for_metric("herald_breaker_opened_total", &[("dependency", "kafka")], times).await;
    };
    let (mut brokers, _) = cluster.parts();
    let [one, others @ ..] = &mut brokers[..] else { panic!("no brokers") };
    one.end_with(Signal::Kill).await;
    produce(&mut world, 0..30).await;
    wait_accepted(&world, 30).await;
    opened(0.0).await;
    worker.wait_ready().await;

    join_all(others.iter_mut().map(|broker| broker.end_with(Signal::Kill))).await;
    worker.wait_unready("kafka").await;
    opened(1.0).await;
    // Nothing is produced: only the answer of a broker can tell that one is back.
    join_all(others.iter_mut().map(BrokerHandle::restart)).await;
    worker.wait_ready().await;
    worker.wait_for_metric("herald_breaker_state", &[("dependency", "kafka"), ("state", "closed")], 1.0).await;
    produce(&mut world, 30..60).await;
    wait_accepted(&world, 60).await;
    assert_nothing_was_spent(&world, &worker, 60).await;
    opened(1.0).await;
}

#[tokio::test]
async fn a_gateway_that_is_down_for_a_while_spends_no_attempt() {
    let mut world = World::with_partitions(2).await;
    let worker = one_attempt(&world).start().await;
    produce(&mut world, 0..20).await;
    world.all_committed().await;
    world.gateway.down().await;
    produce(&mut world, 20..60).await;
    worker.wait_unready("breaker").await;
    let metrics = worker.metrics().await;
    assert!(metrics.sum("herald_deliveries_held_total", &[]) >= 1.0);
    assert!(
        metrics.sum("herald_records_in_flight", &[]) >= 1.0,
        "those that were fetched before the partitions paused"
    );
    assert!(metrics.sum("herald_records_total", &[]) < 20.5, "more ended than before");
    world.gateway.up().await;
    world.all_committed().await;
    assert_nothing_was_spent(&world, &worker, 60).await;
}

#[tokio::test]
async fn a_gateway_that_refuses_our_credentials_for_a_while_spends_no_attempt() {
    let mut world = World::with_partitions(2).await;
    let worker = one_attempt(&world).start().await;
    world.gateway.answer(Answer::status(401));
    produce(&mut world, 0..30).await;
    worker.wait_unready("breaker").await;
    wait_until("probes were refused as well", EVENTUALLY, async || {
        let held = worker.metrics().await.sum("herald_deliveries_held_total", &[]);
        if held >= 8.0 { Ok(()) } else { Err(format!("{held} deliveries were held")) }
    })
    .await;
    world.gateway.answer(Answer::ok());
    world.all_committed().await;
    assert_nothing_was_spent(&world, &worker, 30).await;
}

#[tokio::test]
async fn requests_cut_off_when_the_gateway_goes_are_sent_again_with_the_same_key() {
    let mut world = World::with_partitions(2).await;
    let worker = world.worker().with("HERALD_RETRY__INITIAL_BACKOFF", "100ms").start().await;
    world.gateway.answer(Answer::Hang);
    produce(&mut world, 0..50).await;
    wait_until("every order was sent", EVENTUALLY, async || {
        let sent = world.gateway.requests().len();
        if sent == 50 { Ok(()) } else { Err(format!("{sent} of 50 were")) }
    })
    .await;
    world.gateway.down().await;
    worker.wait_unready("breaker").await;
    world.gateway.answer(Answer::ok());
    world.gateway.up().await;
    world.all_committed().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", worker.log());
    // Whether the first one had its effect nobody knows, so it counts; those that met a closed door do not.
    worker.wait_for_metric("herald_attempts_total", &[("result", "unknown")], 50.0).await;
    worker.wait_for_metric("herald_retries_scheduled_total", &[], 50.0).await;
    worker.wait_for_metric("herald_attempts_total", &[("result", "ok")], 50.0).await;
    worker.assert_accounting_closes().await;
    worker.wait_ready().await;
}

#[tokio::test]
async fn a_worker_that_cannot_take_its_partitions_over_because_postgres_is_gone_says_so() {
    let mut world = World::with_partitions(1).await;
    let (mut server, url) = postgres::private().await;
    let setup = one_attempt(&world).with("DATABASE_URL", &url).with("HERALD_KAFKA__SESSION_TIMEOUT", SESSION_TIMEOUT);
    let first = setup.start().await;
    let second = setup.start().await;
    let owner = async |worker: &Worker| worker.metrics().await.sum("herald_consumer_assigned_partitions", &[]) > 0.0;
    let (mut owning, waiting) = if owner(&first).await { (first, second) } else { (second, first) };
    server.crash().unwrap();
    owning.kill9().await;
    waiting.wait_for_metric("herald_consumer_assigned_partitions", &[], 1.0).await;
    waiting.wait_unready("postgres").await;
    server.restart().await.unwrap();
    produce(&mut world, 0..10).await;
    world.all_committed().await;
    assert_nothing_was_spent(&world, &waiting, 10).await;
}

#[tokio::test]
async fn a_worker_that_lost_its_partitions_is_not_held_unready_by_what_they_waited_for() {
    let mut world = World::on_our_broker(1).await;
    let setup = one_attempt(&world).with("HERALD_KAFKA__SESSION_TIMEOUT", SESSION_TIMEOUT);
    let mut frozen = setup.start().await;
    world.kafka.delete_topic(&world.dlq_topic).await;
    world.gateway.answer(Answer::status(401));
    world.kafka.produce(&world.topic, vec![NewRecord::of("poison")]).await;
    produce(&mut world, 0..3).await;
    for reason in ["breaker", "dlq"] {
        frozen.wait_unready(reason).await;
    }
    frozen.sigstop();
    world.kafka.create_topic(&world.dlq_topic, 1).await;
    let next = setup.spawn();
    next.wait_for_metric("herald_consumer_assigned_partitions", &[], 1.0).await;
    frozen.sigcont();
    frozen.wait_for_metric("herald_consumer_assigned_partitions", &[], 0.0).await;
    frozen.wait_ready().await;
    world.gateway.answer(Answer::ok());
    world.published(1).await;
    world.all_committed().await;
    assert_nothing_was_spent(&world, &next, 3).await;
    frozen.assert_accounting_closes().await;
}
