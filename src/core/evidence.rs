//! Whether it is the record or the channel: a channel that works for other keys leaves the record to blame.

use super::input::Now;
use super::key::LaneKey;

/// The last successes of two distinct keys: enough to know, for any key, when another last succeeded.
#[derive(Debug, Default)]
pub struct Evidence {
    newest: Option<(LaneKey, Now)>,
    newest_of_another: Option<(LaneKey, Now)>,
}

impl Evidence {
    pub fn succeeded(&mut self, key: LaneKey, now: Now) {
        if let Some(before) = self.newest.filter(|(other, _)| *other != key) {
            self.newest_of_another = Some(before);
        }
        self.newest = Some((key, now));
    }

    /// Whether the channel succeeded for another key after this time.
    #[must_use]
    pub fn works_for_others(&self, key: LaneKey, since: Now) -> bool {
        [self.newest, self.newest_of_another].into_iter().flatten().any(|(other, at)| other != key && at > since)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against all successes, remembered.
        #[test]
        fn it_knows_what_a_full_history_knows(keys in prop::collection::vec(0u64..4, 0..30), key in 0u64..4, since in 0u64..30) {
            let mut evidence = Evidence::default();
            for (at, key) in (1..).zip(&keys) {
                evidence.succeeded(LaneKey(*key), Now::from_secs(at));
            }
            let expected = (1..).zip(&keys).any(|(at, other)| *other != key && at > since);
            prop_assert_eq!(evidence.works_for_others(LaneKey(key), Now::from_secs(since)), expected);
        }
    }
}
