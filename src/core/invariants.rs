//! The promises, as functions. The engine and the model tests assert these same ones; chaos runs workers that do.
//!
//! A violation panics in debug builds and tests; in release it is reported and counted.

use super::record::{Offset, Record};

/// The ids of ARCHITECTURE.md, "The promise".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
}

impl Invariant {
    pub const ALL: [Self; 8] = [Self::I1, Self::I2, Self::I3, Self::I4, Self::I5, Self::I6, Self::I7, Self::I8];

    /// The label of `invariant_violations_total{invariant}`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::I1 => "I1",
            Self::I2 => "I2",
            Self::I3 => "I3",
            Self::I4 => "I4",
            Self::I5 => "I5",
            Self::I6 => "I6",
            Self::I7 => "I7",
            Self::I8 => "I8",
        }
    }
}

/// A promise that was broken: which, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    pub detail: String,
}

/// What became of the records of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    pub polled: u64,
    pub notified: u64,
    pub duplicate: u64,
    pub ignored: u64,
    pub parked: u64,
    pub dead_lettered: u64,
    pub handed_back: u64,
    /// Records out of `parked_events` that ended here; they are no part of the sum above.
    pub parked_settled: u64,
}

/// I1: the stored offset never passes the lowest record without durable custody, and never goes back.
pub fn stored_offset(before: Offset, stored: Offset, lowest_unfinished: Option<Offset>) -> Result<(), Violation> {
    let passes = lowest_unfinished.is_some_and(|lowest| stored > lowest);
    verify(Invariant::I1, !passes && stored >= before, || {
        format!("stored {stored} after {before} with {lowest_unfinished:?} unfinished")
    })
}

/// I1: whatever lies below a committed offset has a durable end, or somebody goes on with it.
pub fn custody(has_custody: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    verify(Invariant::I1, has_custody, detail)
}

/// I2: what is settled, or may not be repeated, is never notified again.
pub fn notified_once(may_be_notified: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    verify(Invariant::I2, may_be_notified, detail)
}

/// I3: one delivery at a time in a lane.
pub fn one_at_a_time(is_head_of_lane: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    verify(Invariant::I3, is_head_of_lane, detail)
}

/// I4: nothing starts for a partition that is not ours.
pub fn owned(is_owned: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    verify(Invariant::I4, is_owned, detail)
}

/// I5: only an answer spends an attempt; and nobody is given up on for an outage, nor for the end of somebody else's process.
pub fn blamed(is_to_blame: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    verify(Invariant::I5, is_to_blame, detail)
}

/// I6: what is kept or published of a record is the record.
pub fn unchanged(original: &Record, kept: &Record) -> Result<(), Violation> {
    verify(Invariant::I6, original == kept, || format!("{kept:?} was kept of {original:?}"))
}

/// I7: every polled record is in flight or ended one way.
pub fn closes(accounting: &Accounting, in_flight: u64) -> Result<(), Violation> {
    let Accounting { polled, notified, duplicate, ignored, parked, dead_lettered, handed_back, parked_settled: _ } =
        *accounting;
    let ended = notified + duplicate + ignored + parked + dead_lettered + handed_back;
    verify(Invariant::I7, polled == ended + in_flight, || format!("{accounting:?}, in flight {in_flight}"))
}

/// I7: every record that was parked has left the table again, or is in it still.
pub fn parking_closes(parked: u64, left: u64, still_parked: u64) -> Result<(), Violation> {
    verify(Invariant::I7, parked == left + still_parked, || {
        format!("{parked} were parked, {left} have left, {still_parked} are parked still")
    })
}

/// I8: no more records, or bytes, are held than the limit and what one answer may bring beyond it.
pub fn bounded(held: usize, limit: usize) -> Result<(), Violation> {
    verify(Invariant::I8, held <= limit, || format!("{held} held of {limit}"))
}

/// I8: what is held is what was counted.
pub fn memory(counted_bytes: usize, records_held: usize) -> Result<(), Violation> {
    verify(Invariant::I8, records_held > 0 || counted_bytes == 0, || {
        format!("{counted_bytes} bytes counted for {records_held} records")
    })
}

fn verify(invariant: Invariant, holds: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds {
        return Ok(());
    }
    let detail = detail();
    debug_assert!(holds, "{} violated: {detail}", invariant.as_str());
    Err(Violation { invariant, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_state_passes() {
        assert!(stored_offset(Offset(3), Offset(5), Some(Offset(5))).is_ok());
        assert!(stored_offset(Offset(3), Offset(5), None).is_ok());
        let accounting = Accounting { polled: 6, notified: 2, duplicate: 1, dead_lettered: 1, ..Accounting::default() };
        assert!(closes(&accounting, 2).is_ok());
        assert!(parking_closes(5, 3, 2).is_ok());
    }

    #[test]
    #[should_panic(expected = "I1 violated")]
    fn a_watermark_past_an_unfinished_record_is_a_violation() {
        let _ = stored_offset(Offset(3), Offset(6), Some(Offset(5)));
    }

    #[test]
    #[should_panic(expected = "I7 violated")]
    fn a_parked_record_that_is_nowhere_is_a_violation() {
        let _ = parking_closes(3, 1, 1);
    }

    #[test]
    #[should_panic(expected = "I7 violated")]
    fn a_record_that_is_nowhere_is_a_violation() {
        let accounting = Accounting { polled: 3, notified: 2, ..Accounting::default() };
        let _ = closes(&accounting, 0);
    }
}
