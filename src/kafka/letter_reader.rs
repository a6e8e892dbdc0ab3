//! Reads a dead-letter topic once, from its beginning to the end that it has now.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::Offset as NativeOffset;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::client;
use super::context::Context;
use super::record::from_message;
use crate::config::Kafka;
use crate::core::record::Record;

const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);
/// Without a record for so long, the brokers count as away.
const PATIENCE: Duration = Duration::from_secs(30);
const BATCH: usize = 500;

/// The records of the topic in batches; the last one may be an error. Dropping the receiver ends the reading.
#[must_use]
pub fn read_topic(kafka: &Kafka, topic: &str) -> Receiver<Result<Vec<Record>, String>> {
    let (sender, receiver) = channel(2);
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read(&kafka, &topic, &sender) {
            // Nobody is left to be told when the receiver is gone.
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

fn read(kafka: &Kafka, topic: &str, sender: &Sender<Result<Vec<Record>, String>>) -> Result<(), String> {
    let mut config = client::reader_config(kafka).map_err(|error| error.to_string())?;
    // Retention may remove the beginning before it is read.
    config.set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer<Context> =
        config.create_with_context(Context::default()).map_err(|error| client::creation_error(error).to_string())?;
    let mut ends = assign_all(&consumer, topic)?;
    let mut batch = Vec::with_capacity(BATCH);
    let mut heard = Instant::now();
    while !ends.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                heard = Instant::now();
                batch.push(from_message(&message));
            }
            Some(Err(error)) => tracing::debug!(%error, "while the dead-letter topic is read"),
            None if heard.elapsed() > PATIENCE => return Err(format!("{topic} cannot be read: no answer")),
            None => {}
        }
        ends.retain(|(partition, end)| !is_past(&consumer, topic, *partition, *end));
        if (batch.len() >= BATCH || ends.is_empty()) && sender.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Assigns what holds records, and gives the end of each such partition.
fn assign_all(consumer: &BaseConsumer<Context>, topic: &str) -> Result<BTreeSet<(i32, i64)>, String> {
    let failed = |error: rdkafka::error::KafkaError| format!("{topic} cannot be read: {error}");
    let metadata = consumer.fetch_metadata(Some(topic), METADATA_TIMEOUT).map_err(failed)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let found = found.filter(|found| found.error().is_none() && !found.partitions().is_empty());
    let found = found.ok_or_else(|| format!("{topic} does not exist, or may not be read"))?;
    let mut list = TopicPartitionList::new();
    let mut ends = BTreeSet::new();
    for partition in found.partitions() {
        let (low, end) = consumer.fetch_watermarks(topic, partition.id(), METADATA_TIMEOUT).map_err(failed)?;
        if low < end {
            list.add_partition_offset(topic, partition.id(), NativeOffset::Offset(low)).map_err(failed)?;
            ends.insert((partition.id(), end));
        }
    }
    consumer.assign(&list).map_err(failed)?;
    Ok(ends)
}

/// By position, since the last offsets of a partition may be no records.
fn is_past(consumer: &BaseConsumer<Context>, topic: &str, partition: i32, end: i64) -> bool {
    let Ok(positions) = consumer.position() else { return false };
    let position = positions.find_partition(topic, partition).map(|element| element.offset());
    matches!(position, Some(NativeOffset::Offset(offset)) if offset >= end)
}
