//! What a world is about: its records, and how little room its workers have.

use super::*;
use crate::core::record::{Header, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Story {
    AtLeastOnce,
    AtMostOnce,
    /// At least once, and few records may be held.
    SmallMemory,
    /// At least once, and the key is one of three users, of whom one fails: lanes are long. The channel works for the others.
    LongLanes,
    /// Three of five orders always fail, and few records may be parked or held. The topic goes on with others until all have ended.
    FullParking,
    /// At least once, and operators have dead letters processed again.
    Replays,
    /// Both: replays beside as much as may be parked and held.
    ReplaysAndFullParking,
    /// Some orders abort the worker that delivers them, and nothing else ends one.
    Deadly,
    /// Some orders abort the worker that delivers them, and others die or lose their partitions too.
    DeadlyAndKills,
}

impl Story {
    pub(super) fn is_deadly(self) -> bool {
        matches!(self, Self::Deadly | Self::DeadlyAndKills)
    }

    pub(super) fn has_replays(self) -> bool {
        matches!(self, Self::Replays | Self::ReplaysAndFullParking)
    }

    /// Few may be parked, and the topic goes on with orders that nothing is wrong with, until all others have ended.
    pub(super) fn has_full_parking(self) -> bool {
        matches!(self, Self::FullParking | Self::ReplaysAndFullParking)
    }

    /// Records in memory, beyond which nothing is polled.
    pub(super) fn max_records(self) -> usize {
        match self {
            Self::SmallMemory => 8,
            Self::FullParking | Self::ReplaysAndFullParking => 16,
            Self::AtLeastOnce
            | Self::AtMostOnce
            | Self::LongLanes
            | Self::Replays
            | Self::Deadly
            | Self::DeadlyAndKills => RECORDS * PARTITIONS,
        }
    }

    /// Bytes in memory, beyond which nothing is polled: those of about as many records.
    pub(super) fn max_bytes(self) -> usize {
        if self == Self::SmallMemory { 5_700 } else { 1 << 20 }
    }

    pub(super) fn decoder(self) -> Decoder {
        let key = if self == Self::LongLanes { OrderingKey::UserId } else { OrderingKey::OrderId };
        Decoder::new(["ORDER_CREATED", "ORDER_PAID"], key)
    }

    pub(super) fn engine_config(self, seed: u64) -> EngineConfig {
        EngineConfig {
            semantics: if self == Self::AtMostOnce { Semantics::AtMostOnce } else { Semantics::AtLeastOnce },
            max_records: self.max_records(),
            max_bytes: self.max_bytes(),
            decoder: self.decoder(),
            max_attempts: MAX_ATTEMPTS,
            park_after: Duration::from_millis(200),
            max_parked: if self.has_full_parking() { 4 } else { 1_000 },
            breaker: BreakerConfig {
                outages: 3,
                failing_keys: 4,
                failing_percent: 50,
                probes: Schedule::new(Duration::from_millis(500), Duration::from_secs(4)),
            },
            ..config(4, seed)
        }
    }

    /// An order that nothing is wrong with.
    pub(super) fn healthy_record(partition: Partition, offset: i64) -> Record {
        let number = u64::from(partition.0.unsigned_abs());
        let order_id = 1_000 + 10 * offset.unsigned_abs() + 5 * (number % 2) + 100_000 * number;
        record(partition, offset, event("ORDER_CREATED", order_id, 2))
    }
}

/// The records of one partition.
pub(super) fn log(random: &mut fastrand::Rng, partition: Partition) -> Vec<Record> {
    let mut offset = 0;
    let mut next = || {
        let record = any_record(random, partition, offset);
        offset += random.i64(1..3);
        record
    };
    (0..RECORDS).map(|_| next()).collect()
}

/// Few orders, so that copies meet within and across partitions.
fn any_record(random: &mut fastrand::Rng, partition: Partition, offset: i64) -> Record {
    let value = match random.u8(0..20) {
        0 => format!("poison {offset}"),
        1 => r#"{"event_type":"UNKNOWN"}"#.to_owned(),
        kind => {
            let order_id = random.u64(0..40);
            let event_type = if kind < 11 { "ORDER_CREATED" } else { "ORDER_PAID" };
            // A copy may have other content.
            let quantity = if random.u8(0..6) == 0 { 3 } else { 2 };
            event(event_type, order_id, quantity)
        }
    };
    Record {
        timestamp: random.bool().then(|| Timestamp(random.i64(0..1 << 40))),
        key: random.bool().then(|| any_bytes(random)),
        headers: (0..random.usize(0..3)).map(|_| any_header(random)).collect(),
        ..record(partition, offset, value)
    }
}

fn event(event_type: &str, order_id: u64, quantity: u8) -> String {
    let user_id = order_id % USERS;
    format!(
        r#"{{"event_type":"{event_type}","order":{{"order_id":{order_id},"user_id":{user_id},"product_id":3,"quantity":{quantity},"status":"CREATED"}}}}"#
    )
}

fn any_bytes(random: &mut fastrand::Rng) -> bytes::Bytes {
    (0..random.usize(0..5)).map(|_| random.u8(..)).collect()
}

fn any_header(random: &mut fastrand::Rng) -> Header {
    Header { name: any_bytes(random), value: random.bool().then(|| any_bytes(random)) }
}

/// What a record tells: the order and the event with its content. Poison tells itself; what is ignored, nothing.
pub(super) fn content(story: Story, record: &Record) -> Option<Content> {
    match story.decoder().decode(record) {
        Decoded::Event { event, .. } => Some((event.identity, event.fingerprint)),
        Decoded::Poison { .. } => Some(synthetic_identity("order_events", record)),
        Decoded::Ignored { .. } => None,
    }
}

/// What order is kept by.
pub(super) fn lane(story: Story, record: &Record) -> Option<LaneKey> {
    match story.decoder().decode(record) {
        Decoded::Event { lane, .. } => lane,
        Decoded::Poison { .. } | Decoded::Ignored { .. } => None,
    }
}
