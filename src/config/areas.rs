//! The areas of the configuration but Kafka's. A field's comment is its documentation.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kafka::Kafka;
use super::secret::{Secret, redacted_url};
use super::units::{duration, size};
use crate::core::decode::Decoder;
pub use crate::core::key::OrderingKey;
pub use crate::core::semantics::Semantics;

/// Everything the worker needs to know, complete and valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "herald.toml")]
pub struct Settings {
    pub kafka: Kafka,
    pub database: Database,
    pub notification: Notification,
    pub webhook: Webhook,
    pub delivery: Delivery,
    pub ordering: Ordering,
    pub retry: Retry,
    pub breaker: Breaker,
    pub ledger: Ledger,
    pub dead_letters: DeadLetters,
    pub limits: Limits,
    pub http: Http,
    pub telemetry: Telemetry,
}

impl Settings {
    /// Reads records as this configuration says.
    #[must_use]
    pub fn decoder(&self) -> Decoder {
        Decoder::new(self.notification.event_types.iter().map(String::as_str), self.ordering.key)
    }
}

/// The Postgres database that holds the ledger and the dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// Where the database is. Required by every command that works with it. `DATABASE_URL` is honoured as it is.
    #[schemars(
        example = "postgres://herald:password@localhost:5432/herald",
        extend("x-kind" = "postgres-url")
    )]
    pub url: Secret,
    /// Apply outstanding migrations at start.
    pub migrate: bool,
    /// Connections held at most.
    #[schemars(range(min = 1, max = 500))]
    pub max_connections: u32,
    /// Use named prepared statements and settings of the session. Turn off behind PgBouncer.
    pub prepared_statements: bool,
    /// How long one statement may run before Postgres cancels it.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "100ms", "x-maximum" = "10m"))]
    pub statement_timeout: Duration,
}

/// Which events are notified, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Notification {
    /// How a notification leaves.
    pub channel: ChannelKind,
    /// What becomes of a notification of which nobody knows whether it had its effect: its worker was killed in the middle, or no
    /// answer came.
    pub semantics: Semantics,
    /// Event types that are notified; all others are ignored and counted.
    #[schemars(length(min = 1), inner(length(min = 1, max = 128)))]
    pub event_types: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// One log line for each notification.
    Log,
    /// One HTTP request for each notification, to `webhook.url`.
    Webhook,
}

/// The HTTP endpoint that is notified when `notification.channel` is `webhook`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Where notifications are sent by POST. Required for the channel `webhook`.
    #[schemars(example = "https://gateway.example.org/notify", extend("x-kind" = "http-url"))]
    pub url: String,
    /// Signs each request as Standard Webhooks describe: base64, with or without `whsec_` before it; a start with anything else is refused.
    /// Without it requests are not signed.
    #[schemars(example = "whsec_c2lnbnMgZXZlcnkgcmVxdWVzdA==", length(min = 1, max = 1024))]
    pub secret: Option<Secret>,
    /// How long one request may take, connecting included, which may take half of it, and 5s at most.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "100ms", "x-maximum" = "5m"))]
    pub timeout: Duration,
}

/// How many notifications run at once, and how long they may take to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Delivery {
    /// Deliveries that run at the same time at most.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent: usize,
    /// How long running deliveries may take to end at shutdown or when a partition is given back. Has to be below
    /// half of `kafka.max_poll_interval`.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "100ms", "x-maximum" = "1h"))]
    pub drain_timeout: Duration,
}

/// What order is kept by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ordering {
    /// Records of one partition that share this key are delivered one at a time, in offset order. What is parked when it is changed
    /// stays under the key of before, and later records do not wait for it; `herald check` says so.
    pub key: OrderingKey,
}

/// When a delivery that failed is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts before a record is given up on. An outage spends none.
    #[schemars(range(min = 1, max = 1_000))]
    pub max_attempts: u32,
    /// The wait after the first attempt; it doubles with each further one, with full jitter.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "1ms", "x-maximum" = "1h"))]
    pub initial_backoff: Duration,
    /// The longest wait between two attempts, unless the gateway asks for a longer one by `Retry-After`: up to an hour.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "1ms", "x-maximum" = "1d"))]
    pub max_backoff: Duration,
    /// A record that has to wait longer than this is parked in the database: its partition moves on, later records of its key
    /// wait behind it.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "1ms", "x-maximum" = "1h"))]
    pub park_after: Duration,
}

/// When the channel counts as away: deliveries stop, partitions pause, and one record after another tries whether it is back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Deliveries in a row that find the channel away.
    #[schemars(range(min = 1, max = 10_000))]
    pub outages: u32,
    /// Different keys that only fail, at least, among the answers of the last minute (the last 200 at most); together with
    /// `failing_percent`.
    #[schemars(range(min = 2, max = 100))]
    pub failing_keys: usize,
    /// Their share of all keys among those answers, in percent.
    #[schemars(range(min = 1, max = 100))]
    pub failing_percent: usize,
    /// The wait before the first try; it doubles with each further one.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "10ms", "x-maximum" = "1h"))]
    pub initial_wait: Duration,
    /// The longest wait between two tries.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "10ms", "x-maximum" = "1h"))]
    pub max_wait: Duration,
}

/// The table of processed orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ledger {
    /// How long processed orders are remembered. Never shorter than the topic keeps a record, `retention.ms` and `segment.ms`
    /// together: what is forgotten and redelivered is notified again.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "1h", "x-maximum" = "3650d"))]
    pub retention: Duration,
}

/// Records that were given up on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetters {
    /// The topic dead letters are published to.
    #[schemars(extend("x-kind" = "topic"))]
    pub topic: String,
    /// Create the topic at start if it does not exist.
    pub create_topic: bool,
    /// How long a dead letter is kept after its last failure. One that is unpublished or being replayed is kept beyond it. What expires
    /// within a day is warned of. A closed one goes with its row of the ledger, after `ledger.retention`, if that is sooner.
    #[serde(with = "duration")]
    #[schemars(with = "String", extend("x-kind" = "duration", "x-minimum" = "1h", "x-maximum" = "3650d"))]
    pub retention: Duration,
    /// Replays that may fail before a dead letter is quarantined: it is replayed again only with `--override-cap`.
    #[schemars(range(min = 1, max = 1_000))]
    pub replay_cap: u32,
    /// Fields of payloads that operators see masked, by name (`email`) or by path (`order.user_id`). `--unmask` shows them and is
    /// written to the audit.
    #[schemars(inner(length(max = 255)))]
    pub mask: Vec<String>,
    /// Refuse operators everything that changes something.
    pub read_only: bool,
    /// Let operators change a payload before it is replayed.
    pub edit: bool,
}

/// What may be held in memory; fetching pauses beyond it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Records held in memory at most.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub records: usize,
    /// Bytes held in memory at most: keys, values and headers, and 512 for each record.
    #[serde(with = "size")]
    #[schemars(with = "String", extend("x-kind" = "size", "x-minimum" = "1MiB", "x-maximum" = "64GiB"))]
    pub bytes: usize,
    /// Records parked in the database, of the partitions of one worker, from which on far retries wait in memory instead, up to half
    /// of `records` and `bytes`. Beyond that partitions pause, but for one fetch now and then, so that it shows whether the channel works.
    #[schemars(range(min = 100, max = 1_000_000_000))]
    pub parked_records: u64,
}

/// The admin server: health and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where `/livez`, `/readyz` and `/metrics` are served. Port 0 takes a free one.
    #[schemars(with = "String", extend("x-kind" = "address"))]
    pub address: SocketAddr,
}

/// Logs and traces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// How log lines look. On a terminal the default is `pretty`.
    pub log_format: LogFormat,
    /// What is logged: a level, and levels of single modules as `module=level`, comma separated.
    #[schemars(extend("x-kind" = "log-filter"))]
    pub log_level: String,
    /// Where spans are sent to, over OTLP and HTTP: the collector's address, without the path. Empty: none are written. A record's
    /// spans are in its producer's trace where it has a `traceparent` header, and are left out where that says so.
    #[schemars(example = "http://localhost:4318", extend("x-kind" = "http-url"))]
    pub otlp_endpoint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object on each line.
    Json,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            migrate: false,
            max_connections: 8,
            prepared_statements: true,
            statement_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Notification {
    fn default() -> Self {
        Self {
            channel: ChannelKind::Log,
            semantics: Semantics::AtLeastOnce,
            event_types: vec!["ORDER_CREATED".to_owned()],
        }
    }
}

impl Default for Webhook {
    fn default() -> Self {
        Self { url: String::new(), secret: None, timeout: Duration::from_secs(10) }
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Self { max_concurrent: 256, drain_timeout: Duration::from_secs(20) }
    }
}

impl Default for Ordering {
    fn default() -> Self {
        Self { key: OrderingKey::OrderId }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            initial_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_mins(5),
            park_after: Duration::from_secs(30),
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            outages: 5,
            failing_keys: 10,
            failing_percent: 50,
            initial_wait: Duration::from_secs(1),
            max_wait: Duration::from_secs(30),
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self { retention: Duration::from_hours(30 * 24) }
    }
}

impl Default for DeadLetters {
    fn default() -> Self {
        Self {
            topic: "order_events.dlq".to_owned(),
            create_topic: false,
            retention: Duration::from_hours(30 * 24),
            replay_cap: 5,
            mask: Vec::new(),
            read_only: false,
            edit: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { records: 20_000, bytes: 64 * 1024 * 1024, parked_records: 1_000_000 }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)) }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log_format: LogFormat::Json, log_level: "info".to_owned(), otlp_endpoint: String::new() }
    }
}

/// By hand: a webhook's URL may carry a password or a token.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, secret, timeout } = self;
        f.debug_struct("Webhook")
            .field("url", &redacted_url(url))
            .field("secret", secret)
            .field("timeout", timeout)
            .finish()
    }
}
