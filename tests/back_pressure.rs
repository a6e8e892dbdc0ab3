//! Fetching stands still no longer than it has to.

use std::time::{Duration, Instant};

use herald::config::{Kafka, Settings};
use herald::kafka::consumer::{Assignment, Consumer, ConsumerCommand, ConsumerEvent, Joining};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use crate::support::wait::EVENTUALLY;
use crate::support::{World, orders};

/// Long enough that partitions are paused and that no fetch is under way any more.
const HELD: Duration = Duration::from_secs(1);
/// A fetcher that nobody wakes sleeps for half a second on average.
const AT_ONCE: Duration = Duration::from_millis(150);

#[tokio::test]
async fn records_that_were_held_back_are_fetched_as_soon_as_they_may_be() {
    let mut world = World::with_partitions(1).await;
    world.produce(&[orders::created(1)]).await;
    let settings = Settings {
        kafka: Kafka {
            bootstrap_servers: world.kafka.bootstrap_servers().to_owned(),
            topic: world.topic.clone(),
            group: world.group.clone(),
            ..Kafka::default()
        },
        ..Settings::default()
    };
    let (consumer, mut events) = Consumer::start(&settings, Joining::default()).unwrap();
    let Assignment { partition, session, .. } = next_assignment(&mut events).await;
    consumer.send(ConsumerCommand::Fetch { partition, session }).await;
    next_records(&mut events).await;
    let mut waits = Vec::new();
    for order_id in 2..=8 {
        consumer.send(ConsumerCommand::Pause).await;
        tokio::time::sleep(HELD).await;
        world.produce(&[orders::created(order_id)]).await;
        let resumed = Instant::now();
        consumer.send(ConsumerCommand::Resume).await;
        next_records(&mut events).await;
        waits.push(resumed.elapsed());
    }
    // A busy machine holds up many of them, but not nearly all.
    waits.sort();
    assert!(waits[2] < AT_ONCE, "{waits:?}");
    consumer.send(ConsumerCommand::Close).await;
    assert!(consumer.closed(EVENTUALLY).await);
}

async fn next_assignment(events: &mut Receiver<ConsumerEvent>) -> Assignment {
    loop {
        if let ConsumerEvent::Assigned(assignments) = next(events).await
            && let [assignment] = assignments[..]
        {
            return assignment;
        }
    }
}

async fn next_records(events: &mut Receiver<ConsumerEvent>) {
    while !matches!(next(events).await, ConsumerEvent::Polled { .. }) {}
}

async fn next(events: &mut Receiver<ConsumerEvent>) -> ConsumerEvent {
    timeout(EVENTUALLY, events.recv()).await.expect("the consumer says something").expect("the thread runs")
}
