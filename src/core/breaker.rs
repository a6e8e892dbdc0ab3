//! Whether the channel is tried at all: opens when it is away, lets one record after another probe, closes when it works again.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::input::{Now, Ticket};
use super::key::LaneKey;
use super::retry::Schedule;

/// Answers that are looked back on, in number and in time.
const WINDOW_ANSWERS: usize = 200;
const WINDOW: Duration = Duration::from_mins(1);

#[derive(Clone, Debug)]
pub struct BreakerConfig {
    /// Outages in a row that open it.
    pub outages: u32,
    /// Distinct keys that fail, at least, and their share of all keys that open it together.
    pub failing_keys: usize,
    pub failing_percent: usize,
    /// Waits before the first, second, … probe.
    pub probes: Schedule,
}

/// What an attempt says about the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It works; what it said concerns the record.
    Works,
    /// It answered, and failed: the record may be to blame, or the channel.
    Fails,
    /// The same of a record that is known to fail while the channel works for others: it says nothing about the channel.
    FailsAsEver,
    /// It is away.
    Away,
}

/// What may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    Everything,
    OneProbe,
    Nothing,
}

/// The label of `breaker_state{state}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    #[default]
    Closed,
    Open,
    HalfOpen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Opened,
    Closed,
}

#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    phase: Phase,
    outages: u32,
    window: Window,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    /// `failures` probes in a row did not work.
    Open {
        until: Now,
        failures: u32,
    },
    Probing {
        probe: Ticket,
        failures: u32,
    },
}

impl Breaker {
    #[must_use]
    pub fn new(config: BreakerConfig) -> Self {
        Self { config, phase: Phase::Closed, outages: 0, window: Window::default() }
    }

    #[must_use]
    pub fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::Probing { .. } => BreakerState::HalfOpen,
        }
    }

    #[must_use]
    pub fn permit(&self, now: Now) -> Permit {
        match self.phase {
            Phase::Closed => Permit::Everything,
            Phase::Open { until, .. } if now >= until => Permit::OneProbe,
            Phase::Open { .. } | Phase::Probing { .. } => Permit::Nothing,
        }
    }

    /// When the next probe may start.
    #[must_use]
    pub fn wake_at(&self) -> Option<Now> {
        match self.phase {
            Phase::Open { until, .. } => Some(until),
            Phase::Closed | Phase::Probing { .. } => None,
        }
    }

    /// A delivery was started, under the permit that was given.
    pub fn started(&mut self, ticket: Ticket) {
        if let Phase::Open { failures, .. } = self.phase {
            self.phase = Phase::Probing { probe: ticket, failures };
        }
    }

    #[must_use]
    pub fn is_probe(&self, ticket: Ticket) -> bool {
        matches!(self.phase, Phase::Probing { probe, .. } if probe == ticket)
    }

    /// An attempt ended. While open only the probe counts: all others began before.
    pub fn answered(
        &mut self,
        now: Now,
        (ticket, key): (Ticket, LaneKey),
        answer: Answer,
        random: &mut fastrand::Rng,
    ) -> Option<Change> {
        match self.phase {
            Phase::Closed => {
                self.outages = if answer == Answer::Away { self.outages.saturating_add(1) } else { 0 };
                match answer {
                    Answer::Works => self.window.push(now, key, true),
                    Answer::Fails | Answer::Away => self.window.push(now, key, false),
                    Answer::FailsAsEver => {}
                }
                if !self.is_due_to_open() {
                    return None;
                }
                self.open(now, 1, random);
                Some(Change::Opened)
            }
            Phase::Probing { probe, failures } if probe == ticket => {
                match answer {
                    Answer::Works => {
                        self.phase = Phase::Closed;
                        self.outages = 0;
                        self.window = Window::default();
                        return Some(Change::Closed);
                    }
                    Answer::Fails | Answer::Away => self.open(now, failures.saturating_add(1), random),
                    // No reason to let the next one wait longer.
                    Answer::FailsAsEver => self.open(now, failures, random),
                }
                None
            }
            Phase::Probing { .. } | Phase::Open { .. } => None,
        }
    }

    /// A delivery will never be answered: another record probes at once.
    pub fn abandoned(&mut self, now: Now, ticket: Ticket) {
        if let Phase::Probing { probe, failures } = self.phase
            && probe == ticket
        {
            self.phase = Phase::Open { until: now, failures };
        }
    }

    fn is_due_to_open(&self) -> bool {
        let (failing, keys) = (self.window.failing_keys, self.window.keys.len());
        let too_many_fail = failing >= self.config.failing_keys && failing * 100 >= keys * self.config.failing_percent;
        self.outages >= self.config.outages || too_many_fail
    }

    /// At least half of the bound, so that a growing wait grows.
    fn open(&mut self, now: Now, failures: u32, random: &mut fastrand::Rng) {
        let wait = self.config.probes.bound(failures) / 2 + self.config.probes.wait(failures, None, random) / 2;
        self.phase = Phase::Open { until: now + wait, failures };
    }
}

/// The last answers, counted by key: one key that always fails is one key, however often it is tried.
#[derive(Debug, Default)]
struct Window {
    answers: VecDeque<(Now, LaneKey, bool)>,
    keys: HashMap<LaneKey, Tally>,
    /// Keys with failures and without a success.
    failing_keys: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    works: usize,
    fails: usize,
}

impl Tally {
    fn is_failing(self) -> bool {
        self.fails > 0 && self.works == 0
    }
}

impl Window {
    fn push(&mut self, now: Now, key: LaneKey, works: bool) {
        self.answers.push_back((now, key, works));
        self.adjust(key, |tally| if works { tally.works += 1 } else { tally.fails += 1 });
        while let Some((at, key, works)) = self.answers.front().copied() {
            if self.answers.len() <= WINDOW_ANSWERS && now.saturating_sub(at) <= WINDOW {
                return;
            }
            self.answers.pop_front();
            self.adjust(key, |tally| if works { tally.works -= 1 } else { tally.fails -= 1 });
        }
    }

    fn adjust(&mut self, key: LaneKey, change: impl FnOnce(&mut Tally)) {
        let tally = self.keys.entry(key).or_default();
        let was_failing = tally.is_failing();
        change(tally);
        let is_failing = tally.is_failing();
        if tally.works + tally.fails == 0 {
            self.keys.remove(&key);
        }
        self.failing_keys = self.failing_keys + usize::from(is_failing) - usize::from(was_failing);
    }
}

impl BreakerState {
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(BreakerConfig {
            outages: 3,
            failing_keys: 4,
            failing_percent: 50,
            probes: Schedule::new(Duration::from_secs(1), Duration::from_secs(8)),
        })
    }

    struct Driver {
        breaker: Breaker,
        random: fastrand::Rng,
        now: Now,
    }

    impl Driver {
        fn new() -> Self {
            Self { breaker: breaker(), random: fastrand::Rng::with_seed(1), now: Now::ZERO }
        }

        fn answer(&mut self, key: u64, answer: Answer) -> Option<Change> {
            self.breaker.answered(self.now, (Ticket(key), LaneKey(key)), answer, &mut self.random)
        }

        fn open(&mut self) {
            let changes: Vec<_> = (0..3).filter_map(|key| self.answer(key, Answer::Away)).collect();
            assert_eq!(changes, [Change::Opened]);
        }

        /// The next probe, answered; gives how long it was waited for.
        fn probe(&mut self, answer: Answer) -> (Duration, Option<Change>) {
            let at = self.breaker.wake_at().unwrap();
            let waited = at.saturating_sub(self.now);
            assert_eq!(self.breaker.permit(at.saturating_sub(Duration::from_nanos(1))), Permit::Nothing);
            self.now = at;
            assert_eq!(self.breaker.permit(at), Permit::OneProbe);
            self.breaker.started(Ticket(99));
            assert_eq!(self.breaker.permit(at), Permit::Nothing);
            (waited, self.answer(99, answer))
        }
    }

    #[test]
    fn outages_in_a_row_open_it_and_a_probe_that_works_closes_it() {
        let mut driver = Driver::new();
        assert_eq!(driver.answer(1, Answer::Away), None);
        assert_eq!(driver.answer(1, Answer::Fails), None);
        assert_eq!(driver.answer(1, Answer::Away), None);
        assert_eq!(driver.answer(1, Answer::Away), None);
        assert_eq!(driver.answer(1, Answer::Away), Some(Change::Opened));
        assert_eq!(driver.answer(2, Answer::Works), None, "it began before");
        assert_eq!(driver.probe(Answer::Works).1, Some(Change::Closed));
        assert_eq!(driver.breaker.permit(driver.now), Permit::Everything);
    }

    #[test]
    fn waits_for_probes_grow_to_their_maximum() {
        let mut driver = Driver::new();
        driver.open();
        for (failures, answer) in (1..).zip([Answer::Away, Answer::Fails, Answer::Away, Answer::Fails, Answer::Away]) {
            let (waited, change) = driver.probe(answer);
            let bound = driver.breaker.config.probes.bound(failures);
            assert!(waited >= bound / 2 && waited <= bound, "{waited:?} of {bound:?}");
            assert_eq!(change, None);
        }
    }

    #[test]
    fn one_key_that_always_fails_never_opens_it() {
        let mut driver = Driver::new();
        for _ in 0..1_000 {
            assert_eq!(driver.answer(7, Answer::Fails), None);
        }
    }

    #[test]
    fn keys_that_are_known_to_fail_open_nothing_and_make_no_probe_wait_longer() {
        let mut driver = Driver::new();
        for key in 0..100 {
            assert_eq!(driver.answer(key, Answer::FailsAsEver), None);
        }
        driver.open();
        for _ in 0..20 {
            let (waited, change) = driver.probe(Answer::FailsAsEver);
            assert!(waited <= driver.breaker.config.probes.bound(1), "{waited:?}");
            assert_eq!(change, None);
        }
        assert_eq!(driver.probe(Answer::Works).1, Some(Change::Closed));
    }

    #[test]
    fn many_keys_that_fail_open_it_and_a_few_among_many_do_not() {
        let mut driver = Driver::new();
        for key in 0..40 {
            assert_eq!(driver.answer(key, if key % 4 == 0 { Answer::Fails } else { Answer::Works }), None);
        }
        let mut driver = Driver::new();
        let changes: Vec<_> = (0..4).filter_map(|key| driver.answer(key, Answer::Fails)).collect();
        assert_eq!(changes, [Change::Opened]);
    }

    #[test]
    fn failures_of_long_ago_do_not_count() {
        let mut driver = Driver::new();
        for key in 0..100 {
            driver.now += Duration::from_secs(25);
            assert_eq!(driver.answer(key, Answer::Fails), None);
        }
        assert!(driver.breaker.window.keys.len() <= 3);
    }

    #[test]
    fn a_probe_that_is_never_answered_makes_room_for_another() {
        let mut driver = Driver::new();
        driver.open();
        driver.now = driver.breaker.wake_at().unwrap();
        driver.breaker.started(Ticket(5));
        driver.breaker.abandoned(driver.now, Ticket(4));
        assert_eq!(driver.breaker.permit(driver.now), Permit::Nothing);
        driver.breaker.abandoned(driver.now, Ticket(5));
        assert_eq!(driver.breaker.permit(driver.now), Permit::OneProbe);
    }
}
