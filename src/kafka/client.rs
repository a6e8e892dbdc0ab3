//! The configuration of every Kafka client of the process.
//!
//! Three layers: our defaults, the operator's `kafka.options`, and what the guarantees rest on. The last cannot be overridden:
//! such an option is refused by name, since ignoring it silently would be worse than either value.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use crate::config::{GroupProtocol, Kafka, reserved_option};

/// How long the producer tries one record before it says that the topic is not available.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// An option that contradicts what the worker promises, or one that has a key of its own.
    #[error("kafka.options.{key} is reserved: {remedy}")]
    Reserved { key: String, remedy: &'static str },
    /// librdkafka does not know the option, or not this value.
    #[error("kafka.options.{key} is not valid: {detail}")]
    Invalid { key: String, detail: String },
    #[error("the kafka client cannot be created: {0}")]
    Creation(String),
}

/// KIP-848 moved these to the broker; librdkafka refuses to start with them.
const DECIDED_BY_BROKER: [&str; 2] = ["heartbeat.interval.ms", "group.protocol.type"];

/// The consumer of the worker.
pub(super) fn consumer_config(kafka: &Kafka) -> Result<ClientConfig, ClientError> {
    let mut config = ClientConfig::new();
    // A short prefetch bounds memory whatever the backlog; the fetcher must then look again soon, not after its default second.
    set(&mut config, "queued.min.messages", "10000");
    set(&mut config, "queued.max.messages.kbytes", "16384");
    set(&mut config, "fetch.max.bytes", "8388608");
    set(&mut config, "fetch.queue.backoff.ms", "10");
    set(&mut config, "isolation.level", "read_committed");
    // After a kill -9, what was stored and not committed is claimed again: as little of it as the broker can bear.
    set(&mut config, "auto.commit.interval.ms", "1000");
    common(&mut config, kafka)?;
    set(&mut config, "enable.auto.commit", "true");
    set(&mut config, "enable.auto.offset.store", "false");
    // Start offsets are decided at assignment; librdkafka must never choose one.
    set(&mut config, "auto.offset.reset", "error");
    set(&mut config, "group.id", &kafka.group);
    set_millis(&mut config, "max.poll.interval.ms", kafka.max_poll_interval);
    if let Some(id) = &kafka.instance_id {
        set(&mut config, "group.instance.id", id);
    }
    match kafka.group_protocol {
        GroupProtocol::Classic => classic_group(&mut config, kafka),
        GroupProtocol::Consumer => consumer_group(&mut config, kafka)?,
    }
    Ok(config)
}

/// A client that reads offsets and metadata and never joins the group.
pub(super) fn reader_config(kafka: &Kafka) -> Result<ClientConfig, ClientError> {
    let mut config = ClientConfig::new();
    set(&mut config, "isolation.level", "read_committed");
    common(&mut config, kafka)?;
    set(&mut config, "group.id", &kafka.group);
    set(&mut config, "enable.auto.commit", "false");
    config.remove("heartbeat.interval.ms");
    Ok(config)
}

/// The producer of dead letters.
pub(super) fn producer_config(kafka: &Kafka) -> Result<ClientConfig, ClientError> {
    let mut config = ClientConfig::new();
    // A record that its producer compressed must fit again; the local limit must not be smaller than the broker's.
    set(&mut config, "compression.type", "zstd");
    set(&mut config, "message.max.bytes", "100000000");
    set(&mut config, "linger.ms", "0");
    set(&mut config, "queue.buffering.max.kbytes", "262144");
    // A missing topic shows within the message timeout, not after the default 30 s.
    set(&mut config, "topic.metadata.propagation.max.ms", "3000");
    common(&mut config, kafka)?;
    set(&mut config, "enable.idempotence", "true");
    set(&mut config, "acks", "all");
    set_millis(&mut config, "message.timeout.ms", MESSAGE_TIMEOUT);
    // The broker refuses a batch as a whole: with one letter in each, a large one takes no small one with it.
    set(&mut config, "batch.num.messages", "1");
    Ok(config)
}

/// For creating topics and reading their configuration.
pub(super) fn admin_config(kafka: &Kafka) -> Result<ClientConfig, ClientError> {
    let mut config = ClientConfig::new();
    common(&mut config, kafka)?;
    Ok(config)
}

/// What librdkafka says of a configuration, without the value: it may be a secret.
pub(super) fn creation_error(error: KafkaError) -> ClientError {
    match error {
        KafkaError::ClientConfig(_, detail, key, _) => ClientError::Invalid { key, detail },
        KafkaError::ClientCreation(detail) => ClientError::Creation(detail),
        other => ClientError::Creation(other.to_string()),
    }
}

fn common(config: &mut ClientConfig, kafka: &Kafka) -> Result<(), ClientError> {
    set(config, "client.id", "herald");
    set(config, "reconnect.backoff.max.ms", "2000");
    for (key, value) in &kafka.options {
        refuse_reserved(key)?;
        set(config, key, value);
    }
    set(config, "bootstrap.servers", &kafka.bootstrap_servers);
    config.set_log_level(RDKafkaLogLevel::Warning);
    Ok(())
}

/// The configuration refuses these already, with the place where they are set.
fn refuse_reserved(key: &str) -> Result<(), ClientError> {
    match reserved_option(key) {
        Some(remedy) => Err(ClientError::Reserved { key: key.to_owned(), remedy }),
        None => Ok(()),
    }
}

fn classic_group(config: &mut ClientConfig, kafka: &Kafka) {
    set(config, "group.protocol", "classic");
    set(config, "partition.assignment.strategy", "cooperative-sticky");
    set_millis(config, "session.timeout.ms", kafka.session_timeout);
    if !kafka.options.contains_key("heartbeat.interval.ms") {
        let heartbeat = (kafka.session_timeout / 3).min(Duration::from_secs(3));
        set_millis(config, "heartbeat.interval.ms", heartbeat);
    }
}

fn consumer_group(config: &mut ClientConfig, kafka: &Kafka) -> Result<(), ClientError> {
    for key in DECIDED_BY_BROKER {
        if kafka.options.contains_key(key) {
            let remedy = "nothing: with kafka.group_protocol = \"consumer\" the broker decides it";
            return Err(ClientError::Reserved { key: key.to_owned(), remedy });
        }
    }
    set(config, "group.protocol", "consumer");
    Ok(())
}

fn set(config: &mut ClientConfig, key: &str, value: &str) {
    config.set(key, value);
}

fn set_millis(config: &mut ClientConfig, key: &str, value: Duration) {
    config.set(key, value.as_millis().to_string());
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{OnLostOffsets, StartFrom};

    pub(in crate::kafka) fn kafka() -> Kafka {
        Kafka {
            bootstrap_servers: "localhost:9092".into(),
            topic: "order_events".into(),
            group: "g".into(),
            group_protocol: GroupProtocol::Classic,
            instance_id: None,
            start_from: StartFrom::Earliest,
            on_lost_offsets: OnLostOffsets::Earliest,
            session_timeout: Duration::from_secs(10),
            max_poll_interval: Duration::from_mins(5),
            options: BTreeMap::new(),
        }
    }

    fn with_option(key: &str, value: &str) -> Kafka {
        Kafka { options: BTreeMap::from([(key.to_owned(), value.to_owned())]), ..kafka() }
    }

    #[test]
    fn an_option_that_breaks_a_promise_is_refused_by_name_whatever_its_value() {
        for key in ["auto.offset.reset", "enable.auto.offset.store", "acks", "batch.num.messages"] {
            let kafka = with_option(key, "true");
            for result in
                [consumer_config(&kafka), producer_config(&kafka), reader_config(&kafka), admin_config(&kafka)]
            {
                let error = result.expect_err(key).to_string();
                assert!(error.contains(&format!("kafka.options.{key} ")), "{error}");
            }
        }
    }

    #[test]
    fn an_option_without_a_meaning_here_reaches_every_client() {
        let kafka = with_option("security.protocol", "ssl");
        for config in [consumer_config(&kafka), producer_config(&kafka), reader_config(&kafka), admin_config(&kafka)] {
            assert_eq!(config.expect("config").get("security.protocol"), Some("ssl"));
        }
    }

    #[test]
    fn an_option_overrides_a_default() {
        let config = consumer_config(&with_option("isolation.level", "read_uncommitted")).expect("config");
        assert_eq!(config.get("isolation.level"), Some("read_uncommitted"));
    }

    #[test]
    fn librdkafka_accepts_every_configuration() {
        let consumer =
            Kafka { group_protocol: GroupProtocol::Consumer, instance_id: Some("worker-1".into()), ..kafka() };
        for config in [
            consumer_config(&kafka()),
            consumer_config(&consumer),
            producer_config(&kafka()),
            reader_config(&kafka()),
            reader_config(&consumer),
            admin_config(&kafka()),
        ] {
            config.expect("config").create_native_config().expect("accepted");
        }
    }

    #[test]
    fn the_consumer_protocol_drops_what_the_broker_decides() {
        let kafka = Kafka { group_protocol: GroupProtocol::Consumer, ..kafka() };
        let config = consumer_config(&kafka).expect("config");
        for key in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"] {
            assert_eq!(config.get(key), None, "{key}");
        }
        assert_eq!(config.get("group.protocol"), Some("consumer"));
        let mut explicit = with_option("heartbeat.interval.ms", "1000");
        assert!(consumer_config(&explicit).is_ok());
        explicit.group_protocol = GroupProtocol::Consumer;
        assert!(consumer_config(&explicit).is_err());
    }

    #[test]
    fn an_unknown_option_is_named_without_its_value() {
        let config = admin_config(&with_option("sasl.pasword", "hunter2")).expect("config");
        let error = creation_error(config.create_native_config().err().expect("refused"));
        let text = error.to_string();
        assert!(text.contains("kafka.options.sasl.pasword"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
