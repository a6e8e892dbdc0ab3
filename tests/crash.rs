//! Workers that end with no chance to do anything.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::gateway::{Answer, Request};
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::support::{World, orders};

const ORDERS: usize = 5_000;

#[tokio::test]
async fn no_order_is_lost_and_only_claims_in_flight_are_repeated_when_workers_are_killed_again_and_again() {
    let mut world = World::with_partitions(4).await;
    let setups = ["first", "second"].map(|name| static_member(&world, name));
    let mut workers = [setups[0].start().await, setups[1].start().await];
    world.gateway.answer(Answer::ok().after(Duration::from_millis(50)));
    let events: Vec<_> = (0..ORDERS as u64).map(orders::created).collect();
    world.produce_evenly(&events).await;

    let mut in_flight = BTreeSet::new();
    // Each kill at a later point of the work: the one, the other, then both together.
    let kills: [(usize, &[usize]); 5] = [(500, &[0]), (1_300, &[1]), (2_100, &[0, 1]), (3_000, &[0]), (3_900, &[0, 1])];
    for (accepted, victims) in kills {
        wait_for_accepted(&world, accepted).await;
        for victim in victims {
            in_flight.extend(kill(&world, &mut workers[*victim]).await);
        }
        world.assert_no_commit_passes_an_unfinished_record().await;
        for victim in victims {
            workers[*victim] = setups[*victim].spawn();
        }
    }
    world.all_committed().await;
    world.assert_no_commit_passes_an_unfinished_record().await;

    let verdict = world.verdict();
    assert!(verdict.lost.is_empty() && verdict.unknown.is_empty(), "{verdict:?}");
    assert!(verdict.unstable_keys.is_empty(), "{:?}", verdict.unstable_keys);
    let strangers: Vec<_> = asked_twice(&world).difference(&in_flight).cloned().collect();
    assert!(strangers.is_empty(), "notified twice without a claim in flight at a kill: {strangers:?}");
    assert!(!in_flight.is_empty(), "no kill met a claim in flight");
    assert_eq!(world.orders_in_state("d").await.len(), ORDERS);
    for worker in &workers {
        worker.wait_ready().await;
        worker.assert_accounting_closes().await;
    }
}

/// Static membership: a killed worker that is started again resumes at once.
fn static_member(world: &World, name: &str) -> WorkerSetup {
    world
        .worker()
        .with("HERALD_KAFKA__INSTANCE_ID", name)
        .with("HERALD_KAFKA__SESSION_TIMEOUT", "6s")
        .with("HERALD_DELIVERY__MAX_CONCURRENT", "32")
        // A request that a loaded machine answers late is no reason to ask again.
        .with("HERALD_WEBHOOK__TIMEOUT", "1m")
}

/// Watches the committed offsets while it waits.
async fn wait_for_accepted(world: &World, expected: usize) {
    wait_until(&format!("{expected} orders are notified"), EVENTUALLY, async || {
        world.assert_no_commit_passes_an_unfinished_record().await;
        let accepted = world.gateway.accepted();
        if accepted >= expected { Ok(()) } else { Err(format!("{accepted} notified")) }
    })
    .await;
}

/// The orders that were claimed in the partitions of this worker when it was killed.
async fn kill(world: &World, worker: &mut Worker) -> BTreeSet<String> {
    worker.kill9().await;
    let owners = world.owners().await.into_iter();
    let owned: Vec<i32> =
        owners.filter(|(_, owner)| *owner == worker.pid()).map(|(partition, _)| partition.0).collect();
    let statement = "SELECT order_id FROM processed_orders
                      WHERE consumer_group = $1 AND state = 'c' AND kpartition = ANY($2)";
    let claimed: Vec<String> =
        sqlx::query_scalar(statement).bind(&world.group).bind(owned).fetch_all(&world.database.pool).await.unwrap();
    claimed.into_iter().collect()
}

/// Answered or not.
fn asked_twice(world: &World) -> BTreeSet<String> {
    world.gateway.requests().iter().filter(|request| request.sequence > 0).map(Request::order_id).collect()
}
