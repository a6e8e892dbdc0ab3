//! What tests do with a broker: topics, records byte for byte, offsets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use herald::core::record::{Coordinates, Header, Offset, Partition, Record, Timestamp};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use crate::support::headers;
use crate::support::wait::{EVENTUALLY, SOON, blocking, wait_until};

/// A Kafka cluster, ours or not.
#[derive(Clone, Debug)]
pub struct Kafka {
    bootstrap_servers: String,
}

/// A record to produce, byte for byte.
#[derive(Clone, Debug, Default)]
pub struct NewRecord {
    /// By key, or any without one, unless given.
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
    pub timestamp: Option<i64>,
}

impl NewRecord {
    pub fn of(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    pub fn in_partition(self, partition: i32) -> Self {
        Self { partition: Some(partition), ..self }
    }
}

impl Kafka {
    pub fn at(bootstrap_servers: &str) -> Self {
        Self { bootstrap_servers: bootstrap_servers.to_owned() }
    }

    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    pub async fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[]).await;
    }

    /// Creates a topic with these settings and waits until it can be used.
    pub async fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let results = self.admin().create_topics([&topic], &AdminOptions::new()).await.unwrap();
        for result in results {
            result.unwrap();
        }
        wait_until("the topic has a leader", SOON, async || {
            self.try_end_offsets(name).await.map_err(|error| error.to_string())
        })
        .await;
    }

    pub async fn delete_topic(&self, name: &str) {
        let results = self.admin().delete_topics(&[name], &AdminOptions::new()).await.unwrap();
        for result in results {
            result.unwrap();
        }
    }

    /// Whether the topic is not there afterwards, as far as the brokers say.
    pub async fn try_delete_topic(&self, name: &str) -> bool {
        let deleted = self.admin().delete_topics(&[name], &AdminOptions::new()).await;
        let is_gone = |result: &Result<_, _>| {
            matches!(
                result,
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic))
            )
        };
        deleted.is_ok_and(|results| results.iter().all(is_gone))
    }

    /// Whether the topic is there afterwards, as far as the brokers say.
    pub async fn try_create_topic(&self, name: &str, partitions: i32) -> bool {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        let created = self.admin().create_topics([&topic], &AdminOptions::new()).await;
        let is_there = |result: &Result<_, _>| matches!(result, Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)));
        created.is_ok_and(|results| results.iter().all(is_there))
    }

    /// Removes what is before this offset in every partition, as retention does.
    pub async fn delete_records_before(&self, name: &str, offset: Offset) {
        let mut list = TopicPartitionList::new();
        for partition in self.end_offsets(name).await.keys() {
            list.add_partition_offset(name, partition.0, KafkaOffset::Offset(offset.0)).unwrap();
        }
        let deleted = self.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
        assert!(deleted.elements().iter().all(|element| element.error().is_ok()), "{deleted:?}");
    }

    /// Whatever becomes of it: for cleaning up.
    pub async fn delete_topic_if_there(&self, name: &str) {
        let _ = self.admin().delete_topics(&[name], &AdminOptions::new()).await;
    }

    /// Adds partitions to a topic, up to this many.
    pub async fn grow_topic(&self, name: &str, partitions: usize) {
        let growth = NewPartitions::new(name, partitions);
        let results = self.admin().create_partitions([&growth], &AdminOptions::new()).await.unwrap();
        for result in results {
            result.unwrap();
        }
        wait_until("the topic has its partitions", SOON, async || match self.try_end_offsets(name).await {
            Ok(offsets) if offsets.len() == partitions => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// Sets the topic's configuration to these settings and no other.
    pub async fn alter_topic(&self, name: &str, settings: &[(&str, &str)]) {
        assert!(self.try_alter_topic(name, settings).await, "{name} cannot be set to {settings:?}");
    }

    /// As [`Kafka::alter_topic`]; false when the brokers do not do it.
    pub async fn try_alter_topic(&self, name: &str, settings: &[(&str, &str)]) -> bool {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (key, value) in settings {
            change = change.set(key, value);
        }
        let answer = self.admin().alter_configs([&change], &AdminOptions::new()).await;
        answer.is_ok_and(|results| results.iter().all(Result::is_ok))
    }

    /// Produces with `acks=all` and waits for all of it. Where each record went, in the order given.
    pub async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Coordinates> {
        let count = records.len();
        let acknowledged = self.try_produce(topic, records).await;
        assert_eq!(acknowledged.len(), count, "records were not acknowledged");
        acknowledged.into_values().collect()
    }

    /// As [`Kafka::produce`]: where each record went that was acknowledged, by its position.
    pub async fn try_produce(&self, topic: &str, records: Vec<NewRecord>) -> BTreeMap<usize, Coordinates> {
        // The broker's limit counts, not the client's.
        let limit = ("message.max.bytes", "100000000");
        let config = self.config(&[("acks", "all"), ("enable.idempotence", "true"), limit]);
        let topic = topic.to_owned();
        blocking(move || {
            let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
            let context = Acknowledgements(Arc::clone(&acknowledged));
            let producer = config.create_with_context::<_, BaseProducer<_>>(context).unwrap();
            for (index, record) in records.iter().enumerate() {
                send(&producer, &topic, index, record);
            }
            producer.flush(SOON).unwrap();
            std::mem::take(&mut *acknowledged.lock().unwrap())
        })
        .await
    }

    /// All records of the topic, by partition and offset.
    pub async fn records(&self, topic: &str) -> Vec<Record> {
        self.try_records(topic).await.expect("Kafka answers")
    }

    /// As [`Kafka::records`], of brokers that may be away.
    pub async fn try_records(&self, topic: &str) -> Result<Vec<Record>, KafkaError> {
        let config =
            self.config(&[("group.id", "unused"), ("enable.auto.commit", "false"), ("enable.partition.eof", "true")]);
        let topic = topic.to_owned();
        blocking(move || read_all(&config.create().unwrap(), &topic)).await
    }

    /// A leader that has just been elected does not know them for a moment (`OFFSET_NOT_AVAILABLE`).
    pub async fn end_offsets(&self, topic: &str) -> BTreeMap<Partition, Offset> {
        wait_until("the leaders know the ends of their partitions", SOON, async || self.try_end_offsets(topic).await)
            .await
    }

    /// What the group has committed; partitions without a committed offset are left out.
    pub async fn committed_offsets(&self, group: &str, topic: &str) -> BTreeMap<Partition, Offset> {
        let config = self.config(&[("group.id", group), ("enable.auto.commit", "false")]);
        let topic = topic.to_owned();
        blocking(move || {
            let consumer: BaseConsumer = config.create().unwrap();
            let list = all_partitions(&consumer, &topic, KafkaOffset::Invalid).unwrap();
            let committed = consumer.committed_offsets(list, SOON).unwrap();
            committed
                .elements()
                .iter()
                .filter_map(|element| match element.offset() {
                    KafkaOffset::Offset(offset) => Some((Partition(element.partition()), Offset(offset))),
                    _ => None,
                })
                .collect()
        })
        .await
    }

    /// Moves the group to this offset in every partition of the topic, once it has no members.
    pub async fn rewind(&self, group: &str, topic: &str, offset: Offset) {
        let config = self.config(&[("group.id", group), ("enable.auto.commit", "false")]);
        wait_until("the group lets itself be moved", EVENTUALLY, async || {
            let (config, topic) = (config.clone(), topic.to_owned());
            let moved = blocking(move || {
                let consumer: BaseConsumer = config.create()?;
                let list = all_partitions(&consumer, &topic, KafkaOffset::Offset(offset.0))?;
                consumer.commit(&list, CommitMode::Sync)
            });
            moved.await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Whether the cluster is up and has a broker. Takes a second to say no.
    pub(super) fn answers(&self) -> bool {
        let client: BaseConsumer = self.config(&[("log_level", "0")]).create().unwrap();
        client.fetch_metadata(None, Duration::from_secs(1)).is_ok_and(|metadata| !metadata.brokers().is_empty())
    }

    async fn try_end_offsets(&self, topic: &str) -> Result<BTreeMap<Partition, Offset>, KafkaError> {
        let config = self.config(&[]);
        let topic = topic.to_owned();
        blocking(move || {
            let consumer: BaseConsumer = config.create()?;
            all_partitions(&consumer, &topic, KafkaOffset::End)?
                .elements()
                .iter()
                .map(|element| {
                    let (_, end) = consumer.fetch_watermarks(&topic, element.partition(), SOON)?;
                    Ok((Partition(element.partition()), Offset(end)))
                })
                .collect()
        })
        .await
    }

    pub(super) fn config(&self, options: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            // A topic may have been created a moment ago, a broker may be starting: ask again soon.
            .set("topic.metadata.propagation.max.ms", "30000")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Error);
        for (key, value) in options {
            config.set(*key, *value);
        }
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config(&[]).create().unwrap()
    }
}

/// Where each record went, by its position in the request.
struct Acknowledgements(Arc<Mutex<BTreeMap<usize, Coordinates>>>);

impl ClientContext for Acknowledgements {}

impl ProducerContext for Acknowledgements {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, index: Box<usize>) {
        if let Ok(message) = result {
            self.0.lock().unwrap().insert(*index, coordinates(message));
        }
    }
}

fn send(producer: &BaseProducer<Acknowledgements>, topic: &str, index: usize, record: &NewRecord) {
    let mut next = BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, Box::new(index));
    next.partition = record.partition;
    next.key = record.key.as_deref();
    next.payload = record.value.as_deref();
    next.timestamp = record.timestamp;
    if !record.headers.is_empty() {
        next.headers = Some(headers::to_kafka(&record.headers));
    }
    let start = Instant::now();
    while let Err((error, refused)) = producer.send(next) {
        assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull));
        assert!(start.elapsed() < SOON, "the producer's queue stays full");
        producer.poll(Duration::from_millis(10));
        next = refused;
    }
}

fn read_all(consumer: &BaseConsumer, topic: &str) -> Result<Vec<Record>, KafkaError> {
    let list = all_partitions(consumer, topic, KafkaOffset::Beginning)?;
    consumer.assign(&list)?;
    let mut open = list.count();
    let mut records = Vec::new();
    while open > 0 {
        match consumer.poll(SOON) {
            Some(Ok(message)) => records.push(to_record(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => return Err(error),
            None => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
        }
    }
    records.sort_by_key(|record: &Record| record.coordinates);
    Ok(records)
}

fn all_partitions(consumer: &BaseConsumer, topic: &str, offset: KafkaOffset) -> Result<TopicPartitionList, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), SOON)?;
    let found = &metadata.topics()[0];
    if let Some(error) = found.error() {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    let mut list = TopicPartitionList::new();
    for partition in found.partitions() {
        list.add_partition_offset(topic, partition.id(), offset)?;
    }
    Ok(list)
}

fn to_record(message: &BorrowedMessage<'_>) -> Record {
    Record {
        coordinates: coordinates(message),
        timestamp: message.timestamp().to_millis().map(Timestamp),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: message.headers().map(headers::from_kafka).unwrap_or_default(),
    }
}

fn coordinates(message: &BorrowedMessage<'_>) -> Coordinates {
    Coordinates { partition: Partition(message.partition()), offset: Offset(message.offset()) }
}
