//! What order is kept by.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::event::Identity;

/// Which part of a record names its lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderingKey {
    /// The order the event is about.
    #[default]
    OrderId,
    /// The user the order belongs to.
    UserId,
    /// The key of the Kafka record; records without one are not ordered.
    RecordKey,
    /// Nothing: every record for itself.
    None,
}

/// The name of a lane: a 64-bit hash, so that a collision only makes two keys wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneKey(pub u64);

impl LaneKey {
    /// The lane of a key. The hash is kept in the database: it may never change.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        let digest = Sha256::digest(key);
        Self(digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte)))
    }

    /// The lane of a parked record that nothing orders: its own, and no key's.
    #[must_use]
    pub fn of_unordered(Identity { order_id, event_type }: &Identity) -> Self {
        Self::of(format!("unordered\0{order_id}\0{event_type}").as_bytes())
    }
}
