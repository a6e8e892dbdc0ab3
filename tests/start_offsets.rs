//! Where a group begins that has no committed offset to go on from: it is decided once, and stands from then on.

use herald::core::record::{Offset, Partition};

use crate::support::gateway::Answer;
use crate::support::kafka::Broker;
use crate::support::wait::{EVENTUALLY, SOON, wait_until};
use crate::support::worker::WorkerSetup;
use crate::support::{World, orders};

/// The only partition, and the one that is added.
const P0: Partition = Partition(0);
const P1: Partition = Partition(1);

fn from_latest(world: &World) -> WorkerSetup {
    patient(world).with("HERALD_KAFKA__START_FROM", "latest")
}

fn from_earliest(world: &World) -> WorkerSetup {
    patient(world).with("HERALD_KAFKA__ON_LOST_OFFSETS", "earliest")
}

/// What hangs does so until the worker is killed.
fn patient(world: &World) -> WorkerSetup {
    world.worker().with("HERALD_WEBHOOK__TIMEOUT", "2m")
}

async fn wait_for_request(world: &World, order_id: u64) {
    wait_until(&format!("order {order_id} is at the gateway"), SOON, async || {
        let requests = world.gateway.requests_for(&order_id.to_string()).len();
        if requests > 0 { Ok(()) } else { Err("no request") }
    })
    .await;
}

async fn wait_for_commit(world: &World, partition: Partition, expected: i64) {
    wait_until(&format!("{expected} is committed"), SOON, async || {
        let committed = world.kafka.committed_offsets(&world.group, &world.topic).await;
        if committed.get(&partition) == Some(&Offset(expected)) { Ok(()) } else { Err(format!("{committed:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_group_that_began_at_the_end_misses_nothing_that_comes_while_it_is_stopped() {
    let mut world = World::with_partitions(1).await;
    world.produce(&[orders::created(1)]).await;
    let mut first = from_latest(&world).start().await;
    first.wait_for_metric("herald_consumer_assigned_partitions", &[], 1.0).await;
    first.sigterm();
    assert_eq!(first.wait_exit(EVENTUALLY).await, 0, "{}", first.log());

    world.produce(&[orders::created(2)]).await;
    let _second = from_latest(&world).start().await;
    wait_for_request(&world, 2).await;
    world.all_committed().await;
    assert!(world.gateway.requests_for("1").is_empty(), "it was there before the group began");
}

#[tokio::test]
async fn a_group_that_began_at_the_end_misses_nothing_when_its_worker_is_killed_before_anything_ended() {
    let mut world = World::with_partitions(1).await;
    world.produce(&[orders::created(1)]).await;
    world.gateway.answer_order("2", [Answer::Hang]);
    world.gateway.answer_order("3", [Answer::Hang]);
    let mut first = from_latest(&world).start().await;
    wait_for_commit(&world, P0, 1).await;
    world.produce(&[orders::created(2), orders::created(3)]).await;
    wait_for_request(&world, 2).await;
    wait_for_request(&world, 3).await;
    first.kill9().await;

    let second = from_latest(&world).start().await;
    world.all_committed().await;
    assert_eq!((world.gateway.requests_for("1").len(), world.gateway.accepted()), (0, 2), "{}", second.log());
}

#[tokio::test]
async fn a_partition_that_is_added_is_read_from_its_first_record_by_a_group_that_began_at_the_end() {
    let mut world = World::with_partitions(1).await;
    world.produce(&[orders::created(1)]).await;
    let setup = from_latest(&world).with("HERALD_KAFKA__OPTIONS__TOPIC_METADATA_REFRESH_INTERVAL_MS", "500");
    let mut worker = setup.start().await;
    wait_for_commit(&world, P0, 1).await;
    // It notices the partition when the record is there already.
    worker.sigstop();
    world.kafka.grow_topic(&world.topic, 2).await;
    world.produce_in(P1.0, &[orders::created(2)]).await;
    worker.sigcont();

    wait_for_request(&world, 2).await;
    world.all_committed().await;
    assert!(world.gateway.requests_for("1").is_empty(), "it was there before the group began");
}

#[tokio::test]
async fn an_order_sent_again_is_notified_though_retention_removed_the_record_whose_worker_was_killed() {
    let mut world = World::with_partitions(1).await;
    world.gateway.answer_order("1", [Answer::Hang]);
    world.produce(&[orders::created(1)]).await;
    let mut first = from_earliest(&world).start().await;
    wait_for_request(&world, 1).await;
    first.kill9().await;
    world.kafka.delete_records_before(&world.topic, Offset(1)).await;

    world.produce(&[orders::created(1)]).await;
    let second = from_earliest(&world).start().await;
    world.all_committed().await;
    assert_eq!(world.gateway.accepted(), 1, "{}", second.log());
}

#[tokio::test]
async fn a_group_that_goes_back_from_past_the_end_passes_over_nothing_when_its_worker_is_killed() {
    let mut world = World::with_partitions(1).await;
    let events: Vec<_> = (0..3).map(orders::created).collect();
    world.produce(&events).await;
    world.kafka.rewind(&world.group, &world.topic, Offset(4)).await;
    world.gateway.answer_order("0", [Answer::Hang]);
    let mut first = from_earliest(&world).start().await;
    wait_for_request(&world, 0).await;
    wait_for_commit(&world, P0, 0).await;
    world.done(&["1", "2"].map(str::to_owned).into()).await;
    first.kill9().await;

    // The log grows past the offset where the group once was.
    let events: Vec<_> = (3..6).map(orders::created).collect();
    world.produce(&events).await;
    let second = from_earliest(&world).start().await;
    world.all_committed().await;
    assert_eq!(world.gateway.accepted(), 6, "{}", second.log());
}

/// The new one is longer than the old one was: where the worker was in that is the middle of this.
#[tokio::test]
async fn a_topic_that_was_created_again_is_read_from_its_beginning() {
    for (protocol, start_from) in [("classic", "latest"), ("consumer", "earliest")] {
        let world = World::on_our_broker(2).await;
        assert_read_again(world, protocol, start_from, async || ()).await;
    }
}

/// To librdkafka a partition has the highest leader epoch that it heard of, and none leads it that has a lower one.
#[tokio::test]
async fn a_topic_that_was_created_again_is_read_from_its_beginning_though_its_leaders_had_changed() {
    let mut broker = Broker::private().await;
    let world = World::on((*broker).clone(), 2).await;
    assert_read_again(world, "classic", "earliest", async || {
        broker.kill().await;
        broker.restart().await;
    })
    .await;
}

async fn assert_read_again(mut world: World, protocol: &str, start_from: &str, meanwhile: impl AsyncFnOnce()) {
    let setup = world.worker().with("HERALD_KAFKA__GROUP_PROTOCOL", protocol);
    let setup = setup.with("HERALD_KAFKA__START_FROM", start_from);
    let workers = [setup.start().await, setup.start().await];
    world.produce(&(0..20).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;
    meanwhile().await;
    world.produce(&(20..40).map(orders::created).collect::<Vec<_>>()).await;
    world.all_committed().await;

    world.kafka.delete_topic(&world.topic).await;
    world.kafka.create_topic(&world.topic, 2).await;
    world.produce(&(100..160).map(orders::created).collect::<Vec<_>>()).await;
    wait_until("all orders are notified", EVENTUALLY, async || {
        let accepted = world.gateway.accepted();
        if accepted == 100 { Ok(()) } else { Err(accepted) }
    })
    .await;
    world.all_committed().await;
    for worker in &workers {
        worker.assert_accounting_closes().await;
    }
}

#[tokio::test]
async fn what_is_notified_of_a_topic_that_was_created_again_is_committed() {
    let mut world = World::on_our_broker(1).await;
    let events: Vec<_> = (0..20).map(orders::created).collect();
    world.produce(&events).await;
    let worker = from_earliest(&world).start().await;
    world.all_committed().await;
    world.kafka.delete_topic(&world.topic).await;
    world.kafka.create_topic(&world.topic, 1).await;

    world.produce(&[orders::created(100), orders::created(101)]).await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], 22.0).await;
    world.all_committed().await;
}
