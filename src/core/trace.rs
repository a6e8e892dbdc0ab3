//! Where a record stands in a distributed trace: the W3C `traceparent` header.

use std::fmt;

use super::record::Record;

/// A span that somebody else may hang a span below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub trace_id: u128,
    pub span_id: u64,
    /// Whoever began the trace keeps it.
    pub is_sampled: bool,
}

impl TraceParent {
    /// None for a header that is missing or malformed: the specification asks to go on without.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        let header = record.headers.iter().find(|header| header.name.as_ref() == b"traceparent")?;
        Self::parse(str::from_utf8(header.value.as_deref()?).ok()?)
    }

    /// `version-trace-span-flags`; a later version may have more behind it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        let is_well_formed = version != 0xff && (version > 0 || parts.next().is_none());
        let is_valid = is_well_formed && trace_id != 0 && span_id != 0;
        is_valid.then_some(Self { trace_id, span_id, is_sampled: flags & 1 == 1 })
    }
}

/// As many lower-case digits as there must be.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_well_formed = text.len() == digits && text.bytes().all(is_lower_hex);
    u128::from_str_radix(text, 16).ok().filter(|_| is_well_formed)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.is_sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_specification_says() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let span = "00f067aa0ba902b7";
        for (text, expected) in [
            (format!("00-{trace}-{span}-01"), Some(true)),
            (format!("00-{trace}-{span}-00"), Some(false)),
            (format!("01-{trace}-{span}-03-later"), Some(true)),
            (format!("00-{trace}-{span}-01-more"), None),
            (format!("ff-{trace}-{span}-01"), None),
            (format!("00-{}-{span}-01", trace.to_uppercase()), None),
            (format!("00-{}-{span}-01", "0".repeat(32)), None),
            (format!("00-{trace}-{}-01", "0".repeat(16)), None),
            (format!("00-{trace}-+{}-01", &span[1..]), None),
            (format!("00-{trace}-{span}"), None),
            (String::new(), None),
            ("N/A".to_owned(), None),
        ] {
            let parsed = TraceParent::parse(&text);
            assert_eq!(parsed.map(|parent| parent.is_sampled), expected, "{text}");
            if let Some(parent) = parsed.filter(|_| text.starts_with("00")) {
                assert_eq!(parent.to_string(), text);
            }
        }
    }
}
