//! Topics that are full of orders.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;

use crate::support::kafka::{Kafka, NewRecord};
use crate::support::wait::{SOON, blocking};
use crate::support::{orders, unique};

/// Records that are made at a time: a million of them would be the bench's own memory.
const CHUNK: usize = 50_000;

/// A topic and its DLQ topic. Each measurement of it is a group of its own.
#[derive(Clone, Debug)]
pub struct Source {
    pub kafka: Kafka,
    pub topic: String,
    pub dlq_topic: String,
    pub partitions: i32,
    pub orders: u32,
}

impl Source {
    pub async fn empty(kafka: &Kafka, partitions: i32) -> Self {
        let topic = unique("orders");
        let dlq_topic = format!("{topic}.dlq");
        tokio::join!(kafka.create_topic(&topic, partitions), kafka.create_topic(&dlq_topic, partitions));
        Self { kafka: kafka.clone(), topic, dlq_topic, partitions, orders: 0 }
    }

    /// Orders spread evenly over the partitions, each its own key.
    pub async fn of_orders(kafka: &Kafka, partitions: i32, orders: u32) -> Self {
        let mut source = Self::empty(kafka, partitions).await;
        source.append(0..orders, |order| record(order, order)).await;
        source
    }

    /// Appends the orders of these numbers, each as the record that is made of its number.
    pub async fn append(&mut self, numbers: Range<u32>, record: impl Fn(u64) -> NewRecord) {
        self.orders += u32::try_from(numbers.len()).unwrap();
        for chunk in numbers.collect::<Vec<_>>().chunks(CHUNK) {
            let records = chunk.iter().map(|number| {
                let partition = i32::try_from(*number).unwrap() % self.partitions;
                record(u64::from(*number)).in_partition(partition)
            });
            self.kafka.produce(&self.topic, records.collect()).await;
        }
    }

    /// The same, and none can be read before all are there.
    pub async fn append_at_once(&mut self, numbers: Range<u32>, record: impl Fn(u64) -> NewRecord + Send + 'static) {
        self.orders += u32::try_from(numbers.len()).unwrap();
        let (servers, topic, partitions) =
            (self.kafka.bootstrap_servers().to_owned(), self.topic.clone(), self.partitions);
        blocking(move || produce_in_transaction(&servers, &topic, partitions, numbers, record)).await;
    }
}

/// An order as its service writes it, with a record key.
pub fn record(order: u64, key: u64) -> NewRecord {
    NewRecord { key: Some(Bytes::from(key.to_string())), ..orders::record(&orders::created(order)) }
}

fn produce_in_transaction(
    servers: &str,
    topic: &str,
    partitions: i32,
    numbers: Range<u32>,
    record: impl Fn(u64) -> NewRecord,
) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("transactional.id", unique("bench"))
        .set("linger.ms", "5")
        .create()
        .unwrap();
    producer.init_transactions(SOON).unwrap();
    producer.begin_transaction().unwrap();
    for number in numbers {
        let NewRecord { key: Some(key), value: Some(value), .. } = record(u64::from(number)) else {
            panic!("an order has a key and a value")
        };
        let partition = i32::try_from(number).unwrap() % partitions;
        let mut next = BaseRecord::to(topic).key(&key[..]).payload(&value[..]).partition(partition);
        while let Err((error, refused)) = producer.send(next) {
            assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
            producer.poll(Duration::from_millis(10));
            next = refused;
        }
    }
    producer.commit_transaction(SOON).unwrap();
}
