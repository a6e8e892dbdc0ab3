//! An embedded Kafka broker: librdkafka's mock cluster, which speaks the protocol on a free port of 127.0.0.1.
//!
//! It keeps 5 MiB of a partition and drops the oldest beyond that, knows no admin requests, and serves static membership as if
//! it were dynamic: a member that was killed holds its partitions until its session ends.

mod join_delay;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{Offset as Position, TopicPartitionList};
use tokio::sync::oneshot;

use super::plan::{Content, PARTITIONS, POISON_HEADERS, Plan, PlannedRecord};
use crate::core::record::{Coordinates, Offset, Partition};

pub const TOPIC: &str = "order_events";
pub const DEAD_LETTER_TOPIC: &str = "order_events.dlq";
pub const GROUP: &str = "notification_service_group";

const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const READ_LIMIT: Duration = Duration::from_secs(20);
/// A group's first member waits this long for others; the broker's own 3 s are half of a demo's patience.
const JOIN_DELAY: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("embedded Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("embedded Kafka has no broker")]
    NoBroker,
    #[error("embedded Kafka did not answer for {topic} within {READ_LIMIT:?}")]
    Unread { topic: &'static str },
    #[error("embedded Kafka: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The broker, which lives as long as this producer, and no longer.
pub struct Broker {
    producer: ThreadedProducer<Reports>,
    bootstrap_servers: String,
}

/// Where a record was stored.
type Report = Result<Coordinates, KafkaError>;

/// Hands each delivery report to whoever waits for it.
struct Reports;

/// A record as a topic holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    pub coordinates: Coordinates,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Broker {
    pub fn start() -> Result<Self, Error> {
        let producer: ThreadedProducer<Reports> = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("message.timeout.ms", "10000")
            .create_with_context(Reports)?;
        join_delay::set(producer.client(), JOIN_DELAY)?;
        let cluster = producer.client().mock_cluster().ok_or(Error::NoBroker)?;
        for topic in [TOPIC, DEAD_LETTER_TOPIC] {
            cluster.create_topic(topic, PARTITIONS, 1)?;
        }
        let bootstrap_servers = cluster.bootstrap_servers();
        drop(cluster);
        Ok(Self { producer, bootstrap_servers })
    }

    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Produces these records, and says where each of them is.
    pub async fn produce(&self, plan: &Plan, records: &[PlannedRecord]) -> Result<Vec<Coordinates>, Error> {
        let sent = records.iter().map(|record| self.send(plan, *record)).collect::<Result<Vec<_>, _>>()?;
        try_join_all(sent.into_iter().map(delivered)).await
    }

    fn send(&self, plan: &Plan, record: PlannedRecord) -> Result<oneshot::Receiver<Report>, Error> {
        let (report, reported) = oneshot::channel();
        let value = plan.value(record.content);
        // The order service sets no record key.
        let mut outgoing =
            BaseRecord::<[u8], [u8], _>::with_opaque_to(TOPIC, Box::new(report)).partition(record.partition);
        if let Some(value) = &value {
            outgoing = outgoing.payload(value);
        }
        if matches!(record.content, Content::Poison(_)) {
            outgoing = outgoing.headers(poison_headers());
        }
        self.producer.send(outgoing).map_err(|(error, _)| error)?;
        Ok(reported)
    }

    /// The records of a topic, from the first to the last there is.
    pub async fn read(&self, topic: &'static str) -> Result<Vec<StoredRecord>, Error> {
        let config = self.reader("herald_demo_reader");
        tokio::task::spawn_blocking(move || read_all(&config, topic)).await?
    }

    /// How many records a topic ever held.
    pub async fn count(&self, topic: &'static str) -> Result<i64, Error> {
        let config = self.reader("herald_demo_reader");
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create()?;
            Ok(ends(&consumer, topic)?.values().map(|(_, end)| end.0).sum())
        })
        .await?
    }

    /// Where the worker's group would go on: everything below has custody elsewhere.
    pub async fn committed(&self) -> Result<BTreeMap<Partition, Offset>, Error> {
        let config = self.reader(GROUP);
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create()?;
            let mut list = TopicPartitionList::new();
            list.add_partition_range(TOPIC, 0, PARTITIONS - 1);
            let committed = consumer.committed_offsets(list, REQUEST_LIMIT)?;
            let elements = committed.elements();
            Ok(elements
                .iter()
                .filter_map(|element| match element.offset() {
                    Position::Offset(offset) => Some((Partition(element.partition()), Offset(offset))),
                    _ => None,
                })
                .collect())
        })
        .await?
    }

    fn reader(&self, group: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest");
        config
    }
}

fn poison_headers() -> OwnedHeaders {
    POISON_HEADERS
        .iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }))
}

async fn delivered(reported: oneshot::Receiver<Report>) -> Result<Coordinates, Error> {
    Ok(reported.await.map_err(|_| KafkaError::Canceled)??)
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<Report>>;

    fn delivery(&self, result: &DeliveryResult<'_>, report: Self::DeliveryOpaque) {
        let outcome = match result {
            Ok(message) => Ok(coordinates(message)),
            Err((error, _)) => Err(error.clone()),
        };
        // Nobody waits for it where the story was interrupted.
        let _ = report.send(outcome);
    }
}

fn coordinates(message: &BorrowedMessage<'_>) -> Coordinates {
    Coordinates { partition: Partition(message.partition()), offset: Offset(message.offset()) }
}

/// The first and the next offset of each partition.
fn ends(consumer: &BaseConsumer, topic: &str) -> Result<BTreeMap<Partition, (Offset, Offset)>, KafkaError> {
    (0..PARTITIONS)
        .map(|partition| {
            let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST_LIMIT)?;
            Ok((Partition(partition), (Offset(low), Offset(high))))
        })
        .collect()
}

fn read_all(config: &ClientConfig, topic: &'static str) -> Result<Vec<StoredRecord>, Error> {
    let consumer: BaseConsumer = config.create()?;
    let ends = ends(&consumer, topic)?;
    let mut assignment = TopicPartitionList::new();
    let mut missing = 0;
    for (partition, (low, high)) in &ends {
        assignment.add_partition_offset(topic, partition.0, Position::Offset(low.0))?;
        missing += high.0 - low.0;
    }
    consumer.assign(&assignment)?;
    let mut records = Vec::new();
    let start = Instant::now();
    while missing > 0 {
        if start.elapsed() > READ_LIMIT {
            return Err(Error::Unread { topic });
        }
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let record = stored(&message);
                let Coordinates { partition, offset } = record.coordinates;
                let is_wanted = ends.get(&partition).is_some_and(|(_, end)| offset < *end);
                missing -= i64::from(is_wanted);
                records.push(record);
            }
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure))) | None => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(records)
}

fn stored(message: &BorrowedMessage<'_>) -> StoredRecord {
    let headers = message.headers().map(|headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    });
    StoredRecord {
        coordinates: coordinates(message),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::plan::{Chapter, Poison};

    #[tokio::test]
    async fn what_is_produced_is_read_back_byte_for_byte() {
        let plan = Plan::new(500, 1);
        let broker = Broker::start().unwrap();
        let records = plan.records(Chapter::Trouble);
        let coordinates = broker.produce(&plan, records).await.unwrap();
        let mut stored: BTreeMap<_, _> =
            broker.read(TOPIC).await.unwrap().into_iter().map(|record| (record.coordinates, record)).collect();
        assert_eq!(stored.len(), records.len());
        for (record, coordinates) in records.iter().zip(coordinates) {
            let found = stored.remove(&coordinates).unwrap();
            assert_eq!(coordinates.partition.0, record.partition);
            assert_eq!((found.key, found.value), (None, plan.value(record.content)));
            let headers = if matches!(record.content, Content::Poison(_)) { POISON_HEADERS.len() } else { 0 };
            assert_eq!(found.headers.len(), headers);
        }
        assert_eq!(broker.count(TOPIC).await.unwrap(), i64::try_from(records.len()).unwrap());
        assert_eq!(broker.count(DEAD_LETTER_TOPIC).await.unwrap(), 0);
        assert_eq!(broker.committed().await.unwrap(), BTreeMap::new());
    }

    #[tokio::test]
    async fn a_tombstone_is_not_an_empty_value() {
        let plan = Plan::new(50, 1);
        let broker = Broker::start().unwrap();
        let poison = |poison| PlannedRecord { partition: 0, content: Content::Poison(poison) };
        broker.produce(&plan, &[poison(Poison::Tombstone), poison(Poison::Empty)]).await.unwrap();
        let values: Vec<_> = broker.read(TOPIC).await.unwrap().into_iter().map(|record| record.value).collect();
        assert_eq!(values, [None, Some(Vec::new())]);
    }
}
