//! Events as the order service produces them, and which of them went where.

use bytes::Bytes;
use herald::core::record::Coordinates;
use serde_json::{Value, json};

use super::kafka::NewRecord;

/// An event that was produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produced {
    pub order_id: String,
    pub event_type: String,
    pub coordinates: Coordinates,
}

/// The value of an `ORDER_CREATED` record.
pub fn created(order_id: u64) -> Value {
    event("ORDER_CREATED", order_id)
}

pub fn event(event_type: &str, order_id: u64) -> Value {
    json!({
        "event_type": event_type,
        "order": {
            "order_id": order_id,
            "user_id": order_id % 100 + 1,
            "product_id": order_id % 10 + 1,
            "quantity": order_id % 5 + 1,
            "status": "CREATED"
        },
        "timestamp": "N/A",
        "request_id": "N/A"
    })
}

/// A record of this event as the order service writes it: no key, no headers.
pub fn record(event: &Value) -> NewRecord {
    NewRecord::of(Bytes::from(event.to_string()))
}

/// What an event became once it was produced.
pub fn produced(event: &Value, coordinates: Coordinates) -> Produced {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Produced { order_id: text(&event["order"]["order_id"]), event_type: text(&event["event_type"]), coordinates }
}
