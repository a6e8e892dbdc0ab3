//! One idempotent producer, and what it knows of the topics that it writes.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::client::{self, ClientError, MESSAGE_TIMEOUT};
use super::context;
use super::headers::{self, Outgoing};
use crate::config::Kafka;
use crate::core::record::{Coordinates, Header, Offset, Partition};

/// How long the number of partitions is believed.
const TOPIC_AGE: Duration = Duration::from_mins(1);
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Line {
    producer: ThreadedProducer<Reports>,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone, Copy)]
struct Known {
    partitions: i32,
    until: Instant,
}

/// What a record consists of, wherever it goes.
pub(super) struct Content<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: &'a [Header],
}

/// Where the record is.
pub(super) type Report = Result<Coordinates, RDKafkaErrorCode>;

/// A record that is on its way.
pub(super) struct Sent(oneshot::Receiver<Report>);

/// Returns once all in-sync replicas have the record, or it was given up.
pub(super) async fn reported(sent: Sent) -> Report {
    // librdkafka reports within the message timeout; the rest is for a client that does not.
    match tokio::time::timeout(MESSAGE_TIMEOUT + METADATA_TIMEOUT, sent.0).await {
        Ok(Ok(report)) => report,
        Ok(Err(_)) => Err(RDKafkaErrorCode::PurgeInflight),
        Err(_) => Err(RDKafkaErrorCode::MessageTimedOut),
    }
}

struct Reports;

impl Line {
    pub(super) fn new(kafka: &Kafka) -> Result<Self, ClientError> {
        Self::create(&client::producer_config(kafka)?)
    }

    pub(super) fn create(config: &ClientConfig) -> Result<Self, ClientError> {
        let producer = config.create_with_context(Reports).map_err(client::creation_error)?;
        Ok(Self { producer, known: Mutex::default() })
    }

    /// Returns once all in-sync replicas have the record.
    pub(super) async fn send(&self, topic: &str, partition: Partition, content: &Content<'_>) -> Report {
        reported(self.begin(topic, partition, content)?).await
    }

    /// Queues a record: those of one partition are written in the order in which they are queued. [`reported`] tells the end.
    pub(super) fn begin(
        &self,
        topic: &str,
        partition: Partition,
        content: &Content<'_>,
    ) -> Result<Sent, RDKafkaErrorCode> {
        let topic = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
        let outgoing = Outgoing {
            topic: &topic,
            partition: partition.0,
            key: content.key,
            value: content.value,
            headers: content.headers,
        };
        let (sender, receiver) = oneshot::channel();
        headers::produce(&self.producer, &outgoing, Box::new(sender))?;
        Ok(Sent(receiver))
    }
    /// Why the producer failed for good, if it did.
    pub(super) fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.producer.client().fatal_error()
    }

    /// Blocks until what is queued was acknowledged, or until the deadline.
    pub(super) fn flush(&self, deadline: Duration) -> Result<(), KafkaError> {
        self.producer.flush(deadline)
    }

    /// How many partitions the topic has.
    pub(super) async fn partitions(self: &Arc<Self>, topic: &str) -> Result<i32, RDKafkaErrorCode> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied();
        if let Some(known) = known
            && known.until > Instant::now()
        {
            return Ok(known.partitions);
        }
        let line = Arc::clone(self);
        let topic = topic.to_owned();
        tokio::task::spawn_blocking(move || line.read_partitions(&topic)).await.map_err(|_| RDKafkaErrorCode::Fail)?
    }

    /// Blocks. Also makes librdkafka look at the topic again when it was recreated.
    fn read_partitions(&self, topic: &str) -> Result<i32, RDKafkaErrorCode> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(Some(topic), METADATA_TIMEOUT)
            .map_err(|error| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))?;
        let found = metadata.topics().iter().find(|one| one.name() == topic);
        let found = found.ok_or(RDKafkaErrorCode::UnknownTopic)?;
        if let Some(error) = found.error() {
            return Err(error.into());
        }
        let partitions = i32::try_from(found.partitions().len()).unwrap_or(i32::MAX);
        if partitions == 0 {
            return Err(RDKafkaErrorCode::UnknownTopic);
        }
        let known = Known { partitions, until: Instant::now() + TOPIC_AGE };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned(), known);
        Ok(partitions)
    }

    pub(super) fn forget(&self, topic: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the producer");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<Report>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let report = match result {
            Ok(message) => {
                Ok(Coordinates { partition: Partition(message.partition()), offset: Offset(message.offset()) })
            }
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        // Nobody waits any more when the sending was cancelled.
        let _cancelled = waiting.send(report);
    }
}
