//! The record inside `parked_events` and `dead_letters`: a Protocol Buffers message, so that fields can be added.
//!
//! Coordinates are columns and no part of it: the same content at other coordinates is stored as the same bytes. An absent
//! key, value or header value and an empty one are told apart.

use bytes::Bytes;
use prost::Message;

use crate::core::record::{Coordinates, Header, Record, Timestamp};

/// Field numbers are kept for ever. Fields are written in their order and absent ones not at all, so equal records are
/// equal bytes: the digest that names a dead letter's origin is taken of them.
#[derive(Clone, PartialEq, Message)]
struct StoredRecord {
    #[prost(int64, optional, tag = "1")]
    timestamp: Option<i64>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    value: Option<Bytes>,
    #[prost(message, repeated, tag = "4")]
    headers: Vec<StoredHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredHeader {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    value: Option<Bytes>,
}

#[derive(Debug, thiserror::Error)]
#[error("the stored record at {coordinates:?} is damaged: {source}")]
pub struct DamagedRecord {
    coordinates: Coordinates,
    source: prost::DecodeError,
}

/// The record as it is stored.
#[must_use]
pub fn encode(record: &Record) -> Vec<u8> {
    let stored = StoredRecord {
        timestamp: record.timestamp.map(|timestamp| timestamp.0),
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.iter().map(StoredHeader::from).collect(),
    };
    stored.encode_to_vec()
}

/// Reads what was stored.
pub fn decode(coordinates: Coordinates, stored: Vec<u8>) -> Result<Record, DamagedRecord> {
    let stored = StoredRecord::decode(Bytes::from(stored)).map_err(|source| DamagedRecord { coordinates, source })?;
    Ok(Record {
        coordinates,
        timestamp: stored.timestamp.map(Timestamp),
        key: stored.key,
        value: stored.value,
        headers: stored.headers.into_iter().map(Header::from).collect(),
    })
}

impl From<&Header> for StoredHeader {
    fn from(header: &Header) -> Self {
        Self { name: header.name.clone(), value: header.value.clone() }
    }
}

impl From<StoredHeader> for Header {
    fn from(header: StoredHeader) -> Self {
        Self { name: header.name, value: header.value }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::record::{Offset, Partition};

    const COORDINATES: Coordinates = Coordinates { partition: Partition(3), offset: Offset(41) };

    fn record(key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> Record {
        Record {
            coordinates: COORDINATES,
            timestamp: Some(Timestamp(1_700_000_000_000)),
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: Vec::new(),
        }
    }

    fn header(name: &'static [u8], value: Option<&'static [u8]>) -> Header {
        Header { name: Bytes::from_static(name), value: value.map(Bytes::from_static) }
    }

    #[test]
    fn absent_and_empty_are_not_the_same() {
        let records =
            [record(None, None), record(Some(b""), None), record(None, Some(b"")), record(Some(b""), Some(b""))];
        for (index, one) in records.iter().enumerate() {
            assert_eq!(&decode(COORDINATES, encode(one)).unwrap(), one);
            for other in records.iter().skip(index + 1) {
                assert_ne!(encode(one), encode(other));
            }
        }
    }

    #[test]
    fn headers_keep_their_order_and_their_bytes() {
        let mut one = record(Some(b"k"), Some(b"v"));
        one.headers = vec![
            header(b"trace", Some(b"1")),
            header(b"trace", None),
            header(b"\xff\xfe\0", Some(b"")),
            header(b"", Some(b"\0\x80")),
            header(b"trace", Some(b"1")),
        ];
        assert_eq!(decode(COORDINATES, encode(&one)).unwrap(), one);
    }

    #[test]
    fn the_stored_form_does_not_change_between_versions() {
        let mut one = record(Some(b"k"), Some(b""));
        one.timestamp = Some(Timestamp(5));
        one.headers = vec![header(b"h", None)];
        assert_eq!(encode(&one), b"\x08\x05\x12\x01k\x1a\x00\x22\x03\x0a\x01h");
    }

    #[test]
    fn a_field_of_a_later_version_is_passed_over() {
        let one = record(Some(b"k"), Some(b"v"));
        let mut stored = encode(&one);
        stored.extend_from_slice(b"\x7a\x02hi");
        assert_eq!(decode(COORDINATES, stored).unwrap(), one);
    }

    #[test]
    fn damage_is_an_error_that_says_where() {
        let error = decode(COORDINATES, vec![0x12, 0xff]).unwrap_err();
        assert!(error.to_string().contains("41"), "{error}");
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_an_error_or_a_record(stored: Vec<u8>, tag in 0u8..40, length in 0u8..40) {
            let mut framed = vec![tag << 3 | 2, length];
            framed.extend_from_slice(&stored);
            for bytes in [stored, framed] {
                if let Ok(one) = decode(COORDINATES, bytes) {
                    prop_assert_eq!(decode(COORDINATES, encode(&one)).unwrap(), one);
                }
            }
        }

        #[test]
        fn any_record_comes_back_as_it_went_in(
            timestamp: Option<i64>,
            key: Option<Vec<u8>>,
            value: Option<Vec<u8>>,
            headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        ) {
            let one = Record {
                coordinates: COORDINATES,
                timestamp: timestamp.map(Timestamp),
                key: key.map(Bytes::from),
                value: value.map(Bytes::from),
                headers: headers
                    .into_iter()
                    .map(|(name, value)| Header { name: name.into(), value: value.map(Bytes::from) })
                    .collect(),
            };
            prop_assert_eq!(decode(COORDINATES, encode(&one)).unwrap(), one);
        }
    }
}
