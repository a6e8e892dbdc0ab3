//! A worker that stood still and does not know it.

use std::time::Duration;

use crate::support::gateway::Answer;
use crate::support::kafka::Cluster;
use crate::support::proxy::Mode;
use crate::support::wait::{SOON, wait_until};
use crate::support::worker::WorkerSetup;
use crate::support::{World, orders};

const CONCURRENT: u16 = 8;
const ORDERS: u64 = 1_000;

#[tokio::test]
async fn a_worker_frozen_for_longer_than_its_session_starts_nothing_of_the_partitions_it_lost() {
    let mut world = World::with_partitions(4).await;
    let setup = world
        .worker()
        .with("HERALD_KAFKA__SESSION_TIMEOUT", "6s")
        .with("HERALD_DELIVERY__MAX_CONCURRENT", &CONCURRENT.to_string())
        .with("HERALD_WEBHOOK__TIMEOUT", "2m");
    let (mut frozen, peer) = tokio::join!(setup.start(), setup.start());
    world.shared_equally(&[&frozen, &peer]).await;
    world.gateway.answer(Answer::ok().after(Duration::from_secs(8)));
    let events: Vec<_> = (0..ORDERS).map(orders::created).collect();
    world.produce_evenly(&events).await;
    // Both have begun as many as they may, hold more that is claimed, and wait for answers.
    wait_for_requests(&world, 2 * usize::from(CONCURRENT)).await;
    frozen.sigstop();
    assert_eq!(world.gateway.accepted(), 0, "the answers are pending");
    world.gateway.answer(Answer::ok());
    world.all_committed().await;
    world.assert_no_commit_passes_an_unfinished_record().await;
    let asked = world.gateway.requests().len();
    frozen.sigcont();

    // What was under way is a fact, the rest is another's.
    frozen.wait_for_metric("herald_records_in_flight", &[], 0.0).await;
    let metrics = frozen.metrics().await;
    assert!(metrics.sum("herald_process_freezes_total", &[]) >= 1.0, "{}", frozen.log());
    assert!(metrics.sum("herald_records_handed_back_total", &[]) > 0.0, "it held what it had not begun");
    world.shared_equally(&[&frozen, &peer]).await;
    assert_eq!(world.gateway.requests().len(), asked, "nothing was started after the freeze");
    frozen.wait_for_metric("herald_records_total", &[("outcome", "notified")], CONCURRENT.into()).await;
    let verdict = world.verdict();
    assert!(verdict.lost.is_empty() && verdict.unstable_keys.is_empty(), "{verdict:?}");
    assert_eq!(verdict.repeated.len(), usize::from(CONCURRENT), "only what was under way in the frozen worker");

    let more: Vec<_> = (ORDERS..ORDERS + 200).map(orders::created).collect();
    world.produce(&more).await;
    world.all_committed().await;
    world.assert_no_commit_passes_an_unfinished_record().await;
    assert_eq!(world.gateway.requests().len(), asked + more.len());
    for worker in [&frozen, &peer] {
        worker.assert_accounting_closes().await;
    }
}

#[tokio::test]
async fn a_worker_that_is_cut_off_from_kafka_alone_delivers_little_of_what_another_took_over() {
    let (cluster, mut world) = with_a_way_that_breaks().await;
    let route = &cluster.routes()[0];
    let setup = |world: &World| {
        of_the_consumer_protocol(world)
            .with("HERALD_DELIVERY__MAX_CONCURRENT", "1")
            // All that is held is claimed, and nothing new that could tell of another owner.
            .with("HERALD_LIMITS__RECORDS", "200")
    };
    // Ten a second: at the time when the other takes over most of it is still to be told.
    world.gateway.answer(Answer::ok().after(Duration::from_millis(100)));
    let servers = route.bootstrap_servers();
    let cut_off = setup(&world).with("HERALD_KAFKA__BOOTSTRAP_SERVERS", &servers).start().await;
    world.produce(&(0..200).map(orders::created).collect::<Vec<_>>()).await;
    wait_for_requests(&world, 1).await;
    wait_until("all is claimed", SOON, async || {
        let claimed = world.orders_in_state("c").await.len() + world.orders_in_state("d").await.len();
        if claimed == 200 { Ok(()) } else { Err(format!("{claimed}")) }
    })
    .await;
    route.set(Mode::Silent);
    let next = setup(&world).start().await;
    world.all_committed().await;
    cut_off.wait_for_metric("herald_records_in_flight", &[], 0.0).await;
    let verdict = world.verdict();
    assert!(verdict.lost.is_empty() && verdict.unstable_keys.is_empty(), "{verdict:?}\n{}", cut_off.log());
    // In flight, and in the moment before Postgres answers whose it is.
    assert!(verdict.repeated.len() <= 10, "{} are repeated: {verdict:?}", verdict.repeated.len());
    assert!(cut_off.metrics().await.sum("herald_consumer_fenced_total", &[]) >= 1.0);
    route.set(Mode::Pass);
    world.produce(&(1_000..1_020).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;
    for worker in [&cut_off, &next] {
        worker.assert_accounting_closes().await;
    }
}

#[tokio::test]
async fn a_worker_that_thaws_before_kafka_tells_of_its_loss_delivers_nothing_of_what_another_has() {
    let (cluster, mut world) = with_a_way_that_breaks().await;
    let route = &cluster.routes()[0];
    let setup = |world: &World| {
        of_the_consumer_protocol(world).with("HERALD_RETRY__PARK_AFTER", "1s").with("HERALD_WEBHOOK__TIMEOUT", "1m")
    };
    let servers = route.bootstrap_servers();
    let mut frozen = setup(&world).with("HERALD_KAFKA__BOOTSTRAP_SERVERS", &servers).start().await;
    // Parked by the worker that freezes. The one that has the partition next asks for it again, and waits for the answer.
    let (later, slow) = (Answer::status(503).retry_after("3"), Answer::ok().after(Duration::from_secs(12)));
    world.gateway.answer_order("1", [later, slow]);
    world.produce(&[orders::created(1)]).await;
    world.parked_when(1).await;
    frozen.sigstop();
    let next = setup(&world).start().await;
    wait_for_requests(&world, 2).await;
    route.set(Mode::Silent);
    frozen.sigcont();
    // Postgres tells it that the partition is another's.
    frozen.wait_for_metric("herald_consumer_fenced_total", &[], 1.0).await;
    assert_eq!(world.gateway.accepted(), 0, "the answer came too early to prove anything");
    world.parked_when(0).await;
    assert_eq!(world.gateway.requests().len(), 2, "{}", frozen.log());
    next.wait_for_metric("herald_consumer_fenced_total", &[], 0.0).await;

    route.set(Mode::Pass);
    world.produce(&(10..30).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", frozen.log());
    for worker in [&frozen, &next] {
        worker.assert_accounting_closes().await;
    }
}

async fn wait_for_requests(world: &World, expected: usize) {
    wait_until(&format!("{expected} requests are at the gateway"), SOON, async || {
        let asked = world.gateway.requests().len();
        if asked >= expected { Ok(()) } else { Err(format!("{asked} requests")) }
    })
    .await;
}

/// Three brokers with one way to them that can be broken, and a topic of one partition.
async fn with_a_way_that_breaks() -> (Cluster, World) {
    let cluster = Cluster::start(1).await;
    let world = World::on(cluster.kafka().clone(), 1).await;
    (cluster, world)
}

/// Of this protocol the client itself does not know when its session is over: only the broker can tell it.
fn of_the_consumer_protocol(world: &World) -> WorkerSetup {
    world.worker().with("HERALD_KAFKA__GROUP_PROTOCOL", "consumer")
}
