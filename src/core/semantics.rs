//! What becomes of a delivery whose effect is unknown: its owner died, or no answer came.

use serde::{Deserialize, Serialize};

use super::failure::Reason;

/// Ownerships in a row that ended uncleanly and without progress, from which on the next owner runs carefully what it takes over.
const CRASH_LOOP_AFTER: u32 = 3;
/// Starts in a row that did not finish, from which on a record is taken to abort the process.
const QUARANTINE_AFTER: u16 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Semantics {
    /// It is delivered again, with the same idempotency key.
    #[default]
    AtLeastOnce,
    /// It is never repeated: it ends as a dead letter of the reason `uncertain`, and only an operator decides. Costs one more
    /// statement, batched, before each delivery.
    AtMostOnce,
}

/// What starts that did not finish say about a record that is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    None,
    /// A process may have died of it: it runs alone.
    Suspect,
    /// It is given up on.
    Convicted {
        reason: Reason,
        error: &'static str,
    },
}

const UNCERTAIN: Suspicion =
    Suspicion::Convicted { reason: Reason::Uncertain, error: "a delivery began and its end is unknown" };
const CRASH_LOOP: Suspicion =
    Suspicion::Convicted { reason: Reason::CrashLoop, error: "its deliveries did not outlive their process" };

/// Whether the owners of a partition die of it.
#[must_use]
pub fn is_crash_loop(unclean_ends: u32) -> bool {
    unclean_ends >= CRASH_LOOP_AFTER
}

impl Semantics {
    #[must_use]
    pub fn suspicion(self, unfinished_starts: u16) -> Suspicion {
        match self {
            _ if unfinished_starts == 0 => Suspicion::None,
            Self::AtMostOnce => UNCERTAIN,
            Self::AtLeastOnce if unfinished_starts >= QUARANTINE_AFTER => CRASH_LOOP,
            Self::AtLeastOnce => Suspicion::Suspect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unfinished_starts_say() {
        let (once, least) = (Semantics::AtMostOnce, Semantics::AtLeastOnce);
        for (starts, at_least_once, at_most_once) in [
            (0, Suspicion::None, Suspicion::None),
            (1, Suspicion::Suspect, UNCERTAIN),
            (2, CRASH_LOOP, UNCERTAIN),
            (u16::MAX, CRASH_LOOP, UNCERTAIN),
        ] {
            assert_eq!((least.suspicion(starts), once.suspicion(starts)), (at_least_once, at_most_once), "{starts}");
        }
    }

    #[test]
    fn the_third_end_without_progress_makes_a_crash_loop() {
        assert_eq!([0, 2, 3, 9].map(is_crash_loop), [false, false, true, true]);
    }
}
