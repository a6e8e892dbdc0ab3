//! Records that Kafka deleted before they were read: somebody has to know.

use herald::core::record::{Offset, Partition};

use crate::support::wait::EVENTUALLY;
use crate::support::{World, orders};

#[tokio::test]
async fn a_worker_stops_over_lost_records_and_commits_nothing_until_it_is_told_to_pass_over_them() {
    let mut world = World::with_partitions(1).await;
    world.produce(&(0..20).map(orders::created).collect::<Vec<_>>()).await;
    let mut before = world.worker().start().await;
    world.all_committed().await;
    before.sigterm();
    assert_eq!(before.wait_exit(EVENTUALLY).await, 0, "{}", before.log());
    world.produce(&(20..40).map(orders::created).collect::<Vec<_>>()).await;
    world.kafka.delete_records_before(&world.topic, Offset(30)).await;

    let stopped = world.worker().with("HERALD_KAFKA__ON_LOST_OFFSETS", "stop").spawn();
    assert_eq!(stopped.wait_exit(EVENTUALLY).await, 1, "{}", stopped.log());
    let expected = "10 records of partition 0 were removed by retention before they were read; the first left is at 30";
    assert!(stopped.log().contains(expected), "{}", stopped.log());
    assert_eq!(world.gateway.requests().len(), 20, "nothing is notified past a gap");
    let committed = world.kafka.committed_offsets(&world.group, &world.topic).await;
    assert_eq!(committed.get(&Partition(0)), Some(&Offset(20)));

    let next = world.worker().with("HERALD_KAFKA__ON_LOST_OFFSETS", "earliest").start().await;
    world.all_committed().await;
    next.wait_for_metric("herald_offsets_lost_total", &[], 10.0).await;
    let lost = (20..30).map(|id: u64| (id.to_string(), "ORDER_CREATED".to_owned())).collect();
    assert_eq!(world.verdict().lost, lost);
    assert_eq!(world.gateway.requests().len(), 30);
    next.assert_accounting_closes().await;
}
