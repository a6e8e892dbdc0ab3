//! Bytes as records: what the fuzz targets and the files of `fuzz/corpus` are made of.

use bytes::Bytes;
use herald::core::record::{Coordinates, Header, Offset, Partition, Record, Timestamp};

pub const PARTITION: Partition = Partition(0);

/// Takes bytes apart into records at `0x1e`.
pub fn records_of(bytes: &[u8]) -> Vec<Record> {
    let records = bytes.split(|byte| *byte == 0x1e).zip(0..);
    records.map(|(bytes, offset)| record_of(offset, bytes)).collect()
}

/// Takes bytes apart at `0x1f`: value, key, and headers' names and values in turn. Where there is nothing it is absent; `0x1d` is empty.
pub fn record_of(offset: i64, bytes: &[u8]) -> Record {
    let mut fields = bytes.split(|byte| *byte == 0x1f).map(|field| match field {
        [] => None,
        [0x1d] => Some(Bytes::new()),
        _ => Some(Bytes::copy_from_slice(field)),
    });
    let mut record = record(offset, fields.next().flatten());
    record.key = fields.next().flatten();
    while let Some(name) = fields.next() {
        let value = fields.next().flatten();
        record.headers.push(Header { name: name.unwrap_or_default(), value });
    }
    record
}

/// A record from anywhere, at any time: that of its key's first eight bytes.
pub fn odd_record_of(bytes: &[u8]) -> Record {
    let mut record = record_of(bytes.len().try_into().unwrap_or(i64::MAX), bytes);
    let time = record.key.as_ref().and_then(|key| key.first_chunk::<8>());
    record.timestamp = time.map(|time| Timestamp(i64::from_be_bytes(*time)));
    record
}

pub fn record(offset: i64, value: Option<Bytes>) -> Record {
    let coordinates = Coordinates { partition: PARTITION, offset: Offset(offset) };
    Record { coordinates, timestamp: None, key: None, value, headers: Vec::new() }
}
