//! The Kafka area, and what its free options may not touch.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secret::REDACTED;
use super::units::duration;

/// Where events come from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// Brokers to find the cluster by, comma separated. `KAFKA_BOOTSTRAP_SERVERS` is honoured as it is.
    #[schemars(extend("x-kind" = "brokers"))]
    pub bootstrap_servers: String,
    /// The topic that is consumed.
    #[schemars(extend("x-kind" = "topic"))]
    pub topic: String,
    /// The consumer group. The ledger is kept for each group, so another name notifies everything again.
    #[schemars(length(min = 1, max = 249))]
    pub group: String,
    /// How the group agrees on who owns what.
    pub group_protocol: GroupProtocol,
    /// A name that stays with this instance over restarts (static membership): it then resumes at once. Unique in
    /// the group: of two workers with one name one stands back, and asks again after a growing wait.
    #[schemars(example = "herald-0", length(min = 1, max = 249))]
    pub instance_id: Option<String>,
    /// Where a partition without a committed offset begins. One that is added to the topic while the worker runs begins with its
    /// oldest record in any case.
    pub start_from: StartFrom,
    /// What happens when records were deleted by retention before they were processed.
    pub on_lost_offsets: OnLostOffsets,
    /// How long a worker may be silent before its partitions go to others. With the protocol `consumer` the broker decides that; set
    /// this to what it decides: after a pause of half of it the worker asks whether its partitions are still its own.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "1s", "x-maximum" = "30m"))]
    pub session_timeout: Duration,
    /// How long a worker may go without polling before it leaves the group.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "1s", "x-maximum" = "1d"))]
    pub max_poll_interval: Duration,
    /// Any further librdkafka option, for every client: `"sasl.username" = "herald"`.
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupProtocol {
    /// The protocol every broker speaks.
    Classic,
    /// KIP-848: the broker assigns. Needs Kafka 4.0.
    Consumer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    /// With the oldest record.
    Earliest,
    /// With the next record that arrives. The worker commits that within a second, and from then on nothing is passed over.
    Latest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLostOffsets {
    /// The worker stops: somebody has to know.
    Stop,
    /// The loss is counted and logged, and the worker goes on with the oldest record.
    Earliest,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            topic: "order_events".to_owned(),
            group: "notification_service_group".to_owned(),
            group_protocol: GroupProtocol::Classic,
            instance_id: None,
            start_from: StartFrom::Earliest,
            on_lost_offsets: OnLostOffsets::Stop,
            session_timeout: Duration::from_secs(10),
            max_poll_interval: Duration::from_mins(5),
            options: BTreeMap::new(),
        }
    }
}

/// By hand: options may hold passwords.
impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options: BTreeMap<&str, &str> =
            self.options.iter().map(|(name, value)| (name.as_str(), shown_option(name, value))).collect();
        f.debug_struct("Kafka")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("group_protocol", &self.group_protocol)
            .field("instance_id", &self.instance_id)
            .field("start_from", &self.start_from)
            .field("on_lost_offsets", &self.on_lost_offsets)
            .field("session_timeout", &self.session_timeout)
            .field("max_poll_interval", &self.max_poll_interval)
            .field("options", &options)
            .finish()
    }
}

fn shown_option<'a>(name: &str, value: &'a str) -> &'a str {
    if is_secret_option(name) { REDACTED } else { value }
}

/// Whether the value of a librdkafka option may not be printed. Rather one too many.
pub(crate) fn is_secret_option(name: &str) -> bool {
    const MARKS: [&str; 7] =
        ["password", "passphrase", "secret", "key.pem", "jaas", "oauthbearer.config", "token.value"];
    MARKS.iter().any(|mark| name.contains(mark))
}

/// librdkafka options that Herald's promise rests on, or that have a key of their own.
const RESERVED: [(&str, &str); 21] = [
    ("bootstrap.servers", "set kafka.bootstrap_servers instead"),
    ("metadata.broker.list", "set kafka.bootstrap_servers instead"),
    ("group.id", "set kafka.group instead"),
    ("group.instance.id", "set kafka.instance_id instead"),
    ("group.protocol", "set kafka.group_protocol instead"),
    ("session.timeout.ms", "set kafka.session_timeout instead"),
    ("max.poll.interval.ms", "set kafka.max_poll_interval instead"),
    ("auto.offset.reset", "set kafka.start_from or kafka.on_lost_offsets instead"),
    ("partition.assignment.strategy", "nothing: partitions are given back one by one, which needs cooperative-sticky"),
    ("enable.auto.commit", "nothing: offsets are committed only after custody"),
    ("auto.commit.enable", "nothing: offsets are committed only after custody"),
    ("enable.auto.offset.store", "nothing: offsets are stored only after custody"),
    ("offset.store.method", "nothing: the group keeps the offsets"),
    ("enable.partition.eof", "nothing: the consumer does not use it"),
    ("enable.idempotence", "nothing: dead letters are always published idempotently"),
    ("acks", "nothing: dead letters always wait for all replicas"),
    ("request.required.acks", "nothing: dead letters always wait for all replicas"),
    ("message.timeout.ms", "nothing: an outage of the dead-letter topic must show within seconds"),
    ("delivery.timeout.ms", "nothing: an outage of the dead-letter topic must show within seconds"),
    ("batch.num.messages", "nothing: a dead letter that is refused must fail alone"),
    ("transactional.id", "nothing: the producer is not transactional"),
];

/// What to do instead of setting this option, if it is not free.
pub(crate) fn reserved_option(name: &str) -> Option<&'static str> {
    RESERVED.iter().find(|(reserved, _)| *reserved == name).map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_hold_secrets_are_known() {
        for (name, secret) in [
            ("sasl.password", true),
            ("ssl.key.password", true),
            ("ssl.key.pem", true),
            ("ssl.keystore.password", true),
            ("sasl.oauthbearer.client.secret", true),
            ("sasl.oauthbearer.config", true),
            ("sasl.oauthbearer.assertion.private.key.pem", true),
            ("sasl.oauthbearer.assertion.private.key.passphrase", true),
            ("sasl.username", false),
            ("sasl.mechanism", false),
            ("ssl.ca.location", false),
            ("sasl.oauthbearer.token.endpoint.url", false),
        ] {
            assert_eq!(is_secret_option(name), secret, "{name}");
        }
    }

    #[test]
    fn a_debug_print_shows_no_secret_option() {
        let kafka = Kafka {
            options: BTreeMap::from([
                ("sasl.password".to_owned(), "hunter2".to_owned()),
                ("sasl.username".to_owned(), "herald".to_owned()),
            ]),
            ..Kafka::default()
        };
        let printed = format!("{kafka:?}");
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(printed.contains("herald"), "{printed}");
    }
}
