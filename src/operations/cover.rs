//! What a masked field holds may stand elsewhere, too: in the answer of a gateway, in the record's key or in a header. It is covered
//! there as well, however it is escaped there.

use bytes::Bytes;
use serde_json::Value;

use super::echo::{Echo, TELLING, on_one_line};
use super::payload::{MASK, Payload, hide};
use crate::core::json;
use crate::core::record::Record;
use crate::postgres::WholeLetter;

/// The texts that are hidden of one record.
#[derive(Debug, Default)]
pub(super) struct Cover {
    /// Each on one line.
    hidden: Vec<String>,
}

impl Cover {
    pub(super) fn of(record: &Record, mask: &[String]) -> Self {
        let mut cover = Self::default();
        let value = record.value.as_deref().unwrap_or_default();
        if mask.is_empty() {
            return cover;
        }
        let Some(mut json) = json::read_bytes(value) else { return cover };
        let mut fields = Vec::new();
        hide(&mut json, mask, "", &mut fields);
        for field in &fields {
            cover.add(field);
        }
        // A longer one may hold a shorter one.
        cover.hidden.sort_by_key(|text| std::cmp::Reverse(text.len()));
        cover
    }

    fn add(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.hidden.extend(Some(on_one_line(text)).filter(|text| !text.is_empty())),
            Value::Number(number) => self.hidden.push(number.to_string()),
            Value::Array(items) => items.iter().for_each(|item| self.add(item)),
            Value::Object(fields) => fields.values().for_each(|field| self.add(field)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// The text without what is hidden.
    pub(super) fn text(&self, text: &str) -> String {
        self.hidden.iter().fold(text.to_owned(), |covered, hidden| without(&covered, hidden))
    }

    /// Nothing of them, where something is hidden.
    fn bytes(&self, bytes: Bytes) -> Bytes {
        let text = String::from_utf8_lossy(&bytes);
        let holds = |hidden: &String| begins(&text).any(|rest| matches!(Echo::of(hidden, rest), Echo::Whole(_)));
        if self.hidden.iter().any(holds) { Bytes::from_static(MASK.as_bytes()) } else { bytes }
    }
}

/// A letter as it may be seen: covered, without its value; that is the payload.
#[must_use]
pub fn seen(mut letter: WholeLetter, mask: &[String]) -> (WholeLetter, Payload) {
    let payload = Payload::of(letter.record.value.as_deref(), mask);
    if mask.is_empty() {
        return (letter, payload);
    }
    let cover = Cover::of(&letter.record, mask);
    letter.listed.error = cover.text(&letter.listed.error);
    for attempt in &mut letter.history {
        attempt.error = cover.text(&attempt.error);
    }
    for replay in &mut letter.replays {
        replay.detail = replay.detail.take().map(|detail| cover.text(&detail));
    }
    let record = &mut letter.record;
    record.value = None;
    record.key = record.key.take().map(|key| cover.bytes(key));
    for header in &mut record.headers {
        header.value = header.value.take().map(|value| cover.bytes(value));
    }
    (letter, payload)
}

/// Each place where the hidden text stands for itself is masked: a hidden 4 is not the 4 of 422.
fn without(text: &str, hidden: &str) -> String {
    let mut covered = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, is_found) = match Echo::of(hidden, rest) {
            Echo::Whole(length) => (length, true),
            Echo::CutOff => return covered + MASK,
            Echo::None => (first.len_utf8(), false),
        };
        let (place, after) = rest.split_at(length);
        covered.push_str(if is_found && !joins(&covered, hidden, after) { MASK } else { place });
        rest = after;
    }
    covered
}

/// Whether the place is only a part of a longer word or number. Long texts are hidden wherever they stand.
fn joins(before: &str, hidden: &str, after: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric();
    hidden.chars().count() < TELLING && (before.ends_with(is_word) || after.starts_with(is_word))
}

/// The text from each of its characters on.
fn begins(text: &str) -> impl Iterator<Item = &str> {
    text.char_indices().filter_map(|(at, _)| text.get(at..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::{Coordinates, Offset, Partition};

    fn check(value: &str, mask: &[&str], text: &str, expected: &str) {
        let record = Record {
            coordinates: Coordinates { partition: Partition(0), offset: Offset(0) },
            timestamp: None,
            key: None,
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: Vec::new(),
        };
        let mask: Vec<String> = mask.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(Cover::of(&record, &mask).text(text), expected);
    }

    #[test]
    fn what_is_masked_is_covered_wherever_an_error_repeats_it() {
        let value = r#"{"order":{"email":"a.b@c.org","quantity":4,"card":{"number":"4111","holder":["Ana B."]}}}"#;
        let mask = ["order.email", "quantity", "card"];
        for (text, expected) in [
            ("no account for a.b@c.org (A.B@C.org)", "no account for *** (***)"),
            ("422: quantity 4 must be above 40", "422: quantity *** must be above 40"),
            ("card 4111 of ana b.: refused", "card *** of ***: refused"),
            ("no account for a.b@c.o", "no account for ***"),
            ("nothing of it", "nothing of it"),
        ] {
            check(value, &mask, text, expected);
        }
        check(value, &[], "no account for a.b@c.org", "no account for a.b@c.org");
        check("no json", &["email"], "expected value", "expected value");
    }

    #[test]
    fn a_text_of_several_bytes_a_letter_is_covered_whole() {
        check(r#"{"name":"Zoë"}"#, &["name"], "user Zoë is ÄZoë", "user *** is ÄZoë");
        check(r#"{"name":"Ünal Öz"}"#, &["name"], "«Ünal Öz» is unknown", "«***» is unknown");
    }

    #[test]
    fn an_echo_of_escaped_json_is_covered_and_so_is_its_cut_off_end() {
        let value = r#"{"name":"J\u00fcrgen \"Jo\" M."}"#;
        for text in [r#"J\u00fcrgen \"Jo\" M."#, r#"JÜRGEN "Jo" M."#, r#"J\u00FCrgen \"J…"#] {
            check(value, &["name"], &format!("bad name {text}"), "bad name ***");
        }
        check(value, &["name"], r"J\u00fcrg is not he", r"J\u00fcrg is not he");
    }

    #[test]
    fn a_key_or_header_that_repeats_escaped_json_is_covered_whole() {
        let name = r"J\u00fcrgen";
        let cover = Cover { hidden: vec!["Jürgen".to_owned()] };
        let mask = Bytes::from_static(MASK.as_bytes());
        assert_eq!(cover.bytes(Bytes::from(format!("\u{1}{name}\u{2}"))), mask);
        assert_eq!(cover.bytes(Bytes::from_static(b"\xffJ\xc3\xbcRGEN")), mask);
        let other = Bytes::from_static(b"\xffJurgen");
        assert_eq!(cover.bytes(other.clone()), other);
    }
}
