//! What a masked field holds may stand elsewhere, too: in the answer of a gateway, in the record's key or in a header. It is covered
//! there as well, as far as it stands there as it does in the payload.

use bytes::Bytes;
use serde_json::Value;

use super::payload::{MASK, Payload, hide};
use crate::core::record::Record;
use crate::postgres::WholeLetter;

/// An error is cut off at its end: the beginning of a hidden text may be left there, if it is at least so long.
const TELLING: usize = 4;

/// The texts that are hidden of one record.
#[derive(Debug, Default)]
pub(super) struct Cover {
    hidden: Vec<String>,
}

impl Cover {
    pub(super) fn of(record: &Record, mask: &[String]) -> Self {
        let mut cover = Self::default();
        let value = record.value.as_deref().unwrap_or_default();
        if mask.is_empty() {
            return cover;
        }
        let Ok(mut json) = serde_json::from_slice::<Value>(value) else { return cover };
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
            Value::String(text) => self.hidden.extend((!text.is_empty()).then(|| text.clone())),
            Value::Number(number) => self.hidden.push(number.to_string()),
            Value::Array(items) => items.iter().for_each(|item| self.add(item)),
            Value::Object(fields) => fields.values().for_each(|field| self.add(field)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// The text without what is hidden.
    pub(super) fn text(&self, text: &str) -> String {
        let mut covered = text.to_owned();
        for hidden in &self.hidden {
            covered = without(&covered, hidden);
            covered = without_cut_off(covered, hidden);
        }
        covered
    }

    /// Nothing of them, where something is hidden.
    fn bytes(&self, bytes: Bytes) -> Bytes {
        let holds =
            |hidden: &String| bytes.windows(hidden.len()).any(|part| part.eq_ignore_ascii_case(hidden.as_bytes()));
        if self.hidden.iter().any(holds) { Bytes::from_static(MASK.as_bytes()) } else { bytes }
    }
}

/// A letter as it may be seen: covered, without its value; that is the payload.
pub(super) fn seen(mut letter: WholeLetter, mask: &[String]) -> (WholeLetter, Payload) {
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

/// Each place where the hidden text stands for itself, whatever its case, is masked: a hidden 4 is not the 4 of 422.
fn without(text: &str, hidden: &str) -> String {
    let mut covered = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find(rest, hidden) {
        let (before, found) = rest.split_at(at);
        let (place, after) = found.split_at(hidden.len());
        covered.push_str(before);
        covered.push_str(if joins(&covered, hidden, after) { place } else { MASK });
        rest = after;
    }
    covered + rest
}

fn find(text: &str, hidden: &str) -> Option<usize> {
    let (text, hidden) = (text.as_bytes(), hidden.as_bytes());
    text.windows(hidden.len()).position(|part| part.eq_ignore_ascii_case(hidden))
}

/// Whether the place is only a part of a longer word or number. Long texts are hidden wherever they stand.
fn joins(before: &str, hidden: &str, after: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric();
    hidden.chars().count() < TELLING && (before.ends_with(is_word) || after.starts_with(is_word))
}

fn without_cut_off(text: String, hidden: &str) -> String {
    let ends = (TELLING..hidden.len()).rev().filter_map(|length| hidden.get(..length));
    for beginning in ends {
        let at = text.len().saturating_sub(beginning.len());
        if text.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(beginning)) {
            return text.get(..at).unwrap_or_default().to_owned() + MASK;
        }
    }
    text
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
}
