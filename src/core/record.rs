//! What Kafka holds, in plain types: no client library type passes this boundary.

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

/// A partition number of the source topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub i32);

/// A position in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub i64);

impl Offset {
    /// The offset after this one: what is stored once the record at `self` has custody elsewhere.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The generation of a partition's ownership, raised in Postgres at each assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub i64);

/// Counts the assignments of this process, so that a late command or record of an earlier one is told apart.
///
/// The epoch is known only after Postgres answered; the session is known as soon as Kafka assigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session(pub u64);

/// Milliseconds since the Unix epoch, as the broker or the producer stamped the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// `2026-11-23T02:14:09.161Z`; none for a time that no calendar holds.
    #[must_use]
    pub fn rfc3339(self) -> Option<String> {
        self.utc().map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
    }

    /// None for a time that no calendar holds.
    #[must_use]
    pub fn utc(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.0)
    }
}

/// `2026-11-23 02:14:09Z`
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.utc() {
            Some(time) => write!(f, "{}", time.format("%Y-%m-%d %H:%M:%SZ")),
            None => write!(f, "{}", self.0),
        }
    }
}

/// One header. Names are bytes: brokers accept names that are not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: Bytes,
    pub value: Option<Bytes>,
}

/// Where a record is in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Coordinates {
    pub partition: Partition,
    pub offset: Offset,
}

/// A record as it was polled. Cloning is cheap: payloads are reference counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub coordinates: Coordinates,
    pub timestamp: Option<Timestamp>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

impl Record {
    /// Bytes of key, value and headers: what the record costs in memory, without fixed overhead.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len)).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
