//! The headers of a dead-letter record.
//!
//! The original headers come first, unchanged and in order, and then ours. Ours are replaced, never appended: a record that was a
//! dead letter before carries one set.

use bytes::Bytes;

use crate::core::dead_letter::Letter;
use crate::core::record::Header;

/// Ours add up to less than 4 KiB: the texts of others are bounded.
const MAX_GROUP: usize = 512;
const MAX_TOPIC: usize = 249;
const MAX_CLASS: usize = 64;
const MAX_ERROR: usize = 1_024;
const MAX_FINGERPRINT: usize = 64;

/// The KIP-1191 family.
pub(super) const DLQ_TOPIC: &str = "__dlq.errors.topic";
pub(super) const DLQ_PARTITION: &str = "__dlq.errors.partition";
pub(super) const DLQ_OFFSET: &str = "__dlq.errors.offset";
pub(super) const DLQ_GROUP: &str = "__dlq.errors.group";
pub(super) const DLQ_DELIVERY_COUNT: &str = "__dlq.errors.delivery.count";
pub(super) const DLQ_MESSAGE: &str = "__dlq.errors.message";

pub(super) const ID: &str = "herald-id";
pub(super) const REASON: &str = "herald-reason";
pub(super) const CLASS: &str = "herald-class";
pub(super) const ERROR: &str = "herald-error";
pub(super) const ATTEMPTS: &str = "herald-attempts";
pub(super) const FIRST_FAILED_AT: &str = "herald-first-failed-at";
pub(super) const LAST_FAILED_AT: &str = "herald-last-failed-at";
const FINGERPRINT: &str = "herald-fingerprint";
pub(super) const REPLAYS: &str = "herald-replays";
const VERSION: &str = "herald-version";
/// Milliseconds since the epoch: the DLQ record has a time of its own, or the topic's retention would remove an old record at once.
pub(super) const TIMESTAMP: &str = "herald-timestamp";
/// Only on a pointer: where the value is.
pub(super) const PAYLOAD: &str = "herald-payload";

const OURS: [&str; 18] = [
    DLQ_TOPIC,
    DLQ_PARTITION,
    DLQ_OFFSET,
    DLQ_GROUP,
    DLQ_DELIVERY_COUNT,
    DLQ_MESSAGE,
    ID,
    REASON,
    CLASS,
    ERROR,
    ATTEMPTS,
    FIRST_FAILED_AT,
    LAST_FAILED_AT,
    FINGERPRINT,
    REPLAYS,
    VERSION,
    TIMESTAMP,
    PAYLOAD,
];

/// All headers of the dead-letter record.
#[must_use]
pub fn headers(letter: &Letter, group: &str) -> Vec<Header> {
    let mut headers: Vec<Header> = letter
        .record
        .headers
        .iter()
        .filter(|header| !OURS.iter().any(|name| name.as_bytes() == header.name))
        .cloned()
        .collect();
    headers.extend(ours(letter, group));
    headers
}

/// What we add.
pub(super) fn ours(letter: &Letter, group: &str) -> Vec<Header> {
    let at = letter.record.coordinates;
    let error = bounded(&letter.error, MAX_ERROR);
    let mut ours = vec![
        header(DLQ_TOPIC, bounded(&letter.topic, MAX_TOPIC)),
        header(DLQ_PARTITION, at.partition.to_string()),
        header(DLQ_OFFSET, at.offset.to_string()),
        header(DLQ_GROUP, bounded(group, MAX_GROUP)),
        header(DLQ_DELIVERY_COUNT, letter.attempts.to_string()),
        header(DLQ_MESSAGE, error.clone()),
        header(ID, letter.id.to_string()),
        header(REASON, letter.reason.as_str()),
        header(CLASS, bounded(&letter.class, MAX_CLASS)),
        header(ERROR, error),
        header(ATTEMPTS, letter.attempts.to_string()),
        header(FIRST_FAILED_AT, letter.first_failed_at.rfc3339().unwrap_or_default()),
        header(LAST_FAILED_AT, letter.last_failed_at.rfc3339().unwrap_or_default()),
        header(FINGERPRINT, bounded(&letter.fingerprint, MAX_FINGERPRINT)),
        header(REPLAYS, letter.replays.to_string()),
        header(VERSION, env!("CARGO_PKG_VERSION")),
    ];
    if let Some(timestamp) = letter.record.timestamp {
        ours.push(header(TIMESTAMP, timestamp.0.to_string()));
    }
    ours
}

/// Says that the value is in `dead_letters`.
pub(super) fn pointer() -> Header {
    header(PAYLOAD, "postgres")
}

fn header(name: &'static str, value: impl Into<String>) -> Header {
    Header { name: Bytes::from_static(name.as_bytes()), value: Some(Bytes::from(value.into())) }
}

/// The beginning of a text: the root cause stands first.
fn bounded(text: &str, max: usize) -> String {
    let end = text.floor_char_boundary(max);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::failure::Reason;
    use crate::core::record::{Coordinates, Offset, Partition, Record, Timestamp};

    fn original(name: &'static [u8], value: Option<&'static [u8]>) -> Header {
        Header { name: Bytes::from_static(name), value: value.map(Bytes::from_static) }
    }

    pub(in crate::kafka) fn letter(headers: Vec<Header>) -> Letter {
        Letter {
            id: 48_213,
            topic: Arc::from("order_events"),
            record: Record {
                coordinates: Coordinates { partition: Partition(3), offset: Offset(1_204_993) },
                timestamp: Some(Timestamp(1_795_399_449_120)),
                key: Some(Bytes::from_static(b"90412")),
                value: Some(Bytes::from_static(b"{}")),
                headers,
            },
            reason: Reason::Permanent,
            class: "permanent".into(),
            error: "422 unprocessable".into(),
            attempts: 1,
            first_failed_at: Timestamp(1_795_399_449_161),
            last_failed_at: Timestamp(1_795_399_449_166),
            fingerprint: "a91f00d2c3b4e5f6".into(),
            replays: 0,
        }
    }

    fn text<'a>(headers: &'a [Header], name: &str) -> Vec<&'a str> {
        headers
            .iter()
            .filter(|header| header.name == name.as_bytes())
            .filter_map(|header| std::str::from_utf8(header.value.as_deref()?).ok())
            .collect()
    }

    #[test]
    fn original_headers_stay_as_they_are_and_in_order() {
        let originals = vec![
            original(b"traceparent", Some(b"00-4bf9-00f0-01")),
            original(b"dup", Some(b"1")),
            original(b"\xff", None),
            original(b"dup", Some(b"\x00\xff")),
        ];
        let all = headers(&letter(originals.clone()), "g");
        assert_eq!(all[..4], originals);
    }

    #[test]
    fn a_dead_letter_of_a_dead_letter_carries_one_set_of_ours() {
        let first = headers(&letter(vec![original(b"x", Some(b"y"))]), "g");
        let mut again = letter(first.clone());
        again.record.headers.push(pointer());
        again.attempts = 7;
        let second = headers(&again, "g");
        assert_eq!(second.len(), first.len());
        assert_eq!(text(&second, ATTEMPTS), ["7"]);
        assert_eq!(text(&second, PAYLOAD), [""; 0]);
    }

    #[test]
    fn every_header_says_what_the_letter_says() {
        let all = headers(&letter(Vec::new()), "notification_service_group");
        let expected = [
            (DLQ_TOPIC, "order_events"),
            (DLQ_PARTITION, "3"),
            (DLQ_OFFSET, "1204993"),
            (DLQ_GROUP, "notification_service_group"),
            (DLQ_DELIVERY_COUNT, "1"),
            (DLQ_MESSAGE, "422 unprocessable"),
            (ID, "48213"),
            (REASON, "permanent"),
            (CLASS, "permanent"),
            (ERROR, "422 unprocessable"),
            (ATTEMPTS, "1"),
            (FIRST_FAILED_AT, "2026-11-23T02:04:09.161Z"),
            (LAST_FAILED_AT, "2026-11-23T02:04:09.166Z"),
            (FINGERPRINT, "a91f00d2c3b4e5f6"),
            (REPLAYS, "0"),
            (VERSION, env!("CARGO_PKG_VERSION")),
            (TIMESTAMP, "1795399449120"),
        ];
        assert_eq!(all.len(), expected.len());
        for (name, value) in expected {
            assert_eq!(text(&all, name), [value], "{name}");
        }
    }

    #[test]
    fn ours_never_exceed_4_kib() {
        let mut worst = letter(Vec::new());
        worst.topic = Arc::from("t".repeat(10_000));
        worst.error = "é".repeat(10_000);
        worst.class = "c".repeat(10_000);
        worst.fingerprint = "f".repeat(10_000);
        worst.record.coordinates.offset = Offset(i64::MAX);
        worst.id = i64::MIN;
        worst.attempts = u32::MAX;
        worst.replays = u32::MAX;
        let mut all = headers(&worst, &"g".repeat(40_000));
        all.push(pointer());
        let size: usize =
            all.iter().map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len)).sum();
        assert!(size <= 4_096, "{size}");
        assert_eq!(all.len(), OURS.len());
    }
}
