//! A message of the client library as a record.

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Message};

use super::headers;
use crate::core::record::{Coordinates, Header, Offset, Partition, Record, Timestamp};

/// Copies a message off the fetch buffer: once, into one allocation that key, value and headers share.
pub(super) fn from_message(message: &BorrowedMessage<'_>) -> Record {
    let raw = headers::read(message);
    let mut parts = Vec::with_capacity(2 + raw.len() * 2);
    parts.push(message.key());
    parts.push(message.payload());
    for header in &raw {
        parts.push(Some(header.name));
        parts.push(header.value);
    }
    let mut copies = copy_together(&parts).into_iter();
    let key = copies.next().flatten();
    let value = copies.next().flatten();
    let mut headers = Vec::with_capacity(raw.len());
    while let (Some(name), Some(value)) = (copies.next(), copies.next()) {
        headers.push(Header { name: name.unwrap_or_default(), value });
    }
    Record {
        coordinates: Coordinates { partition: Partition(message.partition()), offset: Offset(message.offset()) },
        timestamp: message.timestamp().to_millis().map(Timestamp),
        key,
        value,
        headers,
    }
}

fn copy_together(parts: &[Option<&[u8]>]) -> Vec<Option<Bytes>> {
    let size = parts.iter().flatten().map(|part| part.len()).sum();
    let mut buffer = Vec::with_capacity(size);
    for part in parts.iter().flatten() {
        buffer.extend_from_slice(part);
    }
    let mut rest = Bytes::from(buffer);
    parts.iter().map(|part| part.map(|part| rest.split_to(part.len()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_are_copied_together_stay_apart() {
        let copies = copy_together(&[Some(b"key"), None, Some(b""), Some(b"value")]);
        assert_eq!(
            copies,
            [Some(Bytes::from_static(b"key")), None, Some(Bytes::new()), Some(Bytes::from_static(b"value"))]
        );
    }
}
