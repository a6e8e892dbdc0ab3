//! One safe line out of what a receiver answered.

use serde_json::Value;

use crate::core::json;

const LONGEST_LINE: usize = 256;

/// Where APIs put the sentence for people, in the order of preference: RFC 9457, FastAPI, and common custom.
const MESSAGE_FIELDS: [&str; 7] = ["message", "detail", "error", "msg", "error_description", "reason", "title"];

/// The error message in an answer's body. None where there is none, or where it may be an echo of the notification.
///
/// Many validators send back the input that they refused, and an error ends in logs and dead letters. So of JSON only the
/// message is taken, and of any text only what comes before the first bracket.
pub(super) fn excerpt(body: &[u8]) -> Option<String> {
    if let Some(value) = json::read_bytes(body) {
        return find_message(&value);
    }
    let text = utf8_prefix(body)?.trim_start();
    if text.starts_with('<') {
        return None;
    }
    line_before_structure(text)
}

/// `text` on one line of bounded length, without control characters.
pub(super) fn one_line(text: &str) -> String {
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = printable.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

fn find_message(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => line_before_structure(text),
        Value::Array(values) => values.first().and_then(find_message),
        Value::Object(fields) => MESSAGE_FIELDS.iter().find_map(|name| fields.get(*name).and_then(find_message)),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn line_before_structure(text: &str) -> Option<String> {
    let plain = text.split(['{', '[']).next().unwrap_or_default();
    let line = one_line(plain);
    (!line.is_empty()).then_some(line)
}

/// The text, be it cut off in the middle of a character. None where it is no text.
fn utf8_prefix(bytes: &[u8]) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_some() => None,
        Err(error) => std::str::from_utf8(bytes.get(..error.valid_up_to())?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_found_and_an_echo_is_not() {
        let cases: [(&[u8], Option<&str>); 17] = [
            (b"", None),
            (b"out of stock", Some("out of stock")),
            (b"two\r\nlines\t\x1b[31mred", Some("two lines")),
            (b"cannot accept {\"order_id\":1}", Some("cannot accept")),
            (b"{\"order_id\":1,\"user_id\":7}", None),
            (b"{\"message\":\"no user\",\"order\":{\"user_id\":7}}", Some("no user")),
            (b"{\"error\":{\"code\":7,\"message\":\"no user\"}}", Some("no user")),
            (b"{\"detail\":[{\"msg\":\"Field required\",\"input\":{\"id\":1}}]}", Some("Field required")),
            (b"{\"title\":\"Bad\",\"detail\":\"too many\"}", Some("too many")),
            (b"{\"message\":\"bad order {\\\"order_id\\\":1}\"}", Some("bad order")),
            (b"{\"message\":17}", None),
            (b"{\"message\":\"cut of", None),
            (b"\"quoted\"", Some("quoted")),
            (b"<html><h1>502 Bad Gateway</h1></html>", None),
            (b"\x1f\x8b\x08\x00\xff", None),
            (b"caf\xc3", Some("caf")),
            (br#"{"$serde_json::private::RawValue":"{\"message\":\"no\"}"}"#, None),
        ];
        for (body, expected) in cases {
            assert_eq!(excerpt(body).as_deref(), expected, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_line_is_bounded() {
        let line = one_line(&"é".repeat(10_000));
        assert_eq!(line.chars().count(), LONGEST_LINE + 1);
        assert!(line.ends_with('…'));
    }
}
