//! JSON from outside, read into a value.

use serde_json::Value;

/// What the names begin with that `serde_json` gives its own meaning when it reads a `Value`: an object of one such field becomes a number,
/// another the JSON inside a text, however deep that nests and however often. So an object could pass for an id, and one record overflow
/// the stack and end the process.
const RESERVED: &str = "$serde_json::private::";

#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("a text begins with {RESERVED}, which the reader keeps for itself")]
    Reserved,
}

/// Numbers keep their digits; at most 127 levels of nesting.
pub fn read(text: &str) -> Result<Value, Unreadable> {
    // What is behind each quote is the beginning of a text, or in the midst of one.
    if text.split('"').any(is_reserved) {
        return Err(Unreadable::Reserved);
    }
    Ok(serde_json::from_str(text)?)
}

/// None where it is no JSON, or none that is read.
pub fn read_bytes(bytes: &[u8]) -> Option<Value> {
    read(str::from_utf8(bytes).ok()?).ok()
}

fn is_reserved(text: &str) -> bool {
    RESERVED.chars().try_fold(text, after).is_some()
}

/// What is behind a character, be it escaped.
fn after(text: &str, wanted: char) -> Option<&str> {
    text.strip_prefix(wanted).or_else(|| {
        let (digits, rest) = text.strip_prefix("\\u")?.split_at_checked(4)?;
        (u32::from_str_radix(digits, 16).ok()? == u32::from(wanted)).then_some(rest)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// So many texts of JSON, one inside the other, each in 120 arrays: 16 KiB for 30 of them.
    pub(crate) fn nested(texts: usize) -> String {
        (0..texts).fold("1".to_owned(), |inner, _| {
            let inner = inner.replace('\\', "\\u005c").replace('"', "\\u0022");
            format!(r#"{}{{"{RESERVED}RawValue":"{inner}"}}{}"#, "[".repeat(120), "]".repeat(120))
        })
    }

    #[test]
    fn json_means_what_it_says() {
        for text in [
            r#"{"a":12345678901234567890123,"b":[1.10,"$serde_json"],"c":"\u0024serde_json::private"}"#,
            r#"{"note":"a $serde_json::private::Number"}"#,
        ] {
            assert_eq!(read(text).unwrap().to_string(), text.replace("\\u0024", "$"));
        }
        for text in [
            r#"{"order_id":{"$serde_json::private::Number":"7"}}"#,
            r#"{"order_id":{"$serde_json::private::RawValue":"7"}}"#,
            r#"{"\u0024serd\u0065_json\u003a:private::RawValue":"[]"}"#,
            r#"{"\u0024serde_json\u003A:private::RawValue":"[]"}"#,
        ] {
            assert!(matches!(read(text), Err(Unreadable::Reserved)), "{text}");
        }
        assert!(matches!(read("{"), Err(Unreadable::Json(_))));
    }

    #[test]
    fn texts_of_json_in_one_another_do_not_overflow_the_stack() {
        assert!(matches!(read(&nested(100)), Err(Unreadable::Reserved)));
    }
}
