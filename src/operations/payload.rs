//! Payloads as operators see them: JSON with its numbers as they are written, or bytes in hex; fields masked where the configuration
//! says so.

use std::fmt::Write;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::core::json;

pub(super) const MASK: &str = "***";

/// Whether masked fields are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Masked,
    Unmasked,
}

/// The value of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A tombstone.
    Absent,
    /// The text as it was produced, or with masked fields.
    Json(String),
    /// Lower-case hex.
    Bytes(String),
    /// No JSON, so that no field can be found to mask in it.
    Hidden { bytes: usize },
}

impl Payload {
    pub(super) fn of(value: Option<&[u8]>, mask: &[String]) -> Self {
        let Some(value) = value else { return Self::Absent };
        let Ok(raw) = serde_json::from_slice::<&RawValue>(value) else {
            return if mask.is_empty() { Self::Bytes(hex(value)) } else { Self::Hidden { bytes: value.len() } };
        };
        if mask.is_empty() && !raw.get().contains('\n') {
            return Self::Json(raw.get().to_owned());
        }
        match json::read(raw.get()) {
            Ok(mut json) => {
                hide(&mut json, mask, "", &mut Vec::new());
                Self::Json(json.to_string())
            }
            // Too deep to look into, or not what it seems.
            Err(_) => Self::Hidden { bytes: value.len() },
        }
    }
}

/// Masks every field that is named, or whose path is; what was there is hidden.
pub(super) fn hide(value: &mut Value, mask: &[String], path: &str, hidden: &mut Vec<Value>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if mask.iter().any(|masked| masked == name || *masked == path) {
                    hidden.push(std::mem::replace(field, MASK.into()));
                } else {
                    hide(field, mask, &path, hidden);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, mask, path, hidden)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: Option<&[u8]>, mask: &[&str], expected: &Payload) {
        let mask: Vec<String> = mask.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(&Payload::of(value, &mask), expected);
    }

    #[test]
    fn numbers_stay_as_they_are_written() {
        let exact = r#"{"b":12345678901234567890123,"a":1.10}"#;
        check(Some(exact.as_bytes()), &[], &Payload::Json(exact.to_owned()));
        let masked = r#"{"a":1.10,"b":"***"}"#;
        check(Some(exact.as_bytes()), &["b"], &Payload::Json(masked.to_owned()));
    }

    #[test]
    fn what_is_no_json_is_hex_and_hidden_where_something_is_masked() {
        check(None, &["a"], &Payload::Absent);
        check(Some(b"\x00\xffa"), &[], &Payload::Bytes("00ff61".to_owned()));
        check(Some(b"\x00\xffa"), &["a"], &Payload::Hidden { bytes: 3 });
    }

    #[test]
    fn what_cannot_be_looked_into_is_hidden_where_something_is_masked() {
        let seeming = br#"{"a":{"$serde_json::private::RawValue":"{\"a\":1}"}}"#;
        let text = String::from_utf8(seeming.to_vec()).unwrap();
        check(Some(seeming), &[], &Payload::Json(text.clone()));
        check(Some(seeming), &["a"], &Payload::Hidden { bytes: text.len() });
        let deep = json::tests::nested(100);
        check(Some(deep.as_bytes()), &["a"], &Payload::Hidden { bytes: deep.len() });
    }

    #[test]
    fn fields_are_masked_by_name_everywhere_and_by_path_in_one_place() {
        let value = br#"{"email":"a","order":{"email":"b","user":7,"items":[{"user":8}]},"user":9}"#;
        let by_name = r#"{"email":"***","order":{"email":"***","items":[{"user":8}],"user":7},"user":9}"#;
        check(Some(value), &["email"], &Payload::Json(by_name.to_owned()));
        let by_path = r#"{"email":"a","order":{"email":"b","items":[{"user":8}],"user":"***"},"user":9}"#;
        check(Some(value), &["order.user"], &Payload::Json(by_path.to_owned()));
    }
}
