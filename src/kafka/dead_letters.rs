//! The dead-letter record, and the producer that publishes it.
//!
//! Publishing is not custody: the letter is a row in Postgres already. So nothing here is retried for long; a letter that could not
//! be published stays unpublished, and its owner publishes it again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::client::{self, ClientError};
use super::letter_headers;
pub use super::letter_headers::headers;
use super::producer::{Content, Line, Report};
use crate::config::{Kafka, Settings};
use crate::core::dead_letter::Letter;
use crate::core::record::Partition;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Refused even as a pointer without key and headers: the topic's `max.message.bytes` is far too small.
    #[error("the dead-letter topic refuses even a pointer to the record as too large: {0}")]
    TooLarge(String),
    /// Try again later: the topic is missing, refuses access, or does not answer.
    #[error("the dead-letter topic is not available: {0}")]
    Unavailable(String),
    /// The producer gave up for good and was replaced: try again.
    #[error("the producer of dead letters failed and was replaced: {0}")]
    Fatal(String),
}

/// Publishes dead letters; many may be on their way at once.
pub struct DeadLetterProducer {
    kafka: Kafka,
    topic: String,
    line: Mutex<Arc<Line>>,
}

/// How much of a record is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    /// Key and headers; the value is in Postgres.
    Pointer,
    /// Our headers only: key and original headers alone are too large.
    Bare,
}

/// Finds out whether the dead-letter topic can be written, and leaves nothing in it.
///
/// The broker is sent a record above the topic's `limit`. It looks at the size last: "too large" means that we may write, that the
/// leader answers, and that enough replicas are in sync.
pub(super) async fn probe(settings: &Settings, limit: usize) -> Result<(), String> {
    let mut config = client::producer_config(&settings.kafka).map_err(|error| error.to_string())?;
    config.set("compression.type", "none");
    let line = Arc::new(Line::create(&config).map_err(|error| error.to_string())?);
    let value = vec![b'0'; limit.saturating_add(1)];
    let topic = settings.dead_letters.topic.as_str();
    let content = Content { key: None, value: Some(&value), headers: &[] };
    let sent = send(&line, topic, Partition(0), &content).await;
    match sent {
        Ok(_) => Err("a record above its max.message.bytes was accepted".to_owned()),
        Err(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge) => Ok(()),
        // An idempotent producer that is refused fails for good, and says why only there.
        Err(error) => Err(line.fatal_error().map_or_else(|| error.to_string(), |(_, reason)| reason)),
    }
}

impl DeadLetterProducer {
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        let line = Line::new(&settings.kafka)?;
        Ok(Self {
            kafka: settings.kafka.clone(),
            topic: settings.dead_letters.topic.clone(),
            line: Mutex::new(Arc::new(line)),
        })
    }

    /// Returns once all in-sync replicas have the letter, after about 10 s at the latest. A record that the broker refuses as too
    /// large is replaced by a pointer to its row. Cancelling the future does not take the letter back.
    pub async fn publish(&self, letter: &Letter) -> Result<(), PublishError> {
        let mut refused = Ok(());
        for extent in [Extent::Whole, Extent::Pointer, Extent::Bare] {
            refused = self.publish_as(letter, extent).await;
            if !matches!(refused, Err(PublishError::TooLarge(_))) {
                break;
            }
        }
        refused
    }

    /// Sends what is queued. Letters that are not acknowledged within `deadline` stay unpublished.
    pub async fn close(self, deadline: Duration) {
        let line = self.line();
        drop(self);
        let flushed = tokio::task::spawn_blocking(move || line.flush(deadline)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "dead letters were not acknowledged in time and stay unpublished");
        }
    }

    async fn publish_as(&self, letter: &Letter, extent: Extent) -> Result<(), PublishError> {
        let group = &self.kafka.group;
        let record = &letter.record;
        let (key, value, mut headers) = match extent {
            Extent::Whole => (&record.key, &record.value, headers(letter, group)),
            Extent::Pointer => (&record.key, &None, headers(letter, group)),
            Extent::Bare => (&None, &None, letter_headers::ours(letter, group)),
        };
        if extent != Extent::Whole {
            headers.push(letter_headers::pointer());
        }
        let content = Content { key: key.as_deref(), value: value.as_deref(), headers: &headers };
        let line = self.line();
        match send(&line, &self.topic, record.coordinates.partition, &content).await {
            Ok(_) => Ok(()),
            Err(code) => Err(self.failed(&line, code).await),
        }
    }

    async fn failed(&self, line: &Arc<Line>, code: RDKafkaErrorCode) -> PublishError {
        use RDKafkaErrorCode as Code;
        if let Some((code, reason)) = line.fatal_error() {
            self.replace(line).await;
            return PublishError::Fatal(format!("{code}: {reason}"));
        }
        match code {
            Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => PublishError::TooLarge(code.to_string()),
            _ => {
                line.forget(&self.topic);
                PublishError::Unavailable(code.to_string())
            }
        }
    }

    fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces a producer that failed for good, unless another publication did already.
    async fn replace(&self, failed: &Arc<Line>) {
        let kafka = self.kafka.clone();
        let created = tokio::task::spawn_blocking(move || Line::new(&kafka)).await;
        let Ok(Ok(created)) = created else {
            // The next publication finds the same fatal error and tries again.
            return;
        };
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&line, failed) {
            *line = Arc::new(created);
        }
    }
}

/// To the partition of the same number, or as near as the topic has partitions.
async fn send(line: &Arc<Line>, topic: &str, source: Partition, content: &Content<'_>) -> Report {
    let partitions = line.partitions(topic).await?;
    line.send(topic, Partition(source.0.rem_euclid(partitions)), content).await
}
