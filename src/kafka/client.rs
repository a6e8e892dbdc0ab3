//! The configuration of every Kafka client of the process.
//!
//! Three layers: our defaults, the operator's `kafka.options`, and what the guarantees rest on. The last cannot be overridden:
//! such an option is refused by name, since ignoring it silently would be worse than either value.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use crate::config::{GroupProtocol, Kafka};

/// How long the producer tries one record before it says that the topic is not available.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// An option that contradicts what the worker promises, or one that has a setting of its own.
    #[error("kafka.options.{key} cannot be set: {reason}")]
    Refused { key: String, reason: &'static str },
    /// librdkafka does not know the option, or not this value.
    #[error("kafka.options.{key} is not valid: {detail}")]
    Invalid { key: String, detail: String },
    #[error("the kafka client cannot be created: {0}")]
    Creation(String),
}

const SET_ELSEWHERE: [(&str, &str); 9] = [
    ("bootstrap.servers", "set kafka.bootstrap_servers"),
    ("metadata.broker.list", "set kafka.bootstrap_servers"),
    ("group.id", "set kafka.group"),
    ("group.protocol", "set kafka.group_protocol"),
    ("group.instance.id", "set kafka.instance_id"),
    ("session.timeout.ms", "set kafka.session_timeout"),
    ("max.poll.interval.ms", "set kafka.max_poll_interval"),
    ("auto.offset.reset", "set kafka.start_from and kafka.on_lost_offsets"),
    ("partition.assignment.strategy", "releasing partitions one by one needs cooperative-sticky"),
];

const PROMISED: [(&str, &str); 12] = [
    ("enable.auto.commit", "only stored offsets may be committed, and librdkafka commits them"),
    ("auto.commit.enable", "see enable.auto.commit"),
    ("enable.auto.offset.store", "an offset is stored when its record has custody elsewhere"),
    ("offset.store.method", "offsets are kept by the group"),
    ("enable.partition.eof", "the end of a partition is no event here"),
    ("enable.idempotence", "dead letters are published once"),
    ("acks", "a dead letter counts as published when all in-sync replicas have it"),
    ("request.required.acks", "see acks"),
    ("message.timeout.ms", "an outage must show within seconds"),
    ("delivery.timeout.ms", "see message.timeout.ms"),
    ("batch.num.messages", "one refused letter must fail alone"),
    ("transactional.id", "dead letters need no transaction"),
];

/// KIP-848 moved these to the broker; librdkafka refuses to start with them.
const DECIDED_BY_BROKER: [&str; 3] = ["heartbeat.interval.ms", "group.protocol.type", "session.timeout.ms"];

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
        refuse_contradiction(key)?;
        set(config, key, value);
    }
    set(config, "bootstrap.servers", &kafka.bootstrap_servers);
    config.set_log_level(RDKafkaLogLevel::Warning);
    Ok(())
}

fn refuse_contradiction(key: &str) -> Result<(), ClientError> {
    let refused = SET_ELSEWHERE.iter().chain(&PROMISED).find(|(name, _)| *name == key);
    match refused {
        Some((_, reason)) => Err(ClientError::Refused { key: key.to_owned(), reason }),
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
            return Err(ClientError::Refused {
                key: key.to_owned(),
                reason: "with kafka.group_protocol = \"consumer\" the broker decides it",
            });
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
        let keys = SET_ELSEWHERE.iter().chain(&PROMISED).map(|(key, _)| *key);
        for key in keys {
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
