//! Headers as bytes. The safe interface of rdkafka takes and gives names as `str` and panics on others, which brokers accept.

#![allow(unsafe_code, reason = "only the C interface takes header names that are not UTF-8")]

use std::ffi::CStr;
use std::ptr;

use bytes::Bytes;
use herald::core::record::Header;
use rdkafka::bindings::{rd_kafka_header_add, rd_kafka_header_get_all, rd_kafka_headers_t};
use rdkafka::message::{BorrowedHeaders, OwnedHeaders};
use rdkafka::types::RDKafkaRespErr;

pub fn to_kafka(headers: &[Header]) -> OwnedHeaders {
    let list = OwnedHeaders::new();
    for header in headers {
        let (value, size) = match &header.value {
            Some(value) => (value.as_ptr().cast(), value.len().try_into().unwrap()),
            None => (ptr::null(), 0),
        };
        // SAFETY: a `BorrowedHeaders` is the C list under another name, and `list` is ours alone. Name and value are copied.
        let error = unsafe {
            rd_kafka_header_add(
                as_c(list.as_borrowed()).cast_mut(),
                header.name.as_ptr().cast(),
                header.name.len().try_into().unwrap(),
                value,
                size,
            )
        };
        assert_eq!(error, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    list
}

pub fn from_kafka(list: &BorrowedHeaders) -> Vec<Header> {
    (0..).map_while(|index| header_at(list, index)).collect()
}

fn header_at(list: &BorrowedHeaders, index: usize) -> Option<Header> {
    let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
    // SAFETY: the list lives as long as the borrow; on success the three point into it, the name ending with NUL.
    unsafe {
        let error = rd_kafka_header_get_all(as_c(list), index, &raw mut name, &raw mut value, &raw mut size);
        (error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| Header {
            name: Bytes::copy_from_slice(CStr::from_ptr(name).to_bytes()),
            value: (!value.is_null()).then(|| Bytes::copy_from_slice(std::slice::from_raw_parts(value.cast(), size))),
        })
    }
}

fn as_c(list: &BorrowedHeaders) -> *const rd_kafka_headers_t {
    ptr::from_ref(list).cast()
}
