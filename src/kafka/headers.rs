//! Headers as bytes, in and out, through the C API.
//!
//! Kafka allows any bytes as a header's name. The safe API panics while reading a name that is not UTF-8 (`to_str().unwrap()` in
//! rdkafka's `message.rs`) and takes only `&str` when producing, so one odd header would take the worker down, or be altered.
//!
//! A name is a C string inside librdkafka, and its length is not handed out: a name that holds NUL is read up to the NUL. The part
//! behind it cannot be kept, here or by any client built on librdkafka.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer};
use rdkafka::util::IntoOpaque;
use rdkafka_sys as sys;

use crate::core::record::Header;

/// A header of a message that is still in librdkafka's buffer.
pub(super) struct RawHeader<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
}

/// A record to produce, with its payload borrowed: librdkafka copies it.
pub(super) struct Outgoing<'a> {
    pub(super) topic: &'a CStr,
    pub(super) partition: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: &'a [Header],
}

/// All headers of a message, in order. A header that librdkafka cannot parse is an end, not a panic.
pub(super) fn read<'a>(message: &'a BorrowedMessage<'_>) -> Vec<RawHeader<'a>> {
    let mut native: *mut sys::rd_kafka_headers_t = ptr::null_mut();
    // SAFETY: the message is alive for 'a. The list that is returned belongs to the message and lives as long.
    let result = unsafe { sys::rd_kafka_message_headers(message.ptr(), &raw mut native) };
    if result != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || native.is_null() {
        return Vec::new();
    }
    let mut headers = Vec::new();
    // SAFETY: `native` is the list of the message that is borrowed for 'a.
    while let Some(header) = unsafe { read_one(native, headers.len()) } {
        headers.push(header);
    }
    headers
}

/// # Safety
/// `native` must be a header list that lives for `'a` and is not changed meanwhile.
unsafe fn read_one<'a>(native: *const sys::rd_kafka_headers_t, index: usize) -> Option<RawHeader<'a>> {
    let mut name: *const c_char = ptr::null();
    let mut value: *const c_void = ptr::null();
    let mut size: usize = 0;
    // SAFETY: the list is alive, the three pointers are to locals; an index past the end is answered by an error.
    let result = unsafe { sys::rd_kafka_header_get_all(native, index, &raw mut name, &raw mut value, &raw mut size) };
    if result != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
        return None;
    }
    Some(RawHeader {
        // SAFETY: a name is NUL-terminated and lives as long as its list.
        name: unsafe { CStr::from_ptr(name) }.to_bytes(),
        value: if value.is_null() {
            None
        } else {
            // SAFETY: librdkafka says that `size` bytes are there, and they live as long as the list.
            Some(unsafe { std::slice::from_raw_parts(value.cast::<u8>(), size) })
        },
    })
}

/// Hands a record to the producer's queue; never blocks. `opaque` comes back with the delivery report.
///
/// # Errors
/// What kept the record from being queued. `opaque` is dropped then, and no report follows.
pub(super) fn produce<C>(
    producer: &ThreadedProducer<C>,
    record: &Outgoing<'_>,
    opaque: C::DeliveryOpaque,
) -> Result<(), RDKafkaErrorCode>
where
    C: ProducerContext<NoCustomPartitioner> + 'static,
{
    use sys::rd_kafka_vtype_t::{
        RD_KAFKA_VTYPE_END, RD_KAFKA_VTYPE_HEADERS, RD_KAFKA_VTYPE_KEY, RD_KAFKA_VTYPE_MSGFLAGS, RD_KAFKA_VTYPE_OPAQUE,
        RD_KAFKA_VTYPE_PARTITION, RD_KAFKA_VTYPE_TOPIC, RD_KAFKA_VTYPE_VALUE,
    };
    let headers = HeaderList::new(record.headers)?;
    let (key, key_size) = parts(record.key);
    let (value, value_size) = parts(record.value);
    let opaque = opaque.into_ptr();
    // SAFETY: every tag is followed by the arguments that RD_KAFKA_V_* defines for it, in their C types, and END closes the list.
    // Topic, key and value are only read, and copied before the call returns (MSG_F_COPY).
    let error = unsafe {
        sys::rd_kafka_producev(
            producer.client().native_ptr(),
            RD_KAFKA_VTYPE_TOPIC,
            record.topic.as_ptr(),
            RD_KAFKA_VTYPE_PARTITION,
            record.partition,
            RD_KAFKA_VTYPE_MSGFLAGS,
            sys::RD_KAFKA_MSG_F_COPY,
            RD_KAFKA_VTYPE_VALUE,
            value,
            value_size,
            RD_KAFKA_VTYPE_KEY,
            key,
            key_size,
            RD_KAFKA_VTYPE_OPAQUE,
            opaque,
            RD_KAFKA_VTYPE_HEADERS,
            headers.0,
            RD_KAFKA_VTYPE_END,
        )
    };
    if error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        // The list belongs to the queued record.
        std::mem::forget(headers);
        return Ok(());
    }
    // SAFETY: the pointer is from `into_ptr` above, and librdkafka keeps no opaque of a record that it refused.
    drop(unsafe { C::DeliveryOpaque::from_ptr(opaque) });
    Err(error.into())
}

/// A null pointer is an absent key or value; an empty slice is not null, so it stays an empty one.
fn parts(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}

struct HeaderList(*mut sys::rd_kafka_headers_t);

impl HeaderList {
    fn new(headers: &[Header]) -> Result<Self, RDKafkaErrorCode> {
        // SAFETY: allocates; aborts the process when there is no memory, and so never returns null.
        let list = Self(unsafe { sys::rd_kafka_headers_new(headers.len()) });
        for header in headers {
            let (value, value_size) = parts(header.value.as_deref());
            // SAFETY: the list is ours; name and value are read for the sizes given with them, and copied.
            let error = unsafe {
                sys::rd_kafka_header_add(
                    list.0,
                    header.name.as_ptr().cast(),
                    size(header.name.len())?,
                    value,
                    size(value_size)?,
                )
            };
            if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err(error.into());
            }
        }
        Ok(list)
    }
}

impl Drop for HeaderList {
    fn drop(&mut self) {
        // SAFETY: the list is ours until a record takes it over, and then it is forgotten.
        unsafe { sys::rd_kafka_headers_destroy(self.0) }
    }
}

/// A negative size would mean "up to NUL" to the C API.
fn size(length: usize) -> Result<isize, RDKafkaErrorCode> {
    isize::try_from(length).map_err(|_| RDKafkaErrorCode::InvalidArgument)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn round_trip(headers: &[Header]) -> Vec<Header> {
        let list = HeaderList::new(headers).expect("headers");
        let mut read = Vec::new();
        // SAFETY: the list lives until the end of this function.
        while let Some(header) = unsafe { read_one(list.0, read.len()) } {
            read.push(Header {
                name: Bytes::copy_from_slice(header.name),
                value: header.value.map(Bytes::copy_from_slice),
            });
        }
        read
    }

    fn header(name: &'static [u8], value: Option<&'static [u8]>) -> Header {
        Header { name: Bytes::from_static(name), value: value.map(Bytes::from_static) }
    }

    #[test]
    fn headers_pass_librdkafka_byte_for_byte() {
        let headers = vec![
            header(b"plain", Some(b"value")),
            header(b"plain", Some(b"a duplicate")),
            header(b"\xff\xfe", Some(b"\x00\x01\xff")),
            header(b"null", None),
            header(b"empty", Some(b"")),
            header(b"", Some(b"no name")),
        ];
        assert_eq!(round_trip(&headers), headers);
        assert_eq!(round_trip(&[]), []);
    }

    #[test]
    fn a_name_that_holds_nul_is_read_up_to_it() {
        assert_eq!(round_trip(&[header(b"a\0b", Some(b"v"))]), [header(b"a", Some(b"v"))]);
    }

    proptest::proptest! {
        #[test]
        fn any_headers_pass_librdkafka_but_for_what_follows_nul_in_a_name(headers: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
            let of = |name: &[u8], value: Option<&Vec<u8>>| Header {
                name: Bytes::copy_from_slice(name),
                value: value.map(|value| Bytes::copy_from_slice(value)),
            };
            let whole: Vec<Header> = headers.iter().map(|(name, value)| of(name, value.as_ref())).collect();
            let up_to_nul = |name: &[u8]| name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            let expected = headers.iter().map(|(name, value)| of(&name[..up_to_nul(name)], value.as_ref()));
            proptest::prop_assert_eq!(round_trip(&whole), expected.collect::<Vec<_>>());
        }
    }
}
