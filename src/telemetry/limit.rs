//! Lines that would otherwise repeat for every record.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Kinds come partly from outside (event types): with more than this, all are forgotten and start afresh.
const MOST_KINDS: usize = 256;

/// Lets one line of each kind through in each interval.
pub(super) struct RateLimit {
    interval: Duration,
    kinds: Mutex<HashMap<Box<str>, Kind>>,
}

struct Kind {
    last_line: Instant,
    suppressed: u64,
}

impl RateLimit {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, kinds: Mutex::default() }
    }

    /// How many lines of this kind were suppressed since its last one, if it may have one at `now`.
    pub(super) fn admit(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = kinds.get_mut(kind) {
            if now.saturating_duration_since(seen.last_line) < self.interval {
                seen.suppressed += 1;
                return None;
            }
            seen.last_line = now;
            return Some(std::mem::take(&mut seen.suppressed));
        }
        if kinds.len() >= MOST_KINDS {
            kinds.clear();
        }
        let seen = Kind { last_line: now, suppressed: 0 };
        kinds.insert(kind.into(), seen);
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_line_in_each_interval() {
        let limit = RateLimit::new(Duration::from_mins(1));
        let start = Instant::now();
        let steps = [
            ("ledger", 0, Some(0)),
            ("ledger", 1, None),
            ("channel", 1, Some(0)),
            ("ledger", 59, None),
            ("ledger", 60, Some(2)),
            ("ledger", 61, None),
            ("ledger", 200, Some(1)),
        ];
        for (kind, second, expected) in steps {
            let now = start + Duration::from_secs(second);
            assert_eq!(limit.admit(kind, now), expected, "{kind} at {second}");
        }
    }

    #[test]
    fn kinds_without_end_take_bounded_memory() {
        let limit = RateLimit::new(Duration::from_mins(1));
        for kind in 0..10 * MOST_KINDS {
            limit.admit(&kind.to_string(), Instant::now());
        }
        assert!(limit.kinds.lock().unwrap().len() <= MOST_KINDS);
    }
}
