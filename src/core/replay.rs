//! How a replay goes on: a few first, then the rest at its rate, and no further when too many fail.

use std::time::Duration;

/// Letters are scheduled this far ahead of their time.
const AHEAD: Duration = Duration::from_secs(3);
/// Of one statement.
const MAX_CHUNK: u32 = 500;
/// Scheduled and not ended, beyond which nothing more is scheduled: the workers do not keep up.
const MAX_SCHEDULED: u64 = 2_000;
/// Letters that say something about a failure ratio, where there is no canary.
const SAMPLE: u64 = 10;

/// How far a running replay has come, and what it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReplayProgress {
    pub planned: u64,
    pub scheduled: u64,
    pub notified: u64,
    pub duplicate: u64,
    /// Dead again, or quarantined.
    pub dead: u64,
    /// To the topic; what becomes of them is told by other dead letters, or by none.
    pub published: u64,
    /// Not processed: changed since the plan, or taken back.
    pub left_out: u64,
    /// Letters each second.
    pub rate: f64,
    pub canary: u64,
    pub max_failure_ratio: f64,
    /// How far ahead of now the next letter would be scheduled.
    pub ahead: Duration,
}

/// What a worker does about a running replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayStep {
    Wait,
    /// At most so many more letters.
    Schedule(u32),
    /// Too many failed.
    Stop,
    Finish,
}

impl ReplayProgress {
    #[must_use]
    pub fn step(&self) -> ReplayStep {
        if self.planned == 0 {
            return if self.scheduled == 0 { ReplayStep::Finish } else { ReplayStep::Wait };
        }
        if self.fails_too_often() {
            return ReplayStep::Stop;
        }
        let ended = self.ended();
        if ended < self.canary {
            let missing = self.canary.saturating_sub(ended + self.scheduled);
            return if missing == 0 { ReplayStep::Wait } else { self.schedule(missing) };
        }
        self.schedule(MAX_CHUNK.into())
    }

    /// Letters that are over.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.notified + self.duplicate + self.dead + self.published + self.left_out
    }

    /// All letters of the plan.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.planned + self.scheduled + self.ended()
    }

    /// The canary judges when it is over; what follows, at any time.
    fn fails_too_often(&self) -> bool {
        let processed = self.notified + self.dead;
        let sample = if self.canary > 0 { self.canary } else { SAMPLE };
        self.dead > 0 && self.ended() >= sample && ratio(self.dead, processed) > self.max_failure_ratio
    }

    /// As many as belong to the time ahead, and at least one.
    fn schedule(&self, wanted: u64) -> ReplayStep {
        if self.ahead >= AHEAD || self.scheduled >= MAX_SCHEDULED {
            return ReplayStep::Wait;
        }
        let room = self.rate * AHEAD.saturating_sub(self.ahead).as_secs_f64();
        let wanted = u32::try_from(wanted).unwrap_or(MAX_CHUNK).min(MAX_CHUNK);
        let fits = (1..=wanted).rev().find(|count| f64::from(*count) <= room).unwrap_or(1);
        ReplayStep::Schedule(fits)
    }
}

/// Both are counts of one replay: far below what a float holds exactly.
fn ratio(part: u64, whole: u64) -> f64 {
    let count = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    if whole == 0 { 0.0 } else { count(part) / count(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay() -> ReplayProgress {
        ReplayProgress { planned: 990, rate: 50.0, canary: 10, max_failure_ratio: 0.2, ..ReplayProgress::default() }
    }

    #[test]
    fn the_canary_goes_first_and_the_rest_waits_for_its_end() {
        assert_eq!(ReplayProgress { planned: 1_000, ..replay() }.step(), ReplayStep::Schedule(10));
        assert_eq!(ReplayProgress { scheduled: 4, notified: 2, ..replay() }.step(), ReplayStep::Schedule(4));
        assert_eq!(ReplayProgress { scheduled: 10, ..replay() }.step(), ReplayStep::Wait);
        assert_eq!(ReplayProgress { scheduled: 1, notified: 9, ..replay() }.step(), ReplayStep::Wait);
        assert_eq!(ReplayProgress { notified: 10, ..replay() }.step(), ReplayStep::Schedule(150));
        assert_eq!(ReplayProgress { notified: 8, left_out: 2, ..replay() }.step(), ReplayStep::Schedule(150));
    }

    #[test]
    fn too_many_failures_stop_it_and_a_few_do_not() {
        assert_eq!(ReplayProgress { notified: 7, dead: 3, ..replay() }.step(), ReplayStep::Stop);
        assert_eq!(ReplayProgress { notified: 8, dead: 2, ..replay() }.step(), ReplayStep::Schedule(150));
        assert_eq!(ReplayProgress { dead: 3, scheduled: 7, ..replay() }.step(), ReplayStep::Wait, "not yet");
        let without = ReplayProgress { canary: 0, ..replay() };
        assert_eq!(ReplayProgress { dead: 9, ..without }.step(), ReplayStep::Schedule(150));
        assert_eq!(ReplayProgress { dead: 10, ..without }.step(), ReplayStep::Stop);
        assert_eq!(ReplayProgress { notified: 500, duplicate: 500, dead: 200, ..without }.step(), ReplayStep::Stop);
    }

    #[test]
    fn nothing_is_scheduled_far_ahead_of_its_time() {
        let after = ReplayProgress { notified: 10, ..replay() };
        assert_eq!(ReplayProgress { ahead: AHEAD, ..after }.step(), ReplayStep::Wait);
        assert_eq!(ReplayProgress { ahead: AHEAD / 2, ..after }.step(), ReplayStep::Schedule(75));
        assert_eq!(ReplayProgress { rate: 0.1, ..after }.step(), ReplayStep::Schedule(1));
        assert_eq!(ReplayProgress { rate: 1e6, ..after }.step(), ReplayStep::Schedule(500));
        assert_eq!(ReplayProgress { scheduled: 2_000, ..after }.step(), ReplayStep::Wait);
    }

    #[test]
    fn it_is_finished_when_the_last_letter_has_ended() {
        assert_eq!(ReplayProgress { planned: 0, dead: 5, ..replay() }.step(), ReplayStep::Finish);
        assert_eq!(ReplayProgress { planned: 0, scheduled: 1, ..replay() }.step(), ReplayStep::Wait);
    }
}
