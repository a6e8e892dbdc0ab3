//! What waits for one ledger statement: a batch is what has gathered while the last was under way.

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Duration;

use super::failure::LedgerFailure;
use super::input::{Now, Ticket};
use super::retry::Schedule;

/// Bounds of one statement.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    pub rows: usize,
    pub bytes: usize,
}

/// The queue of one operation, with at most one batch under way.
#[derive(Debug)]
pub struct BatchQueue {
    limits: BatchLimits,
    waiting: VecDeque<Ticket>,
    under_way: Vec<Ticket>,
    /// Rows of the next batch: halved when a batch held bad data, doubled again by each success.
    rows: usize,
    failures: u32,
    held_until: Option<Now>,
}

/// What became of a batch that failed as a whole.
#[derive(Debug, PartialEq, Eq)]
pub enum BatchFailure {
    /// It waits in the queue again and is sent after this long.
    Held { wait: Duration, error: String },
    /// It waits in the queue again and is sent in smaller parts at once.
    Repeated,
    /// It was this one record alone: the database will never store it.
    BadRecord { ticket: Ticket, error: String },
}

impl BatchQueue {
    #[must_use]
    pub fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            under_way: Vec::new(),
            rows: limits.rows,
            failures: 0,
            held_until: None,
        }
    }

    pub fn push(&mut self, ticket: Ticket) {
        self.waiting.push_back(ticket);
    }

    /// Sends nothing before this time.
    pub fn hold(&mut self, until: Now) {
        self.held_until = Some(until);
    }

    /// The batch that was sent and not answered yet.
    #[must_use]
    pub fn under_way(&self) -> &[Ticket] {
        &self.under_way
    }

    #[must_use]
    pub fn is_under_way(&self, ticket: Ticket) -> bool {
        self.under_way.contains(&ticket)
    }

    /// Records that wait or are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last batch found Postgres away, and none has succeeded since.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// When a held batch may be sent.
    #[must_use]
    pub fn wake_at(&self) -> Option<Now> {
        self.held_until.filter(|_| self.under_way.is_empty() && !self.waiting.is_empty())
    }

    /// Takes the next batch, if none is under way and none is held. Empty otherwise.
    ///
    /// `describe` gives identity and bytes of a record, `None` when it is not to be sent any more. A statement may not
    /// touch a row twice, so the second copy of an identity stays for the next batch.
    pub fn next<I: Eq + Hash>(&mut self, now: Now, describe: impl Fn(Ticket) -> Option<(I, usize)>) -> Vec<Ticket> {
        if !self.under_way.is_empty() || self.held_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        self.held_until = None;
        let mut identities = foldhash::HashSet::default();
        let mut bytes = 0;
        let mut passed_over = Vec::new();
        while self.under_way.len() < self.rows {
            let Some(ticket) = self.waiting.pop_front() else { break };
            let Some((identity, size)) = describe(ticket) else { continue };
            let too_large = bytes + size > self.limits.bytes && !self.under_way.is_empty();
            if too_large || identities.contains(&identity) {
                passed_over.push(ticket);
                if too_large {
                    break;
                }
                continue;
            }
            bytes += size;
            identities.insert(identity);
            self.under_way.push(ticket);
        }
        for ticket in passed_over.into_iter().rev() {
            self.waiting.push_front(ticket);
        }
        self.under_way.clone()
    }

    /// The batch under way was answered; gives its tickets.
    pub fn succeeded(&mut self) -> Vec<Ticket> {
        self.failures = 0;
        self.rows = self.rows.saturating_mul(2).min(self.limits.rows);
        std::mem::take(&mut self.under_way)
    }

    /// The batch under way failed as a whole.
    pub fn failed(
        &mut self,
        now: Now,
        failure: LedgerFailure,
        schedule: &Schedule,
        random: &mut fastrand::Rng,
    ) -> BatchFailure {
        let batch = std::mem::take(&mut self.under_way);
        match (failure, batch.as_slice()) {
            (LedgerFailure::BadData(error), [ticket]) => {
                self.rows = self.rows.saturating_mul(2).min(self.limits.rows);
                BatchFailure::BadRecord { ticket: *ticket, error }
            }
            (LedgerFailure::BadData(_), _) => {
                self.rows = (batch.len() / 2).max(1);
                self.return_to_queue(&batch);
                BatchFailure::Repeated
            }
            (LedgerFailure::Conflict(_), _) => {
                self.return_to_queue(&batch);
                BatchFailure::Repeated
            }
            (LedgerFailure::Outage(error), _) => {
                self.return_to_queue(&batch);
                self.failures = self.failures.saturating_add(1);
                let wait = schedule.wait(self.failures, None, random);
                self.held_until = Some(now + wait);
                BatchFailure::Held { wait, error }
            }
        }
    }

    fn return_to_queue(&mut self, batch: &[Ticket]) {
        for ticket in batch.iter().rev() {
            self.waiting.push_front(*ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::Identity;

    fn queue(rows: usize, bytes: usize, tickets: u64) -> BatchQueue {
        let mut queue = BatchQueue::new(BatchLimits { rows, bytes });
        (0..tickets).for_each(|ticket| queue.push(Ticket(ticket)));
        queue
    }

    /// The tens of a ticket are its order, and every record has ten bytes.
    #[allow(clippy::unnecessary_wraps)]
    fn describe(ticket: Ticket) -> Option<(Identity, usize)> {
        let order_id = (ticket.0 / 10).to_string();
        Some((Identity { order_id: order_id.into(), event_type: "T".into() }, 10))
    }

    fn each_its_own(ticket: Ticket) -> Option<(Identity, usize)> {
        describe(Ticket(ticket.0 * 10))
    }

    const NOW: Now = Now::ZERO;

    #[test]
    fn a_batch_is_bounded_in_rows_and_bytes_and_a_large_record_goes_alone() {
        assert_eq!(queue(3, 1_000, 5).next(NOW, each_its_own).len(), 3);
        assert_eq!(queue(9, 25, 5).next(NOW, each_its_own).len(), 2);
        assert_eq!(queue(9, 5, 5).next(NOW, each_its_own).len(), 1);
    }

    #[test]
    fn two_copies_of_an_identity_never_share_a_batch_and_keep_their_order() {
        let mut queue = queue(10, 1_000, 12);
        assert_eq!(queue.next(NOW, describe), [Ticket(0), Ticket(10)]);
        assert!(queue.next(NOW, describe).is_empty());
        queue.succeeded();
        assert_eq!(queue.next(NOW, describe), [Ticket(1), Ticket(11)]);
    }

    #[test]
    fn bad_data_is_narrowed_down_to_the_one_record() {
        let schedule = Schedule::new(Duration::from_secs(1), Duration::from_secs(1));
        let mut random = fastrand::Rng::with_seed(1);
        let mut queue = queue(1_000, 100_000, 1_000);
        let (mut stored, mut bad, mut statements) = (0, Vec::new(), 0);
        loop {
            let batch = queue.next(NOW, each_its_own);
            if batch.is_empty() {
                break;
            }
            statements += 1;
            if batch.contains(&Ticket(617)) {
                let failure = LedgerFailure::BadData("22021".into());
                if let BatchFailure::BadRecord { ticket, .. } = queue.failed(NOW, failure, &schedule, &mut random) {
                    bad.push(ticket);
                }
            } else {
                stored += queue.succeeded().len();
            }
        }
        assert_eq!((stored, bad), (999, vec![Ticket(617)]));
        assert!(statements < 60, "{statements}");
    }

    #[test]
    fn an_outage_holds_the_batch_in_order() {
        let schedule = Schedule::new(Duration::from_secs(1), Duration::from_secs(1));
        let mut random = fastrand::Rng::with_seed(1);
        let mut queue = queue(10, 1_000, 3);
        let batch = queue.next(NOW, each_its_own);
        let BatchFailure::Held { wait, .. } =
            queue.failed(NOW, LedgerFailure::Outage("gone".into()), &schedule, &mut random)
        else {
            panic!()
        };
        assert!(wait > Duration::ZERO);
        assert!(queue.next(NOW, each_its_own).is_empty());
        assert_eq!(queue.wake_at(), Some(wait));
        assert_eq!(queue.next(wait, each_its_own), batch);
    }
}
