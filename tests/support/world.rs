//! A corner of the shared parts for one test.

use std::collections::{BTreeMap, BTreeSet};

use herald::core::record::{Offset, Partition};
use serde_json::Value;

use super::gateway::Gateway;
use super::kafka::{self, Kafka};
use super::orders::{self, Produced};
use super::postgres::{self, Database};
use super::wait::{EVENTUALLY, equal, wait_until};
use super::worker::{Worker, WorkerSetup};
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
    _left_behind: Option<Topics>,
}

/// Topics on a cluster that is not ours: dropping this deletes them.
#[derive(Debug)]
struct Topics {
    kafka: Kafka,
    names: [String; 2],
}

impl World {
    /// On the shared broker, with this many partitions.
    pub async fn with_partitions(partitions: i32) -> Self {
        Self::on(kafka::shared().await.clone(), partitions).await
    }

    /// On a broker with our settings, for tests that delete topics: many clusters create a topic again when it is asked for.
    pub async fn on_our_broker(partitions: i32) -> Self {
        Self::on(kafka::ours().await.clone(), partitions).await
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
        let is_foreign = kafka::existing().is_some_and(|servers| servers == kafka.bootstrap_servers());
        let left_behind = || Topics { kafka: kafka.clone(), names: [topic.clone(), dlq_topic.clone()] };
        Self {
            _left_behind: is_foreign.then(left_behind),
            kafka,
            group: unique("group"),
            topic,
            dlq_topic,
            database,
            gateway,
            produced: Vec::new(),
        }
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

    /// Produces these events into one partition.
    pub async fn produce_in(&mut self, partition: i32, events: &[Value]) {
        let records = events.iter().map(|event| orders::record(event).in_partition(partition)).collect();
        let coordinates = self.kafka.produce(&self.topic, records).await;
        let pairs = events.iter().zip(coordinates);
        self.produced.extend(pairs.map(|(event, coordinates)| orders::produced(event, coordinates)));
    }

    /// Produces as many of these events into each partition as into any other: without a key the client fills one after another.
    pub async fn produce_evenly(&mut self, events: &[Value]) {
        let partitions = self.kafka.end_offsets(&self.topic).await.len();
        for (partition, share) in (0..).zip(events.chunks(events.len().div_ceil(partitions))) {
            self.produce_in(partition, share).await;
        }
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

    /// Process ids of the owners by partition, as Postgres has them. A partition that nobody ever owned is missing.
    pub async fn owners(&self) -> BTreeMap<Partition, u32> {
        let statement = "SELECT kpartition, owner FROM partition_epochs WHERE consumer_group = $1 AND topic = $2";
        let rows: Vec<(i32, String)> =
            sqlx::query_as(statement).bind(&self.group).bind(&self.topic).fetch_all(&self.database.pool).await.unwrap();
        // Host or instance, process, and a number of its start.
        let pid = |owner: &str| owner.rsplit('/').nth(1).unwrap().parse().unwrap();
        rows.into_iter().map(|(partition, owner)| (Partition(partition), pid(&owner))).collect()
    }

    /// Waits until each of the workers owns as many partitions as the others, and no other process owns any.
    pub async fn shared_equally(&self, workers: &[&Worker]) {
        let ends = self.kafka.end_offsets(&self.topic).await;
        wait_until("the workers share the partitions", EVENTUALLY, async || {
            let owners = self.owners().await;
            let has_its_share = |worker: &&Worker| {
                owners.values().filter(|owner| **owner == worker.pid()).count() == ends.len() / workers.len()
            };
            if workers.iter().all(has_its_share) { Ok(()) } else { Err(format!("{owners:?}")) }
        })
        .await;
    }

    /// Orders by their state in the ledger: `c` is claimed, `d` is done.
    pub async fn orders_in_state(&self, state: &str) -> BTreeSet<String> {
        let statement = "SELECT order_id FROM processed_orders WHERE consumer_group = $1 AND state = $2";
        let rows: Vec<String> =
            sqlx::query_scalar(statement).bind(&self.group).bind(state).fetch_all(&self.database.pool).await.unwrap();
        rows.into_iter().collect()
    }

    /// Waits until these orders and no others are done: an answer of the gateway is in the ledger a little later.
    pub async fn done(&self, order_ids: &BTreeSet<String>) {
        wait_until("what was answered is in the ledger", EVENTUALLY, async || {
            equal(self.orders_in_state("d").await, order_ids)
        })
        .await;
    }

    /// I1: every record below a committed offset is settled in the ledger. A row that is settled stays so: the offsets are
    /// read first, and the answer holds whatever runs meanwhile.
    pub async fn assert_no_commit_passes_an_unfinished_record(&self) {
        let committed = self.kafka.committed_offsets(&self.group, &self.topic).await;
        let (done, dead) = tokio::join!(self.orders_in_state("d"), self.orders_in_state("x"));
        let passed = self.produced.iter().filter(|event| {
            let at = event.coordinates;
            committed.get(&at.partition).is_some_and(|committed| at.offset < *committed)
        });
        let unfinished: Vec<_> =
            passed.filter(|event| !done.contains(&event.order_id) && !dead.contains(&event.order_id)).collect();
        assert!(unfinished.is_empty(), "committed {committed:?}, but these are not settled: {unfinished:?}");
    }

    /// What became of the events that were produced.
    pub fn verdict(&self) -> oracle::Verdict {
        oracle::judge(&self.produced, &self.gateway.requests())
    }
}

impl Drop for Topics {
    fn drop(&mut self) {
        let (kafka, names) = (self.kafka.clone(), self.names.clone());
        // The test's runtime may be ending, so this needs one of its own.
        let deleted = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                for name in &names {
                    kafka.delete_topic_if_there(name).await;
                }
            });
        });
        let _ = deleted.join();
    }
}
