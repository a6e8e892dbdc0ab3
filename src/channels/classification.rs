//! What an answer of a webhook's receiver means, by what is to be done about it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::core::failure::FailureClass;

/// How a request ended that got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The request could not be written down at all.
    Unsendable,
    /// No connection: DNS, TCP, TLS or their timeout. Nothing was sent.
    NotConnected,
    /// Sent, and no answer in time.
    TimedOut,
    /// Sent at least in part, and the connection broke before the answer.
    Broken,
}

/// `retry_after` is what the answer asked for, if it did.
///
/// Redirects are not followed: a signed notification goes where the configuration says. Those that say the address is
/// another one (301, 302, 307, 308: a moved gateway, a login page) blame no record, so they are an outage like 401 and 403,
/// and nothing is dead-lettered until the address is mended.
pub(super) fn classify_status(status: u16, retry_after: Option<Duration>) -> Result<(), FailureClass> {
    match status {
        200..=299 => Ok(()),
        301 | 302 | 307 | 308 | 401 | 403 | 407 => Err(FailureClass::Outage),
        // A proxy passed the request on and lost the answer; 520 and 524 are Cloudflare's words for it.
        502 | 504 | 520 | 524 => Err(FailureClass::Unknown),
        408 | 425 | 429 | 500..=599 => Err(FailureClass::Transient { retry_after }),
        _ => Err(FailureClass::Permanent),
    }
}

pub(super) fn classify_unanswered(unanswered: Unanswered) -> FailureClass {
    match unanswered {
        Unanswered::Unsendable => FailureClass::Permanent,
        Unanswered::NotConnected => FailureClass::Outage,
        Unanswered::TimedOut | Unanswered::Broken => FailureClass::Unknown,
    }
}

/// `Retry-After` in either of its forms, seconds or a date. `now` is best the answer's own `Date`, so that two clocks
/// that disagree do no harm. None where it cannot be read.
pub(super) fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let due = parse_http_date(value)?;
    Some(due.signed_duration_since(now).to_std().unwrap_or_default())
}

/// The one form of a date that HTTP lets be sent today (`Sun, 06 Nov 1994 08:49:37 GMT`).
pub(super) fn parse_http_date(value: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(value).ok().map(|date| date.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_class() {
        const WAIT: Option<Duration> = Some(Duration::from_secs(7));
        let transient = Err(FailureClass::Transient { retry_after: WAIT });
        let permanent = Err(FailureClass::Permanent);
        let unknown = Err(FailureClass::Unknown);
        let outage = Err(FailureClass::Outage);
        let classes = [
            (Ok(()), vec![200, 201, 202, 203, 204, 205, 206, 207, 226, 299]),
            (outage, vec![301, 302, 307, 308, 401, 403, 407]),
            (transient, vec![408, 425, 429, 500, 501, 503]),
            (transient, vec![505, 506, 507, 508, 510, 511, 521, 522, 523, 599]),
            (unknown, vec![502, 504, 520, 524]),
            (permanent, vec![100, 101, 103, 300, 303, 304, 305]),
            (permanent, vec![400, 402, 404, 405, 406, 409, 410, 411, 412]),
            (permanent, vec![413, 414, 415, 416, 417, 418, 421, 422, 423]),
            (permanent, vec![424, 426, 428, 431, 451, 499, 600, 999]),
        ];
        for (expected, statuses) in classes {
            for status in statuses {
                assert_eq!(classify_status(status, WAIT), expected, "{status}");
            }
        }
    }

    #[test]
    fn only_what_may_have_been_sent_is_unknown() {
        let cases = [
            (Unanswered::Unsendable, FailureClass::Permanent),
            (Unanswered::NotConnected, FailureClass::Outage),
            (Unanswered::TimedOut, FailureClass::Unknown),
            (Unanswered::Broken, FailureClass::Unknown),
        ];
        for (unanswered, expected) in cases {
            assert_eq!(classify_unanswered(unanswered), expected);
        }
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        let now = parse_http_date("Mon, 23 Nov 2026 10:00:00 GMT").unwrap();
        let cases = [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Mon, 23 Nov 2026 10:01:30 GMT", Some(90)),
            ("Mon, 23 Nov 2026 09:00:00 GMT", Some(0)),
            ("Sat, 23 Nov 2126 10:00:00 GMT", Some(3_155_673_600)),
            ("18446744073709551615", Some(u64::MAX)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ];
        for (value, expected) in cases {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(parse_retry_after(value, now), expected, "{value}");
        }
    }
}
