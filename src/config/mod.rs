//! Configuration: one struct per area, checked once into [`Settings`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Everything the worker needs to know, complete and valid.
#[derive(Clone, Debug)]
pub struct Settings {
    pub kafka: Kafka,
    pub database: Database,
    pub notification: Notification,
    pub webhook: Webhook,
    pub delivery: Delivery,
    pub ordering: Ordering,
    pub retry: Retry,
    pub ledger: Ledger,
    pub dead_letters: DeadLetters,
    pub limits: Limits,
    pub http: Http,
    pub telemetry: Telemetry,
}

#[derive(Clone, Debug)]
pub struct Kafka {
    pub bootstrap_servers: String,
    pub topic: String,
    pub group: String,
    pub group_protocol: GroupProtocol,
    pub instance_id: Option<String>,
    pub start_from: StartFrom,
    pub on_lost_offsets: OnLostOffsets,
    /// Session timeout; 10 s unless configured. Ignored with the `consumer` protocol (the broker decides).
    pub session_timeout: Duration,
    pub max_poll_interval: Duration,
    /// Any further librdkafka option.
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    Classic,
    Consumer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    Earliest,
    Latest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLostOffsets {
    Stop,
    Earliest,
}

#[derive(Clone, Debug)]
pub struct Database {
    pub url: Secret,
    pub migrate: bool,
    pub max_connections: u32,
    pub prepared_statements: bool,
    pub statement_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Notification {
    pub channel: ChannelKind,
    /// Event types that are notified; all others are ignored and counted.
    pub event_types: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    Log,
    Webhook,
}

#[derive(Clone, Debug)]
pub struct Webhook {
    pub url: String,
    pub secret: Option<Secret>,
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Delivery {
    pub max_concurrent: usize,
    pub drain_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Ordering {
    pub key: OrderingKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderingKey {
    OrderId,
    UserId,
    RecordKey,
    None,
}

#[derive(Clone, Debug)]
pub struct Retry {
    pub max_attempts: u32,
    pub initial_backoff: Duration,
    pub max_backoff: Duration,
}

#[derive(Clone, Debug)]
pub struct Ledger {
    pub retention: Duration,
}

#[derive(Clone, Debug)]
pub struct DeadLetters {
    pub topic: String,
    pub create_topic: bool,
}

#[derive(Clone, Debug)]
pub struct Limits {
    /// Records held in memory at most.
    pub records: usize,
    /// Bytes of keys, values and headers held in memory at most.
    pub bytes: usize,
}

#[derive(Clone, Debug)]
pub struct Http {
    pub address: SocketAddr,
}

#[derive(Clone, Debug)]
pub struct Telemetry {
    pub log_format: LogFormat,
    pub log_level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}

/// A value that cannot be printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself: for the client that needs it, never for a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}
