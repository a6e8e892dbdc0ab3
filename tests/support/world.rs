//! A corner of the shared parts for one test.

use herald::core::record::{Offset, Partition};
use serde_json::Value;

use super::gateway::Gateway;
use super::kafka::{self, Kafka};
use super::orders::{self, Produced};
use super::postgres::{self, Database};
use super::wait::{EVENTUALLY, wait_until};
use super::worker::WorkerSetup;
use super::{oracle, unique};

/// Topics, group, database and gateway that no other test touches.
#[derive(Debug)]
pub struct World {
    pub kafka: Kafka,
    pub topic: String,
    pub dlq_topic: String,
    pub group: String,
    pub database: Database,
    pub gateway: Gateway,
    /// All events that went through [`World::produce`].
    pub produced: Vec<Produced>,
}

impl World {
    /// On the shared broker, with this many partitions.
    pub async fn with_partitions(partitions: i32) -> Self {
        Self::on(kafka::shared().await.clone(), partitions).await
    }

    /// On this broker, for tests that have one of their own.
    pub async fn on(kafka: Kafka, partitions: i32) -> Self {
        let topic = unique("orders");
        let dlq_topic = format!("{topic}.dlq");
        let (database, gateway, (), ()) = tokio::join!(
            postgres::database(),
            Gateway::start(),
            kafka.create_topic(&topic, partitions),
            kafka.create_topic(&dlq_topic, partitions),
        );
        Self { kafka, group: unique("group"), topic, dlq_topic, database, gateway, produced: Vec::new() }
    }

    /// How a worker of this world is started; settings can be added.
    pub fn worker(&self) -> WorkerSetup {
        WorkerSetup::in_world(self)
    }

    /// Produces these events as the order service would, spread over the partitions.
    pub async fn produce(&mut self, events: &[Value]) {
        let records = events.iter().map(orders::record).collect();
        let coordinates = self.kafka.produce(&self.topic, records).await;
        let pairs = events.iter().zip(coordinates);
        self.produced.extend(pairs.map(|(event, coordinates)| orders::produced(event, coordinates)));
    }

    /// Produces these events to one partition.
    pub async fn produce_in(&mut self, partition: i32, events: &[Value]) {
        let records = events.iter().map(|event| orders::record(event).in_partition(partition)).collect();
        let coordinates = self.kafka.produce(&self.topic, records).await;
        let pairs = events.iter().zip(coordinates);
        self.produced.extend(pairs.map(|(event, coordinates)| orders::produced(event, coordinates)));
    }

    /// Waits until the group has committed every record of the topic.
    pub async fn all_committed(&self) {
        let ends = self.kafka.end_offsets(&self.topic).await;
        wait_until("the group has committed everything", EVENTUALLY, async || {
            let committed = self.kafka.committed_offsets(&self.group, &self.topic).await;
            let is_there =
                |(partition, end): (&Partition, &Offset)| end.0 == 0 || committed.get(partition) == Some(end);
            if ends.iter().all(is_there) { Ok(()) } else { Err(format!("committed {committed:?} of {ends:?}")) }
        })
        .await;
    }

    /// What became of the events that were produced.
    pub fn verdict(&self) -> oracle::Verdict {
        oracle::judge(&self.produced, &self.gateway.requests())
    }
}
