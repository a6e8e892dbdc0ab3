//! How records are held back: for a moment by leaving them where they are, for longer by pausing.
//!
//! A pause throws away what librdkafka has fetched ahead, so one for each full queue would have every record fetched several times.
//! Not to poll costs nothing, but answers no rebalance either: it may only be short.

use std::time::{Duration, Instant};

/// How long records are held back before their partitions are paused. A rebalance is answered so much later at most.
const PATIENCE: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Flow {
    #[default]
    Open,
    /// Nothing is polled and nothing is paused.
    Waiting,
    /// All partitions are paused, and polled for all else.
    Paused,
}

#[derive(Debug, Default)]
pub(super) struct BackPressure {
    /// The worker asked for it.
    is_held: bool,
    since: Option<Instant>,
}

/// Whether records wait that the worker did not take yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    Yes,
    No,
}

impl BackPressure {
    pub(super) fn hold(&mut self) {
        self.is_held = true;
    }

    pub(super) fn let_go(&mut self) {
        self.is_held = false;
    }

    pub(super) fn flow(&mut self, now: Instant, blocked: Blocked) -> Flow {
        if !self.is_held && blocked == Blocked::No {
            self.since = None;
            return Flow::Open;
        }
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) < PATIENCE { Flow::Waiting } else { Flow::Paused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_paused_only_when_records_are_held_back_for_long() {
        let mut pressure = BackPressure::default();
        let start = Instant::now();
        let mut flow = |after, blocked| pressure.flow(start + after, blocked);
        assert_eq!(flow(Duration::ZERO, Blocked::No), Flow::Open);
        assert_eq!(flow(Duration::ZERO, Blocked::Yes), Flow::Waiting);
        assert_eq!(flow(PATIENCE / 2, Blocked::No), Flow::Open);
        assert_eq!(flow(PATIENCE, Blocked::Yes), Flow::Waiting);
        assert_eq!(flow(PATIENCE * 2, Blocked::Yes), Flow::Paused);
        assert_eq!(flow(PATIENCE * 3, Blocked::No), Flow::Open);
    }

    #[test]
    fn the_worker_holds_records_back_as_a_full_queue_does() {
        let mut pressure = BackPressure::default();
        let start = Instant::now();
        pressure.hold();
        assert_eq!(pressure.flow(start, Blocked::No), Flow::Waiting);
        assert_eq!(pressure.flow(start + PATIENCE, Blocked::Yes), Flow::Paused);
        pressure.let_go();
        assert_eq!(pressure.flow(start + PATIENCE, Blocked::Yes), Flow::Paused);
        assert_eq!(pressure.flow(start + PATIENCE, Blocked::No), Flow::Open);
    }
}
