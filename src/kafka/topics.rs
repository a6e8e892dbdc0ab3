//! What the cluster says of topics, asked by clients that live for one question.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;

use super::client;
use super::context::{Context, Notice, error_class};
use super::offsets;
use crate::config::Kafka;
use crate::core::record::Partition;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Addresses that refuse do so at once; more patience is for a broker that is just starting.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(3);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(300);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Settings only make findings richer: a start does not wait long for them.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(2);

/// The broker's replication factor.
const DEFAULT_REPLICATION: TopicReplication<'_> = TopicReplication::Fixed(-1);

/// Why the cluster cannot be reached: librdkafka tells the cause only by its error callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreachable {
    pub(super) class: &'static str,
    pub(super) reason: String,
}

/// What metadata says of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Missing,
    Refused(String),
    Present { partitions: i32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) brokers: usize,
    /// Of one broker.
    pub(super) address: String,
}

pub(super) struct Connection {
    consumer: BaseConsumer<Context>,
}

impl Connection {
    /// Blocks for up to 8 s.
    pub(super) fn open(kafka: &Kafka) -> Result<(Self, Cluster), Unreachable> {
        let broken = |reason: String| Unreachable { class: "options", reason };
        let mut config = client::reader_config(kafka).map_err(|error| broken(error.to_string()))?;
        // A TLS handshake with a plaintext port gets no answer at all, and would be waited for longer than we ask.
        config.set("socket.connection.setup.timeout.ms", "3000");
        let consumer: BaseConsumer<Context> = config
            .create_with_context(Context::default())
            .map_err(|error| broken(client::creation_error(error).to_string()))?;
        let connection = Self { consumer };
        let cluster = connection.connect(&kafka.topic)?;
        Ok((connection, cluster))
    }

    pub(super) fn presence(&self, topic: &str) -> Result<Presence, String> {
        let metadata = self.consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(|error| error.to_string())?;
        let Some(found) = metadata.topics().iter().find(|one| one.name() == topic) else {
            return Ok(Presence::Missing);
        };
        Ok(match found.error().map(RDKafkaErrorCode::from) {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Presence::Missing,
            Some(error) => Presence::Refused(error.to_string()),
            None => Presence::Present { partitions: i32::try_from(found.partitions().len()).unwrap_or(i32::MAX) },
        })
    }

    /// Whether the group's offsets may be read. A coordinator that moves, or that has never been asked, needs a moment.
    pub(super) fn read_group(&self, topic: &str) -> Result<(), String> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let read = offsets::committed(&self.consumer, topic, &[Partition(0)], ASK_TIMEOUT);
            let Err(error) = read else {
                return Ok(());
            };
            if let Some(reason) = self.refusal() {
                return Err(reason);
            }
            if Instant::now() >= deadline {
                return Err(error);
            }
            std::thread::sleep(ASK_AGAIN_AFTER);
        }
    }

    /// A refusal by the coordinator arrives only as an event; the request itself just gets no answer.
    fn refusal(&self) -> Option<String> {
        while self.consumer.poll(Duration::ZERO).is_some() {}
        let mut notices = self.consumer.context().take().into_iter();
        notices.find_map(|notice| match notice {
            Notice::Error { code, reason } if error_class(code) == "authorization" => Some(reason),
            _ => None,
        })
    }

    fn connect(&self, topic: &str) -> Result<Cluster, Unreachable> {
        let start = Instant::now();
        let mut cause = Unreachable { class: "transport", reason: "no answer".to_owned() };
        while start.elapsed() < CONNECT_TIMEOUT {
            if let Ok(metadata) = self.consumer.fetch_metadata(Some(topic), ASK_TIMEOUT) {
                return Ok(cluster(&metadata));
            }
            self.find_cause(&mut cause);
            let refused = cause.reason.contains("refused") || cause.reason.contains("resolve");
            if cause.class == "authentication" || (refused && start.elapsed() > REFUSED_TIMEOUT) {
                break;
            }
        }
        Err(cause)
    }

    /// A failed handshake explains more than the broken connection that follows it, and both more than "all brokers are down".
    fn find_cause(&self, cause: &mut Unreachable) {
        while self.consumer.poll(Duration::ZERO).is_some() {}
        let notices = self.consumer.context().take().into_iter().filter_map(|notice| match notice {
            Notice::Error { code, reason } if code != Some(RDKafkaErrorCode::AllBrokersDown) => {
                Some((error_class(code), reason))
            }
            Notice::Error { .. }
            | Notice::Assigned(_)
            | Notice::Revoked(_)
            | Notice::Lost(_)
            | Notice::Committed(_) => None,
        });
        let logged = self.consumer.context().take_failure().map(|reason| ("transport", reason));
        for (class, reason) in notices.chain(logged) {
            // An alert of the other side arrives as a broken connection.
            let class = if reason.contains("SSL routines") { "authentication" } else { class };
            if cause.class != "authentication" || class == "authentication" {
                *cause = Unreachable { class, reason: plain(&reason) };
            }
        }
    }
}

/// How a broker says that it does not know who asks.
const WITHOUT_CERTIFICATE: [&str; 3] = ["alert bad certificate", "certificate required", "alert unknown ca"];

/// What librdkafka says, without its internals.
fn plain(reason: &str) -> String {
    // "(after 0ms in state CONNECT, 1 identical error(s) suppressed)"
    let reason = reason.split(" (after ").next().unwrap_or_default();
    // "10.0.0.7:9092/bootstrap: Connect to ipv4#10.0.0.7:9092 failed"
    let reason = reason.split_once("/bootstrap: ").map_or(reason, |(_, rest)| rest);
    if reason.contains("Invalid response size") {
        return "what answers there is no Kafka broker".to_owned();
    }
    if reason.contains("certificate verify failed") {
        return "the broker's certificate is of no CA that is trusted here (certificate verify failed)".to_owned();
    }
    if WITHOUT_CERTIFICATE.iter().any(|alert| reason.contains(alert)) {
        return "the broker wants a client certificate that it trusts".to_owned();
    }
    reason.to_owned()
}

fn cluster(metadata: &Metadata) -> Cluster {
    let address = metadata
        .brokers()
        .first()
        .map_or_else(|| "an unknown address".to_owned(), |broker| format!("{}:{}", broker.host(), broker.port()));
    Cluster { brokers: metadata.brokers().len(), address }
}

/// The settings of topics. Brokers that answer no such request cost `SETTINGS_TIMEOUT`, once for all topics.
pub(super) async fn settings(kafka: &Kafka, topics: &[&str]) -> Result<Vec<ConfigResource>, String> {
    let admin = admin(kafka)?;
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let described = admin.describe_configs(&resources, &options(SETTINGS_TIMEOUT)).await;
    Ok(described.map_err(|error| error.to_string())?.into_iter().flatten().collect())
}

pub(super) async fn create(kafka: &Kafka, topic: &str, partitions: i32) -> Result<(), String> {
    let admin = admin(kafka)?;
    let topic = [NewTopic::new(topic, partitions, DEFAULT_REPLICATION)];
    let created = admin.create_topics(&topic, &options(REQUEST_TIMEOUT)).await.map_err(|error| error.to_string())?;
    for result in created {
        match result {
            // Another worker was first.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, error)) => return Err(error.to_string()),
        }
    }
    Ok(())
}

fn admin(kafka: &Kafka) -> Result<AdminClient<DefaultClientContext>, String> {
    client::admin_config(kafka)
        .map_err(|error| error.to_string())?
        .create()
        .map_err(|error| client::creation_error(error).to_string())
}

fn options(timeout: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_without_internals() {
        for (reason, expected) in [
            (
                "10.0.0.7:9092/bootstrap: Connect to ipv4#10.0.0.7:9092 failed: Connection refused (after 0ms in state CONNECT)",
                "Connect to ipv4#10.0.0.7:9092 failed: Connection refused",
            ),
            (
                "h:80/bootstrap: Receive failed: Invalid response size 1213486160 (0..100000000): increase receive.message.max.bytes (after 0ms in state APIVERSION_QUERY)",
                "what answers there is no Kafka broker",
            ),
            (
                "h:9093/bootstrap: Receive failed: error:0A000412:SSL routines::sslv3 alert bad certificate: SSL alert number 42 (after 9ms in state APIVERSION_QUERY)",
                "the broker wants a client certificate that it trusts",
            ),
            (
                "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified, verify that ssl.ca.location is correctly configured",
                "the broker's certificate is of no CA that is trusted here (certificate verify failed)",
            ),
            ("no answer", "no answer"),
        ] {
            assert_eq!(plain(reason), expected);
        }
    }
}
