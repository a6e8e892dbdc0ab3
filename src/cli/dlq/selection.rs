//! The filters, the same for every subcommand that takes dead letters.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use clap::Args;

use crate::core::failure::Reason;
use crate::operations::Selection;
use crate::postgres::DeadLetterState;

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which dead letters")]
pub(super) struct SelectionArguments {
    /// Of this bug: what `herald dlq groups` calls its group, or the beginning of it
    #[arg(long, value_name = "GROUP")]
    fingerprint: Option<String>,
    /// By reason; may be repeated
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<Reason>,
    /// In this state; may be repeated. What is not closed, by default
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Vec<DeadLetterState>,
    /// Of this event type
    #[arg(long, value_name = "TYPE")]
    event_type: Option<String>,
    /// Of this order
    #[arg(long, value_name = "ID")]
    order: Option<String>,
    /// With this key of the Kafka record
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// From this partition, or these offsets of it
    #[arg(long, value_name = "PARTITION[:FIRST-LAST]", value_parser = place)]
    from: Option<Place>,
    /// Failed last since then: 2h for two hours ago, or 2026-11-23T02:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<i64>,
    /// Failed last before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<i64>,
    /// Replayed so often: 3, 2-5, or 2- for at least two
    #[arg(long, value_name = "COUNT", value_parser = range)]
    replays: Option<(u32, u32)>,
    /// With this text in the error, or in the bytes of the record
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

/// A partition, and offsets of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    partition: i32,
    offsets: Option<(i64, i64)>,
}

impl SelectionArguments {
    /// What the filters say, or these ids.
    pub(super) fn selection(self, ids: Vec<i64>) -> Selection {
        let selection = Selection {
            ids: (!ids.is_empty()).then_some(ids),
            states: (!self.state.is_empty()).then(|| self.state.iter().map(|state| state.as_str()).collect()),
            reasons: None,
            group: self.fingerprint,
            event_type: self.event_type,
            order_id: self.order,
            key: self.key,
            partition: self.from.map(|place| place.partition),
            first_offset: self.from.and_then(|place| place.offsets).map(|(first, _)| first),
            last_offset: self.from.and_then(|place| place.offsets).map(|(_, last)| last),
            since_ms: self.since,
            until_ms: self.until,
            min_replays: self.replays.map(|(least, _)| least),
            max_replays: self.replays.map(|(_, most)| most).filter(|most| *most < u32::MAX),
            text: self.text,
        };
        selection.with_reasons(&self.reason)
    }
}

fn reason(text: &str) -> Result<Reason, String> {
    let names = Reason::ALL.map(Reason::as_str).join(", ");
    Reason::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or_else(|| format!("expected one of {names}"))
}

fn state(text: &str) -> Result<DeadLetterState, String> {
    let names = DeadLetterState::ALL.map(DeadLetterState::as_str).join(", ");
    DeadLetterState::from_name(text).ok_or_else(|| format!("expected one of {names}"))
}

fn place(text: &str) -> Result<Place, String> {
    let wrong = || "expected a partition, or a partition and its offsets, such as 3:100-200".to_owned();
    let (partition, offsets) = text.split_once(':').map_or((text, None), |(partition, rest)| (partition, Some(rest)));
    let partition = partition.parse().map_err(|_| wrong())?;
    let Some(offsets) = offsets else { return Ok(Place { partition, offsets: None }) };
    let (first, last) = offsets.split_once('-').unwrap_or((offsets, offsets));
    let offset = |text: &str, open: i64| if text.is_empty() { Ok(open) } else { text.parse().map_err(|_| wrong()) };
    Ok(Place { partition, offsets: Some((offset(first, 0)?, offset(last, i64::MAX)?)) })
}

fn range(text: &str) -> Result<(u32, u32), String> {
    let wrong = |_| "expected a number, or a range such as 2-5 or 2-".to_owned();
    match text.split_once('-') {
        None => text.parse().map(|count| (count, count)).map_err(wrong),
        Some((least, "")) => Ok((least.parse().map_err(wrong)?, u32::MAX)),
        Some((least, most)) => Ok((least.parse().map_err(wrong)?, most.parse().map_err(wrong)?)),
    }
}

/// Milliseconds since the Unix epoch.
fn moment(text: &str) -> Result<i64, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_millis());
    }
    let ago = humantime::parse_duration(text).map_err(|_| "expected 2h, 30min or 2026-11-23T02:00:00Z".to_owned())?;
    let then = SystemTime::now().checked_sub(ago).ok_or("that is too long ago")?;
    Ok(DateTime::<Utc>::from(then).timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_partitions_with_or_without_offsets() {
        let at = |partition, offsets| Ok(Place { partition, offsets });
        assert_eq!(place("3"), at(3, None));
        assert_eq!(place("3:7"), at(3, Some((7, 7))));
        assert_eq!(place("3:7-9"), at(3, Some((7, 9))));
        assert_eq!(place("3:7-"), at(3, Some((7, i64::MAX))));
        assert_eq!(place("3:-9"), at(3, Some((0, 9))));
        for wrong in ["", "x", "3:x", "3:1-y", ":1"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts_are_numbers_or_ranges() {
        assert_eq!(range("3"), Ok((3, 3)));
        assert_eq!(range("2-5"), Ok((2, 5)));
        assert_eq!(range("2-"), Ok((2, u32::MAX)));
        assert!(range("-").is_err());
    }

    #[test]
    fn times_are_ages_or_moments() {
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(1_000));
        let hour_ago = Utc::now().timestamp_millis() - 3_600_000;
        assert!(moment("1h").unwrap().abs_diff(hour_ago) < 5_000);
        assert!(moment("yesterday").is_err());
    }
}
