//! What waits for one ledger statement: a batch is what has gathered while those before were under way.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hash};
use std::time::Duration;

use super::effect::Serial;
use super::failure::LedgerFailure;
use super::input::{Now, Ticket};
use super::retry::Schedule;

/// Bounds of one statement.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    pub rows: usize,
    pub bytes: usize,
    /// Batches that may be under way.
    pub at_once: usize,
}

/// The queue of one operation. No two batches under way have the same identity.
#[derive(Debug)]
pub struct BatchQueue {
    limits: BatchLimits,
    waiting: VecDeque<Ticket>,
    under_way: Vec<Batch>,
    /// Hashes of those under way: of two that happen to be equal one waits for the other.
    identities: foldhash::HashSet<u64>,
    hasher: foldhash::fast::FixedState,
    /// Rows of the next batch: halved when a batch held bad data, doubled again by each success.
    rows: usize,
    failures: u32,
    held_until: Option<Now>,
}

/// What was sent and not answered yet.
#[derive(Debug, Default)]
struct Batch {
    serial: Serial,
    tickets: Vec<Ticket>,
    identities: Vec<u64>,
    /// How many rows were allowed.
    rows: usize,
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
            identities: foldhash::HashSet::default(),
            hasher: foldhash::fast::FixedState::default(),
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

    /// Records that were sent and not answered yet.
    pub fn under_way(&self) -> impl Iterator<Item = Ticket> {
        self.under_way.iter().flat_map(|batch| batch.tickets.iter().copied())
    }

    #[must_use]
    pub fn is_under_way(&self, ticket: Ticket) -> bool {
        self.under_way().any(|other| other == ticket)
    }

    /// Of the batch that was sent first of those under way.
    #[cfg(test)]
    pub fn first_serial(&self) -> Serial {
        self.under_way.first().map(|batch| batch.serial).unwrap_or_default()
    }

    /// Records that wait or are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.under_way.iter().map(|batch| batch.tickets.len()).sum::<usize>()
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

    /// Takes the next batch, if one may be sent now. Empty otherwise.
    ///
    /// `describe` gives identity and bytes of a record, `None` when it is not to be sent any more. A statement may not
    /// touch a row twice, and two may not race for it: the second copy of an identity stays until the first was answered.
    pub fn next<I: Hash>(
        &mut self,
        now: Now,
        serial: Serial,
        describe: impl Fn(Ticket) -> Option<(I, usize)>,
    ) -> Vec<Ticket> {
        if !self.may_send(now) {
            return Vec::new();
        }
        self.held_until = None;
        let mut batch = Batch { serial, tickets: Vec::new(), identities: Vec::new(), rows: self.rows };
        let mut bytes = 0;
        let mut passed_over = Vec::new();
        // There may be many copies of what is under way: while it is, each turn comes here.
        let looked_at = if self.under_way.is_empty() { self.waiting.len() } else { self.rows };
        for _ in 0..looked_at {
            if batch.tickets.len() == self.rows {
                break;
            }
            let Some(ticket) = self.waiting.pop_front() else { break };
            let Some((identity, size)) = describe(ticket) else { continue };
            if bytes + size > self.limits.bytes && !batch.tickets.is_empty() {
                passed_over.push(ticket);
                break;
            }
            let identity = self.hasher.hash_one(identity);
            if !self.identities.insert(identity) {
                passed_over.push(ticket);
                continue;
            }
            bytes += size;
            batch.identities.push(identity);
            batch.tickets.push(ticket);
        }
        for ticket in passed_over.into_iter().rev() {
            self.waiting.push_front(ticket);
        }
        let tickets = batch.tickets.clone();
        if !tickets.is_empty() {
            self.under_way.push(batch);
        }
        tickets
    }

    /// Beside another one a batch is sent when it is full, so that statements stay large, and as long as all goes well: bad data is
    /// narrowed down, and Postgres probed, by one at a time.
    fn may_send(&self, now: Now) -> bool {
        if self.held_until.is_some_and(|until| now < until) {
            return false;
        }
        let goes_well = self.failures == 0 && self.rows == self.limits.rows;
        let has_room = self.under_way.len() < self.limits.at_once;
        self.under_way.is_empty() || goes_well && has_room && self.waiting.len() >= self.rows
    }

    /// The batch with this serial was answered, or the only one; gives its tickets.
    pub fn succeeded(&mut self, serial: Option<Serial>) -> Vec<Ticket> {
        let batch = self.take(serial);
        self.failures = 0;
        self.enlarge(batch.rows);
        batch.tickets
    }

    /// The batch with this serial, or the only one, failed as a whole.
    pub fn failed(
        &mut self,
        now: Now,
        serial: Option<Serial>,
        failure: LedgerFailure,
        schedule: &Schedule,
        random: &mut fastrand::Rng,
    ) -> BatchFailure {
        let Batch { rows, tickets: batch, .. } = self.take(serial);
        match (failure, batch.as_slice()) {
            (LedgerFailure::BadData(error), [ticket]) => {
                self.enlarge(rows);
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

    fn take(&mut self, serial: Option<Serial>) -> Batch {
        let is_it = |batch: &Batch| serial.is_none_or(|serial| batch.serial == serial);
        let place = self.under_way.iter().position(is_it);
        let batch = place.map(|place| self.under_way.remove(place)).unwrap_or_default();
        for identity in &batch.identities {
            self.identities.remove(identity);
        }
        batch
    }

    /// Unless the rows were halved since the batch was sent: it was not the one with bad data.
    fn enlarge(&mut self, rows: usize) {
        if rows == self.rows {
            self.rows = self.rows.saturating_mul(2).min(self.limits.rows);
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
        let mut queue = BatchQueue::new(BatchLimits { rows, bytes, at_once: 1 });
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
    const SERIAL: Serial = Serial(1);

    #[test]
    fn a_batch_is_bounded_in_rows_and_bytes_and_a_large_record_goes_alone() {
        assert_eq!(queue(3, 1_000, 5).next(NOW, SERIAL, each_its_own).len(), 3);
        assert_eq!(queue(9, 25, 5).next(NOW, SERIAL, each_its_own).len(), 2);
        assert_eq!(queue(9, 5, 5).next(NOW, SERIAL, each_its_own).len(), 1);
    }

    #[test]
    fn two_copies_of_an_identity_never_share_a_batch_and_keep_their_order() {
        let mut queue = queue(10, 1_000, 12);
        assert_eq!(queue.next(NOW, SERIAL, describe), [Ticket(0), Ticket(10)]);
        assert!(queue.next(NOW, SERIAL, describe).is_empty());
        queue.succeeded(None);
        assert_eq!(queue.next(NOW, SERIAL, describe), [Ticket(1), Ticket(11)]);
    }

    #[test]
    fn bad_data_is_narrowed_down_to_the_one_record() {
        let schedule = Schedule::new(Duration::from_secs(1), Duration::from_secs(1));
        let mut random = fastrand::Rng::with_seed(1);
        let mut queue = queue(1_000, 100_000, 1_000);
        let (mut stored, mut bad, mut statements) = (0, Vec::new(), 0);
        loop {
            let batch = queue.next(NOW, SERIAL, each_its_own);
            if batch.is_empty() {
                break;
            }
            statements += 1;
            if batch.contains(&Ticket(617)) {
                let failure = LedgerFailure::BadData("22021".into());
                if let BatchFailure::BadRecord { ticket, .. } = queue.failed(NOW, None, failure, &schedule, &mut random)
                {
                    bad.push(ticket);
                }
            } else {
                stored += queue.succeeded(None).len();
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
        let batch = queue.next(NOW, SERIAL, each_its_own);
        let BatchFailure::Held { wait, .. } =
            queue.failed(NOW, None, LedgerFailure::Outage("gone".into()), &schedule, &mut random)
        else {
            panic!()
        };
        assert!(wait > Duration::ZERO);
        assert!(queue.next(NOW, SERIAL, each_its_own).is_empty());
        assert_eq!(queue.wake_at(), Some(wait));
        assert_eq!(queue.next(wait, SERIAL, each_its_own), batch);
    }

    /// Two at once of ten rows each.
    fn two_at_once(tickets: u64) -> BatchQueue {
        let mut queue = BatchQueue::new(BatchLimits { rows: 10, bytes: 1_000, at_once: 2 });
        (0..tickets).for_each(|ticket| queue.push(Ticket(ticket)));
        queue
    }

    fn tickets(range: std::ops::Range<u64>) -> Vec<Ticket> {
        range.map(Ticket).collect()
    }

    #[test]
    fn a_second_batch_goes_along_when_it_is_full_and_each_is_answered_for_itself() {
        let mut queue = two_at_once(34);
        assert_eq!(queue.next(NOW, Serial(1), each_its_own), tickets(0..10));
        assert_eq!(queue.next(NOW, Serial(2), each_its_own), tickets(10..20));
        assert!(queue.next(NOW, Serial(3), each_its_own).is_empty(), "three at once");
        assert_eq!(queue.succeeded(Some(Serial(2))), tickets(10..20));
        assert_eq!(queue.next(NOW, Serial(4), each_its_own), tickets(20..30));
        assert_eq!(queue.succeeded(Some(Serial(1))), tickets(0..10));
        assert!(queue.next(NOW, Serial(5), each_its_own).is_empty(), "four of ten");
        assert_eq!(queue.succeeded(Some(Serial(4))), tickets(20..30));
        assert_eq!(queue.next(NOW, Serial(6), each_its_own), tickets(30..34));
        assert_eq!(queue.len(), 4);
    }

    #[test]
    fn no_copy_of_an_identity_under_way_is_in_the_second_batch() {
        let mut queue = two_at_once(0);
        let orders = (0..200_u64).step_by(10).map(|first| first + first / 100);
        let copies: Vec<u64> = (0..10).map(|copy| copy * 10 + 5).collect();
        let (first, second): (Vec<u64>, Vec<u64>) = orders.partition(|ticket| *ticket < 100);
        first.iter().chain(&copies).chain(&second).for_each(|ticket| queue.push(Ticket(*ticket)));
        assert_eq!(queue.next(NOW, Serial(1), describe).len(), 10);
        assert!(queue.next(NOW, Serial(2), describe).is_empty(), "copies only");
        queue.succeeded(Some(Serial(1)));
        let next = queue.next(NOW, Serial(3), describe);
        assert_eq!(next, copies.into_iter().map(Ticket).collect::<Vec<_>>());
        assert_eq!(queue.next(NOW, Serial(4), describe).len(), 10);
    }

    #[test]
    fn after_a_failure_one_batch_is_sent_at_a_time_until_all_goes_well() {
        let schedule = Schedule::new(Duration::from_secs(1), Duration::from_secs(1));
        let mut random = fastrand::Rng::with_seed(1);
        let bad = || LedgerFailure::BadData("22021".into());
        let mut queue = two_at_once(45);
        queue.next(NOW, Serial(1), each_its_own);
        queue.next(NOW, Serial(2), each_its_own);
        assert_eq!(queue.failed(NOW, Some(Serial(1)), bad(), &schedule, &mut random), BatchFailure::Repeated);
        assert!(queue.next(NOW, Serial(3), each_its_own).is_empty());
        // It was sent with as many rows as the one that failed: that it was stored says nothing of the bad data.
        queue.succeeded(Some(Serial(2)));
        assert_eq!(queue.next(NOW, Serial(4), each_its_own), tickets(0..5));
        assert!(queue.next(NOW, Serial(5), each_its_own).is_empty());
        queue.succeeded(Some(Serial(4)));
        assert_eq!(queue.next(NOW, Serial(6), each_its_own).len(), 10);
        assert_eq!(queue.next(NOW, Serial(7), each_its_own).len(), 10);

        let away = || LedgerFailure::Outage("gone".into());
        let BatchFailure::Held { wait, .. } = queue.failed(NOW, Some(Serial(7)), away(), &schedule, &mut random) else {
            panic!()
        };
        queue.failed(NOW, Some(Serial(6)), away(), &schedule, &mut random);
        let later = wait.max(queue.wake_at().unwrap());
        assert_eq!(queue.next(later, Serial(8), each_its_own).len(), 10);
        assert!(queue.next(later, Serial(9), each_its_own).is_empty());
        queue.succeeded(Some(Serial(8)));
        assert_eq!(queue.next(later, Serial(10), each_its_own).len(), 10);
        assert_eq!(queue.next(later, Serial(11), each_its_own).len(), 10);
    }
}
