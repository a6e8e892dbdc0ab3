//! Text from outside, made fit for a text column.

use std::borrow::Cow;

/// Enough for a root cause and what led to it.
const MAX_BYTES: usize = 2_000;

/// Without NUL, which no text column takes, and at most 2,000 bytes long.
#[must_use]
pub fn bounded(text: &str) -> Cow<'_, str> {
    let end = (0..=MAX_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let head = text.get(..end).unwrap_or_default();
    if head.contains('\0') { Cow::Owned(head.replace('\0', "")) } else { Cow::Borrowed(head) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_loses_its_nuls_and_what_is_too_long() {
        let long = "x".repeat(MAX_BYTES + 1);
        let split_character = format!("{}é", "x".repeat(MAX_BYTES - 1));
        let cases = [
            ("", String::new()),
            ("timeout", "timeout".to_owned()),
            ("a\0b\0", "ab".to_owned()),
            (&long, "x".repeat(MAX_BYTES)),
            (&split_character, "x".repeat(MAX_BYTES - 1)),
        ];
        for (text, expected) in cases {
            assert_eq!(bounded(text), expected);
        }
    }
}
