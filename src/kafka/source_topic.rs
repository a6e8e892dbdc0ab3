//! The source topic, written: records that were given up on are published again as they were, for every group that reads it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode;

use super::client;
use super::context::Context;
use super::offsets;
use super::producer::{Content, Line, reported};
use crate::config::Kafka;
use crate::core::record::{Coordinates, Offset, Partition, Record};

const OFFSETS_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a record was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepublishError {
    /// It cannot be, as it is.
    #[error("{0}")]
    Refused(String),
    /// The topic does not answer, or refuses access: it may even be there. Try again.
    #[error("{0}")]
    Unavailable(String),
}

/// A topic to publish to, and where its partitions ended when it was opened.
pub struct SourceTopic {
    topic: String,
    line: Arc<Line>,
    ends: BTreeMap<Partition, Offset>,
}

impl SourceTopic {
    /// Fails when the topic is missing or does not answer.
    pub async fn open(kafka: &Kafka) -> Result<Self, String> {
        let line = Arc::new(Line::new(kafka).map_err(|error| error.to_string())?);
        let failed = |error: String| format!("{} cannot be written: {error}", kafka.topic);
        let partitions = line.partitions(&kafka.topic).await.map_err(|error| failed(error.to_string()))?;
        let (settings, topic) = (kafka.clone(), kafka.topic.clone());
        let ends = tokio::task::spawn_blocking(move || ends(&settings, partitions)).await;
        let ends = ends.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        Ok(Self { topic, line, ends })
    }

    /// Publishes the records in this order, each to the partition that it came from, with key, value and headers byte for byte.
    /// Returns once each is acknowledged by all in-sync replicas, or not.
    pub async fn publish(&self, records: &[Record]) -> Vec<Result<Coordinates, RepublishError>> {
        let begun: Vec<_> = records.iter().map(|record| self.begin(record)).collect();
        let mut published = Vec::with_capacity(begun.len());
        for sent in begun {
            published.push(match sent {
                Ok(sent) => reported(sent).await.map_err(|error| self.failed(error)),
                Err(error) => Err(error),
            });
        }
        published
    }

    fn begin(&self, record: &Record) -> Result<super::producer::Sent, RepublishError> {
        let at = record.coordinates;
        let refused = |why: String| Err(RepublishError::Refused(why));
        match self.ends.get(&at.partition) {
            None => return refused(format!("{} has no partition {} any more", self.topic, at.partition)),
            // The ledger takes a copy for new only when it comes later than the dead one.
            Some(end) if *end <= at.offset => {
                return refused(format!("{} was created again: its end is {end}, before {}", self.topic, at.offset));
            }
            Some(_) => {}
        }
        let content = Content { key: record.key.as_deref(), value: record.value.as_deref(), headers: &record.headers };
        self.line.begin(&self.topic, at.partition, &content).map_err(|error| self.failed(error))
    }

    fn failed(&self, code: RDKafkaErrorCode) -> RepublishError {
        use RDKafkaErrorCode as Code;
        match code {
            Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidRecord => {
                RepublishError::Refused(format!("{} refuses it: {code}", self.topic))
            }
            _ => {
                let cause = self.line.fatal_error().map_or_else(|| code.to_string(), |(_, reason)| reason);
                RepublishError::Unavailable(format!("{} cannot be written: {cause}", self.topic))
            }
        }
    }
}

/// Blocks.
fn ends(kafka: &Kafka, partitions: i32) -> Result<BTreeMap<Partition, Offset>, String> {
    let config = client::reader_config(kafka).map_err(|error| error.to_string())?;
    let consumer: BaseConsumer<Context> =
        config.create_with_context(Context::default()).map_err(|error| client::creation_error(error).to_string())?;
    let partitions: Vec<Partition> = (0..partitions).map(Partition).collect();
    let (marks, error) = offsets::watermarks(&consumer, &kafka.topic, &partitions, OFFSETS_TIMEOUT);
    match error {
        Some(error) => Err(error),
        None => Ok(marks.into_iter().map(|(partition, marks)| (partition, marks.high)).collect()),
    }
}
