//! What a record says, read by other means than the worker's: field by field from the text.

use std::fmt;

use herald::core::failure::Reason;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

pub const EVENT_TYPES: [&str; 2] = ["ORDER_CREATED", "ORDER_PAID"];
/// Of nested arrays and objects, as serde_json reads them.
const DEEPEST: usize = 127;
const RESERVED: &str = "$serde_json::private::";

/// What a record is that is no event.
#[derive(Debug)]
pub enum NoEvent {
    Ignored {
        event_type: String,
    },
    Poison {
        reason: Reason,
    },
    /// What is wrong first is told by the order in which it is read.
    Damaged,
    /// It quotes a name that the worker's reader reserves.
    Odd,
}

#[derive(Clone, Debug)]
pub struct ReadEvent<'a> {
    pub event_type: String,
    pub order_id: String,
    pub user_id: String,
    /// The text of the order, and each of its fields once.
    pub order: &'a str,
    pub fields: Vec<(String, &'a str)>,
    pub timestamp: Option<&'a str>,
    pub request_id: Option<String>,
}

/// The fields of a JSON object in their order, a name twice if it is there twice, with the texts of their values.
pub struct Fields<'a>(pub Vec<(String, &'a str)>);

impl<'a> Fields<'a> {
    pub fn of(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The last one counts.
    pub fn last(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(field, _)| field == name).map(|(_, value)| *value)
    }

    fn holds_twice(&self, name: &str) -> bool {
        self.0.iter().filter(|(field, _)| field == name).count() > 1
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(String, &'de str)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    fields.push((name, value.get()));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(InOrder).map(Self)
    }
}

pub fn read(value: Option<&[u8]>) -> Result<ReadEvent<'_>, NoEvent> {
    const UNDECODABLE: NoEvent = NoEvent::Poison { reason: Reason::Undecodable };
    const INVALID: NoEvent = NoEvent::Poison { reason: Reason::Invalid };
    let text = str::from_utf8(value.ok_or(UNDECODABLE)?).map_err(|_| UNDECODABLE)?;
    if !text.trim_start().starts_with('{') {
        return Err(UNDECODABLE);
    }
    let envelope = Fields::of(text).ok_or(NoEvent::Damaged)?;
    if ["event_type", "order", "timestamp", "request_id"].into_iter().any(|name| envelope.holds_twice(name)) {
        return Err(INVALID);
    }
    let event_type = envelope.last("event_type").and_then(text_of).ok_or(INVALID)?;
    if !(1..=128).contains(&event_type.len()) || event_type.contains('\0') {
        return Err(INVALID);
    }
    if !EVENT_TYPES.contains(&event_type.as_str()) {
        return Err(NoEvent::Ignored { event_type });
    }
    let order = envelope.last("order").filter(|order| *order != "null").ok_or(INVALID)?;
    let (depth, texts) = scan(order);
    let texts: Vec<String> = texts.into_iter().map(text_of).collect::<Option<_>>().ok_or(UNDECODABLE)?;
    if texts.iter().any(|text| text.starts_with(RESERVED)) {
        return Err(UNDECODABLE);
    }
    if texts.iter().any(|text| text.contains(RESERVED)) {
        return Err(NoEvent::Odd);
    }
    if depth > DEEPEST {
        return Err(UNDECODABLE);
    }
    let fields = Fields::of(order).ok_or(INVALID)?;
    let id = |name| fields.last(name).and_then(|value| text_of(value).or_else(|| integer(value))).ok_or(INVALID);
    let order_id = id("order_id")?;
    let (user_id, _) = (id("user_id")?, id("product_id")?);
    let is_shaped = fields.last("quantity").and_then(integer).and(fields.last("status").and_then(text_of)).is_some();
    if !is_shaped || !(1..=255).contains(&order_id.len()) || order_id.contains('\0') {
        return Err(INVALID);
    }
    let request_id = envelope.last("request_id").and_then(text_of).filter(|id| !id.is_empty() && id != "N/A");
    let timestamp = envelope.last("timestamp");
    Ok(ReadEvent { event_type, order_id, user_id, order, fields: once(fields), timestamp, request_id })
}

/// Each field where it is last.
fn once(fields: Fields<'_>) -> Vec<(String, &str)> {
    let mut kept: Vec<(String, &str)> = Vec::new();
    for (name, value) in fields.0.into_iter().rev() {
        if !kept.iter().any(|(field, _)| *field == name) {
            kept.push((name, value));
        }
    }
    kept
}

pub fn text_of(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

fn integer(json: &str) -> Option<String> {
    let is_integer = json.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    is_integer.then(|| json.to_owned())
}

/// How deep valid JSON nests, and the texts in it, quotes included.
fn scan(json: &str) -> (usize, Vec<&str>) {
    let (mut depth, mut deepest) = (0, 0);
    let (mut begin, mut is_escaped) = (None, false);
    let mut texts = Vec::new();
    for (at, byte) in json.bytes().enumerate() {
        match (begin, byte) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), b'\\') => is_escaped = true,
            (Some(from), b'"') => {
                texts.push(&json[from..=at]);
                begin = None;
            }
            (None, b'"') => begin = Some(at),
            (None, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, b']' | b'}') => depth -= 1,
            (Some(_) | None, _) => {}
        }
    }
    (deepest, texts)
}
