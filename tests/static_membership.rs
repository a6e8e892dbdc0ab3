//! Workers with a `kafka.instance_id`: one whose place another process has says so, stands back, and comes back when it is free.

use crate::support::gateway::Answer;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::support::{World, orders};

fn setup(world: &World, protocol: &str) -> WorkerSetup {
    world
        .worker()
        .with("HERALD_KAFKA__GROUP_PROTOCOL", protocol)
        .with("HERALD_KAFKA__INSTANCE_ID", "one")
        .with("HERALD_KAFKA__SESSION_TIMEOUT", "6s")
}

async fn assert_stands_back(worker: &Worker) {
    worker.wait_unready("instance_id").await;
    wait_until("the place is counted as taken", EVENTUALLY, async || {
        let taken = worker.metrics().await.sum("herald_kafka_errors_total", &[("class", "instance_id")]);
        if taken >= 1.0 { Ok(()) } else { Err(format!("{taken}\n{}", worker.log())) }
    })
    .await;
    let log = worker.log();
    assert!(log.contains("another process uses the same kafka.instance_id"), "{log}");
    assert_eq!(worker.exit_status(), None);
}

/// Both are of the same id by mistake. One of them works at any time, and the other takes over when it ends.
async fn two_workers_of_one_instance_id(protocol: &str, who_stands_back: impl FnOnce(Worker, Worker) -> [Worker; 2]) {
    let mut world = World::with_partitions(2).await;
    let first = setup(&world, protocol).start().await;
    let second = setup(&world, protocol).spawn();
    let [stands_back, mut works] = who_stands_back(first, second);
    assert_stands_back(&stands_back).await;
    world.produce(&(0..20).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;
    works.sigterm();
    assert_eq!(works.wait_exit(EVENTUALLY).await, 0, "{}", works.log());
    stands_back.wait_ready().await;
    world.produce(&(20..40).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}\n{}", stands_back.log());
    stands_back.assert_accounting_closes().await;
}

#[tokio::test]
async fn of_two_workers_with_one_instance_id_the_earlier_stands_back_and_takes_over_when_the_other_ends() {
    two_workers_of_one_instance_id("classic", |first, second| [first, second]).await;
}

#[tokio::test]
async fn of_two_workers_with_one_instance_id_the_later_stands_back_where_the_broker_keeps_the_earlier() {
    two_workers_of_one_instance_id("consumer", |first, second| [second, first]).await;
}

#[tokio::test]
async fn a_worker_that_is_fenced_in_the_middle_of_deliveries_loses_none() {
    let mut world = World::with_partitions(1).await;
    world.gateway.answer(Answer::ok().after(std::time::Duration::from_millis(1_500)));
    let setup = setup(&world, "classic").with("HERALD_DELIVERY__MAX_CONCURRENT", "4");
    let first = setup.start().await;
    world.produce(&(0..12).map(orders::created).collect::<Vec<_>>()).await;
    wait_until("the first delivers", EVENTUALLY, async || {
        let asked = world.gateway.requests().len();
        if asked >= 4 { Ok(()) } else { Err(format!("{asked}")) }
    })
    .await;
    let second = setup.spawn();
    assert_stands_back(&first).await;
    world.all_committed().await;
    first.assert_accounting_closes().await;
    second.assert_accounting_closes().await;
    let verdict = world.verdict();
    assert_eq!(verdict.lost.len(), 0, "{verdict:?}");
}
