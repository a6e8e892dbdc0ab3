//! A worker that is killed again and again in the middle of its work loses nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::gateway::Answer;
use crate::support::wait::{EVENTUALLY, equal, wait_until};
use crate::support::{World, orders};

const ORDERS: u64 = 5_000;
const KILLS: usize = 3;

/// The dead worker's statements may still be running: what they leave is known when its connections are gone.
async fn connections_are_gone(world: &World) {
    let query =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'herald'";
    wait_until("the connections of the dead worker are gone", EVENTUALLY, async || {
        let count: i64 = sqlx::query_scalar(query).fetch_one(&world.database.pool).await.unwrap();
        equal(count, &0)
    })
    .await;
}

async fn orders_in(world: &World, state: &'static str) -> BTreeSet<String> {
    let query = "SELECT order_id FROM processed_orders WHERE state = $1";
    let order_ids: Vec<String> = sqlx::query_scalar(query).bind(state).fetch_all(&world.database.pool).await.unwrap();
    order_ids.into_iter().collect()
}

/// I1, as Kafka and Postgres tell it.
async fn committed_offsets_passed_only_what_is_settled(world: &World) {
    // Offsets first: what is settled only grows.
    let committed = world.kafka.committed_offsets(&world.group, &world.topic).await;
    let settled = orders_in(world, "d").await;
    for one in &world.produced {
        let at = one.coordinates;
        let is_passed = committed.get(&at.partition).is_some_and(|offset| at.offset < *offset);
        assert!(!is_passed || settled.contains(&one.order_id), "the commit {committed:?} passed {one:?}");
    }
}

#[tokio::test]
async fn nothing_is_lost_and_only_claims_in_flight_are_repeated_when_a_worker_is_killed_again_and_again() {
    let mut world = World::with_partitions(4).await;
    world.gateway.answer(Answer::ok().after(Duration::from_millis(10)));
    let events: Vec<_> = (0..ORDERS).map(orders::created).collect();
    world.produce(&events).await;
    // An instance id gives the partitions back at once.
    let setup =
        world.worker().with("HERALD_KAFKA__INSTANCE_ID", "worker-1").with("HERALD_DELIVERY__MAX_CONCURRENT", "32");
    let mut in_flight = BTreeSet::new();
    for kill in 1..=KILLS {
        let mut worker = setup.start().await;
        wait_until("it is in the middle of its work", EVENTUALLY, async || {
            let (accepted, enough) = (world.gateway.accepted(), kill * 1_000);
            if accepted >= enough { Ok(()) } else { Err(format!("{accepted} of {enough}\n{}", worker.log())) }
        })
        .await;
        committed_offsets_passed_only_what_is_settled(&world).await;
        worker.kill9().await;
        connections_are_gone(&world).await;
        in_flight.extend(orders_in(&world, "c").await);
        committed_offsets_passed_only_what_is_settled(&world).await;
    }
    let worker = setup.start().await;
    world.all_committed().await;
    committed_offsets_passed_only_what_is_settled(&world).await;

    let verdict = world.verdict();
    assert!(verdict.lost.is_empty() && verdict.unstable_keys.is_empty() && verdict.unknown.is_empty(), "{verdict:?}");
    for repeated in &verdict.repeated {
        let was_in_flight = in_flight.contains(&repeated.identity.0);
        assert!(was_in_flight && repeated.same_idempotency_key, "{repeated:?}");
    }
    worker.assert_accounting_closes().await;
}
