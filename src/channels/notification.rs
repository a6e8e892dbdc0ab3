//! What a notification is called and what it says.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::core::event::{Identity, OrderEvent};
use crate::core::record::Timestamp;

/// The namespace of notification ids. Never to be changed: receivers recognise a repetition by the id.
const NAMESPACE: Uuid = Uuid::from_u128(0x2f5b_7f0a_93c4_5d0e_8a61_7b1e_6c0d_4e92);

/// Separates the parts of an id's name: none of them may hold it, so no two identities share a name.
const SEPARATOR: u8 = 0;

/// The id of the notification of `identity` by `group`: the same for every attempt, worker and replay.
pub fn notification_id(group: &str, identity: &Identity) -> Uuid {
    let mut name = Vec::with_capacity(group.len() + identity.order_id.len() + identity.event_type.len() + 2);
    name.extend_from_slice(group.as_bytes());
    name.push(SEPARATOR);
    name.extend_from_slice(identity.order_id.as_bytes());
    name.push(SEPARATOR);
    name.extend_from_slice(identity.event_type.as_bytes());
    Uuid::new_v5(&NAMESPACE, &name)
}

/// The JSON object that a receiver gets. `order` is passed on as it was produced, unknown fields included.
pub fn body(id: &str, event: &OrderEvent) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    struct Body<'a> {
        id: &'a str,
        r#type: &'a str,
        order: &'a RawValue,
        occurred_at: Option<String>,
        request_id: Option<&'a str>,
    }
    serde_json::to_vec(&Body {
        id,
        r#type: &event.identity.event_type,
        order: serde_json::from_slice(&event.order)?,
        occurred_at: event.occurred_at.and_then(Timestamp::rfc3339),
        request_id: event.request_id.as_deref(),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::core::event::Fingerprint;

    fn identity(order_id: &str, event_type: &str) -> Identity {
        Identity { order_id: order_id.into(), event_type: event_type.into() }
    }

    /// Computed independently with Python's `uuid.uuid5`.
    #[test]
    fn a_notification_id_is_the_same_for_ever() {
        let cases = [
            ("notification_service_group", "1", "ORDER_CREATED", "68f453e6-7aec-5cbe-bc44-3a5559443751"),
            ("notification_service_group", "1", "ORDER_UPDATED", "be5ccf30-06e0-599c-b1a3-9e3b45175195"),
            ("g", "ордер-7", "ORDER_CREATED", "80ab3ca2-2b19-5cb2-9ad6-609a343d47ef"),
        ];
        for (group, order_id, event_type, expected) in cases {
            let id = notification_id(group, &identity(order_id, event_type));
            assert_eq!(id.to_string(), expected);
        }
    }

    #[test]
    fn parts_that_join_to_the_same_text_have_different_ids() {
        assert_ne!(notification_id("g", &identity("12", "3")), notification_id("g", &identity("1", "23")));
        assert_ne!(notification_id("g1", &identity("2", "3")), notification_id("g", &identity("12", "3")));
    }

    #[test]
    fn the_order_is_passed_on_byte_for_byte() {
        let mut event = OrderEvent {
            identity: identity("1", "ORDER_CREATED"),
            order: Bytes::from_static(br#"{"order_id":1, "price":10.00,"x":12345678901234567890123}"#),
            occurred_at: Some(Timestamp(1_795_428_000_000)),
            request_id: Some("r-\"1\"".into()),
            trace: None,
            fingerprint: Fingerprint([0; 32]),
        };
        let text = |event: &OrderEvent| String::from_utf8(body("n1", event).unwrap()).unwrap();
        assert_eq!(
            text(&event),
            concat!(
                r#"{"id":"n1","type":"ORDER_CREATED","#,
                r#""order":{"order_id":1, "price":10.00,"x":12345678901234567890123},"#,
                r#""occurred_at":"2026-11-23T10:00:00.000Z","request_id":"r-\"1\""}"#
            )
        );
        event.occurred_at = Some(Timestamp(i64::MAX));
        event.request_id = None;
        assert!(text(&event).ends_with(r#""occurred_at":null,"request_id":null}"#));
    }
}
