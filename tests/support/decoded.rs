//! Decoding: what the worker makes of a record is what the record says, however it is written.

use std::fmt::Write;

use bytes::Bytes;
use herald::channels::notification::{body, notification_id};
use herald::core::decode::{Decoded, Decoder};
use herald::core::event::OrderEvent;
use herald::core::key::{LaneKey, OrderingKey};
use herald::core::record::Record;
use herald::core::trace::TraceParent;

use super::reading::{self, EVENT_TYPES, Fields, NoEvent, ReadEvent, text_of};

/// Panics when the record becomes anything but what it says, or is changed where it is passed on.
pub fn check(record: &Record) {
    let orderings = [OrderingKey::OrderId, OrderingKey::UserId, OrderingKey::RecordKey, OrderingKey::None];
    let ordering = orderings[record.value.as_ref().map_or(0, Bytes::len) % orderings.len()];
    let decoder = Decoder::new(EVENT_TYPES, ordering);
    match (reading::read(record.value.as_deref()), decoder.decode(record)) {
        (Ok(read), Decoded::Event { event, lane }) => {
            assert_eq!(lane, lane_of(ordering, record, &read));
            check_event(record, &read, &event);
            check_notification(&read, &event);
            check_spellings(&decoder, record, &read, &event);
        }
        (Err(NoEvent::Ignored { event_type: read }), Decoded::Ignored { event_type }) => assert_eq!(*event_type, *read),
        (Err(NoEvent::Poison { reason: read }), Decoded::Poison { reason, error }) => {
            assert_eq!(reason, read, "{error}");
            assert!(!error.is_empty());
        }
        (Err(NoEvent::Damaged | NoEvent::Odd), Decoded::Poison { error, .. }) => assert!(!error.is_empty()),
        (Err(NoEvent::Odd), Decoded::Event { event, .. }) => check_identity(&event),
        (read, otherwise) => panic!("{otherwise:?} of what reads as {read:?}"),
    }
}

const NAMES_OF_A_NOTIFICATION: [&str; 5] = ["id", "type", "order", "occurred_at", "request_id"];
const REQUIRED: [&str; 5] = ["order_id", "user_id", "product_id", "quantity", "status"];
const YEAR_100_000: u64 = 3_093_527_980_800_000;

fn lane_of(ordering: OrderingKey, record: &Record, read: &ReadEvent<'_>) -> Option<LaneKey> {
    match ordering {
        OrderingKey::OrderId => Some(LaneKey::of(read.order_id.as_bytes())),
        OrderingKey::UserId => Some(LaneKey::of(read.user_id.as_bytes())),
        OrderingKey::RecordKey => record.key.as_deref().map(LaneKey::of),
        OrderingKey::None => None,
    }
}

fn check_identity(event: &OrderEvent) {
    let (order_id, event_type) = (&event.identity.order_id, &event.identity.event_type);
    assert!((1..=255).contains(&order_id.len()) && !order_id.contains('\0'));
    assert!((1..=128).contains(&event_type.len()) && !event_type.contains('\0'));
}

fn check_event(record: &Record, read: &ReadEvent<'_>, event: &OrderEvent) {
    let identity = &event.identity;
    assert_eq!((&*identity.order_id, &*identity.event_type), (&*read.order_id, &*read.event_type));
    check_identity(event);
    assert_eq!(event.order, read.order.as_bytes());
    assert_eq!(event.request_id.as_deref(), read.request_id.as_deref());
    let told = read.timestamp.and_then(text_of);
    if told.is_none_or(|text| !text.contains(|c: char| c.is_ascii_digit())) {
        assert_eq!(event.occurred_at, record.timestamp);
    }
    let header = record.headers.iter().find(|header| header.name == "traceparent");
    let parent = header.and_then(|header| str::from_utf8(header.value.as_ref()?).ok());
    match event.trace {
        Some(trace) => check_trace(trace, parent.expect("a trace comes from a header")),
        // The form of today; a later version may have more behind it.
        None => assert!(!parent.is_some_and(is_trace_parent), "{parent:?} is lost"),
    }
}

fn check_trace(trace: TraceParent, header: &str) {
    let text = trace.to_string();
    assert_eq!(text[2..53], header[2..53]);
    let flags = u8::from_str_radix(&header[53..55], 16).expect("flags are hex");
    assert_eq!(trace.is_sampled, flags % 2 == 1);
    assert_eq!(TraceParent::parse(&text), Some(trace));
}

fn is_trace_parent(header: &str) -> bool {
    let is_right = |(at, byte): (usize, u8)| match at {
        2 | 35 | 52 => byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    };
    let has_form = header.len() == 55 && header.bytes().enumerate().all(is_right) && header.starts_with("00");
    has_form && header[3..35] != "0".repeat(32) && header[36..52] != "0".repeat(16)
}

fn check_notification(read: &ReadEvent<'_>, event: &OrderEvent) {
    let id = notification_id("group", &event.identity).to_string();
    let body = body(&id, event).expect("an event can be told");
    let Fields(fields) = Fields::of(str::from_utf8(&body).expect("a notification is text")).expect("and JSON");
    let [(_, told_id), (_, told_type), (_, order), (_, occurred_at), (_, request_id)] = &fields[..] else {
        panic!("{fields:?}")
    };
    assert_eq!(fields.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), NAMES_OF_A_NOTIFICATION);
    assert_eq!(text_of(told_id), Some(id));
    assert_eq!(text_of(told_type).as_deref(), Some(&*read.event_type));
    assert_eq!(*order, read.order);
    assert_eq!(text_of(request_id), read.request_id);
    let told = text_of(occurred_at);
    assert!(told.is_some() || event.occurred_at.is_none_or(|at| at.0.unsigned_abs() > YEAR_100_000));
    if let Some(written) = read.timestamp.and_then(text_of).filter(|text| is_plain_time(text)) {
        assert_eq!(told, Some(written.replace('Z', ".000Z")));
    }
}

/// A second of UTC in its common form, on a day that every month has.
fn is_plain_time(text: &str) -> bool {
    let number = |from: usize, to: usize| text.get(from..to).and_then(|digits| digits.parse::<u32>().ok());
    let is_right = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        19 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    let is_within =
        |from, range: std::ops::Range<u32>| number(from, from + 2).is_some_and(|value| range.contains(&value));
    let has_form = text.len() == 20 && text.bytes().enumerate().all(is_right);
    has_form
        && is_within(5, 1..13)
        && is_within(8, 1..29)
        && is_within(11, 0..24)
        && is_within(14, 0..60)
        && is_within(17, 0..60)
}

/// The same event with its fields in another order, other escapes and other white space is the same event; a changed one is not.
fn check_spellings(decoder: &Decoder, record: &Record, read: &ReadEvent<'_>, event: &OrderEvent) {
    let decode = |event: &ReadEvent<'_>| {
        let value = Some(Bytes::from(spelled_otherwise(event)));
        match decoder.decode(&Record { value, ..record.clone() }) {
            Decoded::Event { event, .. } => event,
            otherwise => panic!("{otherwise:?} of {event:?}"),
        }
    };
    let again = decode(read);
    assert_eq!(
        (&again.identity, again.fingerprint, again.occurred_at, &again.request_id, again.trace),
        (&event.identity, event.fingerprint, event.occurred_at, &event.request_id, event.trace)
    );
    let other = decode(&ReadEvent { fields: changed(read), ..read.clone() });
    assert_ne!(other.fingerprint, event.fingerprint);
    assert_eq!(other.identity, event.identity);
    if let Some(time) = read.timestamp.and_then(text_of).filter(|text| is_plain_time(text)) {
        let an_hour_east = escaped(&time.replace('Z', "+01:00"));
        let earlier = decode(&ReadEvent { timestamp: Some(&an_hour_east), ..read.clone() });
        assert_eq!(earlier.occurred_at.map(|at| at.0 + 3_600_000), event.occurred_at.map(|at| at.0));
    }
}

/// Without one of the fields, or with another value of it, or with one more, whose name is the only one so long.
fn changed<'a>(read: &ReadEvent<'a>) -> Vec<(String, &'a str)> {
    let mut fields = read.fields.clone();
    let (number, chance) = (read.order.len() % fields.len(), read.order.len() / fields.len());
    let is_required = REQUIRED.contains(&&*fields[number].0);
    match fields[number].1 {
        _ if is_required => {
            let longest = fields.iter().map(|(name, _)| name.len()).max();
            fields.push(("x".repeat(longest.unwrap_or(0) + 1), "null"));
        }
        _ if chance.is_multiple_of(2) => drop(fields.remove(number)),
        "null" => fields[number].1 = "0",
        _ => fields[number].1 = "null",
    }
    fields
}

/// The id as a text, be it a number or not.
fn spelled_otherwise(event: &ReadEvent<'_>) -> String {
    let mut text = String::from("\n{ \"not known\" : [ { } ] ,");
    let mut add = |name: &str, value: &str| write!(text, "{}:\t{value} ,", escaped(name)).expect("text takes all");
    if let Some(time) = event.timestamp {
        add("timestamp", time);
    }
    if let Some(id) = &event.request_id {
        add("request_id", &escaped(id));
    }
    let fields = event.fields.iter().map(|(name, value)| match &**name {
        "order_id" => format!("{} : {}", escaped(name), escaped(&event.order_id)),
        _ => format!("{} : {value}", escaped(name)),
    });
    let fields = fields.collect::<Vec<_>>().join("\r\n,");
    add("order", &format!("{{{fields}}}"));
    write!(text, "\"event_type\":{}}} ", escaped(&event.event_type)).expect("text takes all");
    text
}

/// JSON in which every character is escaped.
fn escaped(text: &str) -> String {
    let mut json = String::from("\"");
    for unit in text.encode_utf16() {
        write!(json, "\\u{unit:04X}").expect("text takes all");
    }
    json.push('"');
    json
}
