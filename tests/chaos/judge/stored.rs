//! What `dead_letters.record` holds, read by its format and not by the code that wrote it.

use bytes::Bytes;
use herald::core::record::{Header, Record, Timestamp};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Stored {
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

/// Whether these bytes are this record: its timestamp, key, value and headers, nothing else.
pub fn is(stored: &[u8], original: &Record) -> bool {
    let Ok(stored) = Stored::decode(stored) else { return false };
    let headers: Vec<Header> =
        stored.headers.into_iter().map(|header| Header { name: header.name, value: header.value }).collect();
    let timestamp = stored.timestamp.map(Timestamp);
    (timestamp, &stored.key, &stored.value, &headers)
        == (original.timestamp, &original.key, &original.value, &original.headers)
}
