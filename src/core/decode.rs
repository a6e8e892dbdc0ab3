//! From bytes to an event, or to the reason why there is none.

use std::collections::BTreeSet;
use std::str;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::event::{Fingerprint, Identity, OrderEvent};
use super::failure::Reason;
use super::json;
use super::key::{LaneKey, OrderingKey};
use super::record::{Record, Timestamp};
use super::trace::TraceParent;

const MAX_ORDER_ID_BYTES: usize = 255;
const MAX_EVENT_TYPE_BYTES: usize = 128;

/// The event type of a synthetic identity. No configured event type is it (`config/checks.rs`).
pub const SYNTHETIC_EVENT_TYPE: &str = "herald.record";

/// What a record turned out to be.
#[derive(Debug)]
pub enum Decoded {
    Event {
        event: OrderEvent,
        lane: Option<LaneKey>,
    },
    /// An event type that is not configured: nothing to do.
    Ignored {
        event_type: Arc<str>,
    },
    Poison {
        reason: Reason,
        error: String,
    },
}

/// Decodes records as configured.
#[derive(Debug)]
pub struct Decoder {
    event_types: BTreeSet<Arc<str>>,
    ordering: OrderingKey,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    event_type: Option<&'a RawValue>,
    #[serde(borrow)]
    order: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
}

struct Poison(Reason, String);

impl Decoder {
    #[must_use]
    pub fn new(event_types: impl IntoIterator<Item = impl Into<Arc<str>>>, ordering: OrderingKey) -> Self {
        Self { event_types: event_types.into_iter().map(Into::into).collect(), ordering }
    }

    /// Never panics, whatever the bytes are.
    #[must_use]
    pub fn decode(&self, record: &Record) -> Decoded {
        self.try_decode(record).unwrap_or_else(|Poison(reason, error)| Decoded::Poison { reason, error })
    }

    fn try_decode(&self, record: &Record) -> Result<Decoded, Poison> {
        let value = record.value.as_ref().ok_or_else(|| undecodable("the record has no value (a tombstone)"))?;
        let envelope = parse_envelope(value)?;
        let event_type = parse_event_type(envelope.event_type)?;
        let Some(event_type) = self.event_types.get(event_type.as_str()) else {
            return Ok(Decoded::Ignored { event_type: event_type.into() });
        };

        let raw_order = envelope.order.ok_or_else(|| invalid("order is missing"))?;
        let mut order = json::read(raw_order.get()).map_err(|error| undecodable(&format!("order: {error}")))?;
        let order_id: Arc<str> = checked_order_id(&order)?.into();
        let user_id = checked_id(&order, "user_id")?;
        checked_id(&order, "product_id")?;
        check_shape(&order)?;

        let lane = self.lane(record, &order_id, user_id);
        let event = OrderEvent {
            fingerprint: fingerprint(&mut order, &order_id),
            identity: Identity { order_id, event_type: event_type.clone() },
            order: value.slice_ref(raw_order.get().as_bytes()),
            occurred_at: envelope.timestamp.and_then(parse_timestamp).or(record.timestamp),
            request_id: envelope.request_id.and_then(parse_request_id),
            trace: TraceParent::of(record),
        };
        Ok(Decoded::Event { event, lane })
    }

    fn lane(&self, record: &Record, order_id: &str, user_id: &str) -> Option<LaneKey> {
        match self.ordering {
            OrderingKey::OrderId => Some(LaneKey::of(order_id.as_bytes())),
            OrderingKey::UserId => Some(LaneKey::of(user_id.as_bytes())),
            OrderingKey::RecordKey => record.key.as_deref().map(LaneKey::of),
            OrderingKey::None => None,
        }
    }
}

/// The identity of a record that has none of its own, so that it ends through the same statements as all others.
///
/// The digest covers the payload and the timestamp as well as the coordinates: a recreated topic uses those again.
#[must_use]
pub fn synthetic_identity(topic: &str, record: &Record) -> (Identity, Fingerprint) {
    let payload = record_digest(record);
    let mut hasher = Sha256::new();
    hasher.update(topic);
    hasher.update(record.coordinates.partition.0.to_be_bytes());
    hasher.update(record.coordinates.offset.0.to_be_bytes());
    hasher.update(payload.0);
    let digest = Fingerprint(hasher.finalize().into());
    let identity = Identity { order_id: digest.to_string().into(), event_type: SYNTHETIC_EVENT_TYPE.into() };
    (identity, payload)
}

/// SHA-256 over timestamp, key, value and headers, each with its length and whether it is there at all.
#[must_use]
pub fn record_digest(record: &Record) -> Fingerprint {
    let mut hasher = Sha256::new();
    let mut part = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => {
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        }
        None => hasher.update(u64::MAX.to_be_bytes()),
    };
    part(record.timestamp.map(|at| at.0.to_be_bytes()).as_ref().map(<[u8; 8]>::as_slice));
    part(record.key.as_deref());
    part(record.value.as_deref());
    for header in &record.headers {
        part(Some(&header.name));
        part(header.value.as_deref());
    }
    Fingerprint(hasher.finalize().into())
}

fn parse_envelope(value: &Bytes) -> Result<Envelope<'_>, Poison> {
    let text = str::from_utf8(value).map_err(|error| undecodable(&format!("not UTF-8: {error}")))?;
    // serde would take an array for a struct.
    if !text.trim_start().starts_with('{') {
        return Err(undecodable("the value is no JSON object"));
    }
    serde_json::from_str(text)
        .map_err(|error| if error.is_data() { invalid(&error.to_string()) } else { undecodable(&error.to_string()) })
}

fn parse_event_type(raw: Option<&RawValue>) -> Result<String, Poison> {
    let raw = raw.ok_or_else(|| invalid("event_type is missing"))?;
    let event_type: String = serde_json::from_str(raw.get()).map_err(|_| invalid("event_type is not a string"))?;
    check_text("event_type", &event_type, MAX_EVENT_TYPE_BYTES)?;
    Ok(event_type)
}

fn checked_order_id(order: &Value) -> Result<&str, Poison> {
    if !order.is_object() {
        return Err(invalid("order is not an object"));
    }
    let order_id = checked_id(order, "order_id")?;
    check_text("order.order_id", order_id, MAX_ORDER_ID_BYTES)?;
    Ok(order_id)
}

/// An integer or a string, as a string.
fn checked_id<'a>(order: &'a Value, field: &str) -> Result<&'a str, Poison> {
    match order.get(field) {
        None => Err(invalid(&format!("order.{field} is missing"))),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Number(number)) if is_integer(number) => Ok(number.as_str()),
        Some(_) => Err(invalid(&format!("order.{field} is neither an integer nor a string"))),
    }
}

fn check_shape(order: &Value) -> Result<(), Poison> {
    match order.get("quantity") {
        Some(Value::Number(number)) if is_integer(number) => {}
        Some(_) => return Err(invalid("order.quantity is not an integer")),
        None => return Err(invalid("order.quantity is missing")),
    }
    match order.get("status") {
        Some(Value::String(_)) => Ok(()),
        Some(_) => Err(invalid("order.status is not a string")),
        None => Err(invalid("order.status is missing")),
    }
}

fn is_integer(number: &serde_json::Number) -> bool {
    !number.as_str().contains(['.', 'e', 'E'])
}

fn check_text(name: &str, text: &str, max_bytes: usize) -> Result<(), Poison> {
    if text.is_empty() || text.len() > max_bytes {
        let length = text.len();
        return Err(invalid(&format!("{name} has {length} bytes, 1 to {max_bytes} are allowed")));
    }
    if text.contains('\0') {
        return Err(invalid(&format!("{name} holds a NUL byte")));
    }
    Ok(())
}

/// Over the order with sorted fields and without white space; its id as a string, since 1 and "1" are the same.
fn fingerprint(order: &mut Value, order_id: &str) -> Fingerprint {
    if let Some(id) = order.get_mut("order_id") {
        *id = Value::String(order_id.to_owned());
    }
    // As one text: it is written in pieces of a few bytes, and each would cost a hasher as much as a whole block.
    let mut text = Vec::with_capacity(512);
    // Every value has a text.
    let _ = serde_json::to_writer(&mut text, order);
    Fingerprint(Sha256::digest(text).into())
}

/// RFC 3339, or the same without a zone, which is taken for UTC. Anything else counts as absent (`"N/A"`).
fn parse_timestamp(raw: &RawValue) -> Option<Timestamp> {
    let text: String = serde_json::from_str(raw.get()).ok()?;
    let zoned = DateTime::parse_from_rfc3339(&text).map(|at| at.timestamp_millis());
    let plain =
        || NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f").map(|at| at.and_utc().timestamp_millis());
    zoned.or_else(|_| plain()).ok().map(Timestamp)
}

fn parse_request_id(raw: &RawValue) -> Option<Arc<str>> {
    let text: String = serde_json::from_str(raw.get()).ok()?;
    (!text.is_empty() && text != "N/A").then(|| text.into())
}

fn undecodable(error: &str) -> Poison {
    Poison(Reason::Undecodable, error.to_owned())
}

fn invalid(error: &str) -> Poison {
    Poison(Reason::Invalid, error.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::{Coordinates, Header, Offset, Partition};

    fn record(value: impl Into<Bytes>) -> Record {
        Record {
            coordinates: Coordinates { partition: Partition(1), offset: Offset(7) },
            timestamp: Some(Timestamp(1_000)),
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
        }
    }

    fn decode(value: impl Into<Bytes>) -> Decoded {
        Decoder::new(["ORDER_CREATED"], OrderingKey::OrderId).decode(&record(value))
    }

    fn event(order: &str) -> OrderEvent {
        match decode(format!(r#"{{"event_type":"ORDER_CREATED","order":{order}}}"#)) {
            Decoded::Event { event, .. } => event,
            other => panic!("{other:?}"),
        }
    }

    fn order_with(field: &str, value: &str) -> String {
        let mut order: Value = serde_json::from_str(ORDER).unwrap();
        order.as_object_mut().unwrap().remove(field);
        let mut text = order.to_string();
        if !value.is_empty() {
            text.insert_str(1, &format!("\"{field}\":{value},"));
        }
        text
    }

    const ORDER: &str = r#"{"order_id":1,"user_id":7,"product_id":3,"quantity":2,"status":"CREATED"}"#;

    #[test]
    fn the_event_of_the_field_decodes() {
        let text = format!(
            r#"{{"event_type":"ORDER_CREATED","order":{ORDER},"timestamp":"N/A","request_id":"N/A","extra":1}}"#
        );
        let Decoded::Event { event, lane } = decode(text) else { panic!() };
        assert_eq!(&*event.identity.order_id, "1");
        assert_eq!(event.order, ORDER);
        assert_eq!(event.occurred_at, Some(Timestamp(1_000)));
        assert_eq!(event.request_id, None);
        assert_eq!(lane, Some(LaneKey::of(b"1")));
    }

    #[test]
    fn poison_is_told_apart() {
        let deep = format!(r#"{{"event_type":"ORDER_CREATED","order":{}1{}}}"#, "[".repeat(9_000), "]".repeat(9_000));
        let with = |order: String| format!(r#"{{"event_type":"ORDER_CREATED","order":{order}}}"#);
        let table: Vec<(Vec<u8>, Reason, &str)> = vec![
            (b"".to_vec(), Reason::Undecodable, "no JSON object"),
            (b"not json".to_vec(), Reason::Undecodable, "no JSON object"),
            (b"[1,2,3,4]".to_vec(), Reason::Undecodable, "no JSON object"),
            (b"{\"a\":".to_vec(), Reason::Undecodable, "EOF"),
            (b"{\"a\":\"\xff\"}".to_vec(), Reason::Undecodable, "not UTF-8"),
            (deep.into_bytes(), Reason::Undecodable, "recursion limit"),
            (
                br#"{"event_type":"ORDER_CREATED","order":{"order_id":"\ud800"}}"#.to_vec(),
                Reason::Undecodable,
                "order: ",
            ),
            (
                with(order_with("order_id", r#"{"$serde_json::private::Number":"7"}"#)).into_bytes(),
                Reason::Undecodable,
                "order: a text begins with $serde_json",
            ),
            (
                with(order_with("note", &json::tests::nested(100))).into_bytes(),
                Reason::Undecodable,
                "order: a text begins with $serde_json",
            ),
            (b"{}".to_vec(), Reason::Invalid, "event_type is missing"),
            (br#"{"event_type":7}"#.to_vec(), Reason::Invalid, "event_type is not a string"),
            (br#"{"event_type":""}"#.to_vec(), Reason::Invalid, "event_type has 0 bytes"),
            (br#"{"event_type":"ORDER_CREATED"}"#.to_vec(), Reason::Invalid, "order is missing"),
            (with("[]".into()).into_bytes(), Reason::Invalid, "order is not an object"),
            (with(order_with("order_id", "")).into_bytes(), Reason::Invalid, "order.order_id is missing"),
            (with(order_with("order_id", "1.5")).into_bytes(), Reason::Invalid, "neither an integer nor a string"),
            (with(order_with("order_id", "true")).into_bytes(), Reason::Invalid, "neither an integer nor a string"),
            (with(order_with("order_id", r#""a\u0000b""#)).into_bytes(), Reason::Invalid, "NUL"),
            (
                with(order_with("order_id", &format!("\"{}\"", "9".repeat(256)))).into_bytes(),
                Reason::Invalid,
                "256 bytes",
            ),
            (with(order_with("user_id", "")).into_bytes(), Reason::Invalid, "order.user_id is missing"),
            (with(order_with("product_id", "null")).into_bytes(), Reason::Invalid, "order.product_id is neither"),
            (
                with(order_with("quantity", r#""two""#)).into_bytes(),
                Reason::Invalid,
                "order.quantity is not an integer",
            ),
            (with(order_with("status", "4")).into_bytes(), Reason::Invalid, "order.status is not a string"),
            (br#"{"event_type":"A","event_type":"B"}"#.to_vec(), Reason::Invalid, "duplicate field"),
        ];
        for (value, expected, part) in table {
            let shown = String::from_utf8_lossy(&value).chars().take(80).collect::<String>();
            match decode(value) {
                Decoded::Poison { reason, error } => {
                    assert_eq!(reason, expected, "{shown}");
                    assert!(error.contains(part), "{shown}: {error}");
                }
                other => panic!("{shown}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_tombstone_is_undecodable_and_an_unknown_type_is_ignored() {
        let mut tombstone = record("");
        tombstone.value = None;
        let decoder = Decoder::new(["ORDER_CREATED"], OrderingKey::OrderId);
        assert!(matches!(decoder.decode(&tombstone), Decoded::Poison { reason: Reason::Undecodable, .. }));
        assert!(
            matches!(decode(r#"{"event_type":"ORDER_SHIPPED"}"#), Decoded::Ignored { event_type } if &*event_type == "ORDER_SHIPPED")
        );
    }

    #[test]
    fn the_fingerprint_is_of_the_content_not_of_its_spelling() {
        let same = r#"{ "status":"CRE\u0041TED", "quantity":2, "product_id":3, "user_id":7, "order_id":"1" }"#;
        assert_eq!(event(ORDER).fingerprint, event(same).fingerprint);
        assert_ne!(event(ORDER).fingerprint, event(&order_with("quantity", "3")).fingerprint);
        let huge = "123456789012345678901234567890";
        assert_eq!(&*event(&order_with("order_id", huge)).identity.order_id, huge);
        assert_ne!(
            event(&order_with("note", "100000000000000000000000000001")).fingerprint,
            event(&order_with("note", "100000000000000000000000000002")).fingerprint
        );
    }

    #[test]
    fn timestamps_are_read_leniently() {
        let table = [
            (r#""2026-11-23T10:00:00Z""#, 1_795_428_000_000),
            (r#""2026-11-23T11:00:00.500+01:00""#, 1_795_428_000_500),
            (r#""2026-11-23T10:00:00.25""#, 1_795_428_000_250),
            (r#""N/A""#, 1_000),
            ("17", 1_000),
        ];
        for (timestamp, expected) in table {
            let text = format!(r#"{{"event_type":"ORDER_CREATED","order":{ORDER},"timestamp":{timestamp}}}"#);
            let Decoded::Event { event, .. } = decode(text) else { panic!("{timestamp}") };
            assert_eq!(event.occurred_at, Some(Timestamp(expected)), "{timestamp}");
        }
    }

    #[test]
    fn a_synthetic_identity_depends_on_coordinates_and_payload() {
        let base = record("x");
        let mut moved = base.clone();
        moved.coordinates.offset = Offset(8);
        let mut other = base.clone();
        other.headers.push(Header { name: "a".into(), value: None });
        let identity = |record: &Record| synthetic_identity("order_events", record).0;
        assert_eq!(identity(&base), identity(&base.clone()));
        assert_ne!(identity(&base), identity(&moved));
        assert_ne!(identity(&base), identity(&other));
        assert!(identity(&base).order_id.len() <= MAX_ORDER_ID_BYTES);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(value: Vec<u8>) {
            let _ = decode(value);
        }

        #[test]
        fn no_json_like_text_panics(text in r#"\{("(event_type|order|timestamp|order_id)":("[A-Z_\\u0-9d]{0,14}"|[0-9eE.+-]{0,9}|\{|\}|null|\[),?){0,6}\}?"#) {
            let _ = decode(text);
        }
    }
}
