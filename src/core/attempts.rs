//! The failed attempts of a record since it came into memory: each is kept with its error, for whoever looks into it later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::input::Now;

/// More are not held in memory; the table keeps those of before.
const REMEMBERED: usize = 10;

/// One attempt that failed, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// 1 for the first.
    pub number: u32,
    /// How long ago it ended: the database knows the time.
    pub ago: Duration,
    pub took: Duration,
    pub class: &'static str,
    pub error: Arc<str>,
}

/// The last failed attempts of a record.
#[derive(Debug, Default)]
pub struct Attempts(VecDeque<(Now, FailedAttempt)>);

impl Attempts {
    /// Remembers an attempt that failed this moment.
    pub fn failed(&mut self, now: Now, attempt: FailedAttempt) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((now, attempt));
    }

    /// What is remembered, oldest first.
    #[must_use]
    pub fn as_of(&self, now: Now) -> Vec<FailedAttempt> {
        let aged =
            |(at, attempt): &(Now, FailedAttempt)| FailedAttempt { ago: now.saturating_sub(*at), ..attempt.clone() };
        self.0.iter().map(aged).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered_with_their_age() {
        let mut attempts = Attempts::default();
        for number in 1..=12 {
            let attempt = FailedAttempt {
                number,
                ago: Duration::ZERO,
                took: Duration::from_millis(7),
                class: "transient",
                error: "503".into(),
            };
            attempts.failed(Now::from_secs(number.into()), attempt);
        }
        let remembered = attempts.as_of(Now::from_secs(20));
        assert_eq!(remembered.len(), REMEMBERED);
        assert_eq!((remembered[0].number, remembered[0].ago), (3, Duration::from_secs(17)));
        assert_eq!((remembered[9].number, remembered[9].ago), (12, Duration::from_secs(8)));
    }
}
