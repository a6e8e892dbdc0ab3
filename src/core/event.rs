//! A decoded record: who is to be notified of what.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::record::Timestamp;
use super::trace::TraceParent;

/// What may be notified once per consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// 1 to 255 bytes, no NUL. An integer and the string of its digits are the same id.
    pub order_id: Arc<str>,
    /// 1 to 128 bytes, no NUL.
    pub event_type: Arc<str>,
}

/// SHA-256 of the canonical form of the content: equal for equal orders, however they were serialised.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// A notification to deliver.
#[derive(Clone, Debug)]
pub struct OrderEvent {
    pub identity: Identity,
    /// The JSON text of `order`, byte for byte as it was produced, unknown fields included.
    pub order: Bytes,
    /// The event's own timestamp, else the record's.
    pub occurred_at: Option<Timestamp>,
    /// Absent when the producer had none (`"N/A"`).
    pub request_id: Option<Arc<str>>,
    pub trace: Option<TraceParent>,
    pub fingerprint: Fingerprint,
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
