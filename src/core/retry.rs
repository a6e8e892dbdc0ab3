//! When to try again: exponential backoff with full jitter.
//!
//! The only file that knows the `backoff` crate. Its randomisation is off and its clock decides nothing: jitter comes from the
//! engine's seed, time from its inputs.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::exponential::ExponentialBackoff;
use backoff::{Clock, SystemClock};

/// The longest wait for which a gateway's `Retry-After` is believed: a record may not be put off for years by one header.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// The upper bounds of the waits after the first, second, … failure.
#[derive(Clone, Debug)]
pub struct Schedule {
    bounds: Vec<Duration>,
}

impl Schedule {
    /// Doubles from `initial` to `max`.
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        let mut backoff = ExponentialBackoff {
            current_interval: initial,
            initial_interval: initial,
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: max,
            // Never read without a `max_elapsed_time`.
            start_time: SystemClock::default().now(),
            max_elapsed_time: None,
            clock: SystemClock::default(),
        };
        let mut bounds: Vec<Duration> = Vec::new();
        while let Some(bound) = backoff.next_backoff() {
            let bound = bound.min(max);
            bounds.push(bound);
            // 64 doublings exceed any duration: the bound ends the loop where `max` is out of reach.
            if bound >= max || bounds.len() >= 64 {
                break;
            }
        }
        Self { bounds }
    }

    /// The longest wait after this many failures in a row (from 1).
    #[must_use]
    pub fn bound(&self, failures: u32) -> Duration {
        let index = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
        let last = self.bounds.last().copied().unwrap_or_default();
        self.bounds.get(index).copied().unwrap_or(last)
    }

    /// A wait between nothing and the bound, and never shorter than `retry_after`.
    pub fn wait(&self, failures: u32, retry_after: Option<Duration>, random: &mut fastrand::Rng) -> Duration {
        let jittered = self.bound(failures).mul_f64(random.f64());
        match retry_after {
            // The jitter is added, so that those who were told the same second do not come together.
            Some(retry_after) => retry_after.min(MAX_RETRY_AFTER) + jittered.min(Duration::from_secs(1)),
            None => jittered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_maximum() {
        let schedule = Schedule::new(Duration::from_millis(500), Duration::from_secs(30));
        let bounds: Vec<_> = (1..=9).map(|failures| schedule.bound(failures).as_millis()).collect();
        assert_eq!(bounds, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(
            Schedule::new(Duration::from_secs(5), Duration::from_secs(5)).bound(u32::MAX),
            Duration::from_secs(5)
        );
    }

    #[test]
    fn jitter_stays_below_the_bound_and_above_retry_after() {
        let schedule = Schedule::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut random = fastrand::Rng::with_seed(7);
        for failures in 1..100 {
            assert!(schedule.wait(failures, None, &mut random) <= schedule.bound(failures));
            let told = Duration::from_secs(3);
            let wait = schedule.wait(failures, Some(told), &mut random);
            assert!(wait >= told && wait <= told + Duration::from_secs(1));
        }
        assert!(schedule.wait(1, Some(Duration::MAX), &mut random) <= MAX_RETRY_AFTER + Duration::from_secs(1));
    }
}
