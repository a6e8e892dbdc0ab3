//! The partitions of this consumer and what each may do: plain bookkeeping, no client.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::back_pressure::Flow;
use crate::core::record::{Offset, Partition, Session};

#[derive(Debug, Default)]
pub(super) struct Assignments {
    held: BTreeMap<Partition, Held>,
    /// Assigned by Kafka, start offset not known yet.
    unread: BTreeSet<Partition>,
    last_session: u64,
    revocation: Option<Revocation>,
}

#[derive(Debug)]
struct Held {
    session: Session,
    /// The lowest offset that may be delivered next: a message below it was delivered before.
    next: Offset,
    mode: Mode,
    /// Whether librdkafka was told to pause it.
    paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Reported as assigned; the worker has not said that it may be fetched.
    Waiting,
    Fetching,
    /// Being given back.
    Revoking,
}

/// A revoke that Kafka waits for.
#[derive(Debug)]
struct Revocation {
    all: Vec<Partition>,
    draining: BTreeSet<Partition>,
    /// Given back then, released or not.
    deadline: Instant,
}

/// Partitions to pause and to resume so that librdkafka does what is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PauseChanges {
    pub(super) pause: Vec<Partition>,
    /// With the offset at which each goes on.
    pub(super) resume: BTreeMap<Partition, Offset>,
}

impl Assignments {
    /// Of the consumer with this number in the process: no session of an earlier one has the name of one of these.
    pub(super) fn of_consumer(number: u32) -> Self {
        Self { last_session: u64::from(number) << 32, ..Self::default() }
    }

    pub(super) fn await_offsets(&mut self, partitions: &[Partition]) {
        self.unread.extend(partitions);
    }

    /// Whether Kafka has assigned nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.unread.is_empty()
    }

    pub(super) fn all(&self) -> Vec<Partition> {
        self.held.keys().chain(&self.unread).copied().collect()
    }

    pub(super) fn unread(&self) -> Vec<Partition> {
        self.unread.iter().copied().collect()
    }

    /// Forgets a partition that may not be started.
    pub(super) fn abandon(&mut self, partition: Partition) {
        self.unread.remove(&partition);
    }

    /// Begins a session of a partition, paused until [`Assignments::fetch`]. Whatever session it had is over.
    pub(super) fn begin(&mut self, partition: Partition, start: Offset) -> Session {
        self.unread.remove(&partition);
        self.last_session += 1;
        let session = Session(self.last_session);
        let held = Held { session, next: start, mode: Mode::Waiting, paused: true };
        self.held.insert(partition, held);
        session
    }

    pub(super) fn fetch(&mut self, partition: Partition, session: Session) {
        if let Some(held) = self.current(partition, session)
            && held.mode == Mode::Waiting
        {
            held.mode = Mode::Fetching;
        }
    }

    pub(super) fn is_current(&self, partition: Partition, session: Session) -> bool {
        self.held.get(&partition).is_some_and(|held| held.session == session)
    }

    /// Whether Kafka waits for partitions.
    pub(super) fn is_giving_back(&self) -> bool {
        self.revocation.is_some()
    }

    pub(super) fn is_revoking(&self, partition: Partition) -> bool {
        self.held.get(&partition).is_some_and(|held| held.mode == Mode::Revoking)
    }

    /// The session that a polled message belongs to; `None` when it must not be delivered.
    pub(super) fn deliver(&mut self, partition: Partition, offset: Offset) -> Option<Session> {
        let held = self.held.get_mut(&partition)?;
        if held.mode != Mode::Fetching || offset < held.next {
            return None;
        }
        held.next = offset.next();
        Some(held.session)
    }

    /// The next offset of each partition that is not being given back.
    pub(super) fn positions(&self) -> BTreeMap<Partition, Offset> {
        self.held
            .iter()
            .filter(|(_, held)| held.mode != Mode::Revoking)
            .map(|(partition, held)| (*partition, held.next))
            .collect()
    }

    /// Goes on at a later offset in the same session.
    pub(super) fn skip_to(&mut self, partition: Partition, offset: Offset) {
        if let Some(held) = self.held.get_mut(&partition) {
            held.next = held.next.max(offset);
        }
    }

    /// Starts giving partitions back; returns those that the worker has to drain.
    pub(super) fn revoke(&mut self, partitions: &[Partition], deadline: Instant) -> Vec<Partition> {
        let mut draining = Vec::new();
        for partition in partitions {
            self.unread.remove(partition);
            if let Some(held) = self.held.get_mut(partition) {
                held.mode = Mode::Revoking;
                draining.push(*partition);
            }
        }
        let revocation =
            self.revocation.get_or_insert_with(|| Revocation { all: Vec::new(), draining: BTreeSet::new(), deadline });
        revocation.all.extend(partitions);
        revocation.draining.extend(&draining);
        draining
    }

    /// Partitions that belong to somebody else already; returns those that the worker knows of.
    pub(super) fn lose(&mut self, partitions: &[Partition]) -> Vec<Partition> {
        let mut known = Vec::new();
        for partition in partitions {
            self.unread.remove(partition);
            if self.held.remove(partition).is_some() {
                known.push(*partition);
            }
            if let Some(revocation) = &mut self.revocation {
                revocation.draining.remove(partition);
            }
        }
        known
    }

    pub(super) fn release(&mut self, partition: Partition, session: Session) {
        if self.is_current(partition, session)
            && let Some(revocation) = &mut self.revocation
        {
            revocation.draining.remove(&partition);
        }
    }

    /// The partitions of a revocation that is complete or overdue, with those that were not released.
    pub(super) fn finish_revocation(&mut self, now: Instant) -> Option<(Vec<Partition>, Vec<Partition>)> {
        let revocation =
            self.revocation.take_if(|revocation| revocation.draining.is_empty() || revocation.deadline <= now)?;
        for partition in &revocation.all {
            self.held.remove(partition);
        }
        Some((revocation.all, revocation.draining.into_iter().collect()))
    }

    /// What must change so that exactly the fetching partitions are fetched; none while all are paused. Applied by the caller.
    pub(super) fn pause_changes(&mut self, flow: Flow) -> PauseChanges {
        let mut changes = PauseChanges::default();
        for (partition, held) in &mut self.held {
            let pause = flow == Flow::Paused || held.mode != Mode::Fetching;
            if pause == held.paused {
                continue;
            }
            held.paused = pause;
            if pause {
                changes.pause.push(*partition);
            } else {
                changes.resume.insert(*partition, held.next);
            }
        }
        changes
    }

    fn current(&mut self, partition: Partition, session: Session) -> Option<&mut Held> {
        self.held.get_mut(&partition).filter(|held| held.session == session)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const P: Partition = Partition(3);
    const Q: Partition = Partition(4);

    fn later() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    fn fetching(partition: Partition, start: i64) -> (Assignments, Session) {
        let mut assignments = Assignments::default();
        let session = assignments.begin(partition, Offset(start));
        assignments.fetch(partition, session);
        (assignments, session)
    }

    #[test]
    fn nothing_is_delivered_before_the_worker_said_fetch() {
        let mut assignments = Assignments::default();
        let session = assignments.begin(P, Offset(5));
        assert_eq!(assignments.deliver(P, Offset(5)), None);
        assignments.fetch(P, Session(session.0 + 1));
        assert_eq!(assignments.deliver(P, Offset(5)), None);
        assignments.fetch(P, session);
        assert_eq!(assignments.deliver(P, Offset(5)), Some(session));
    }

    #[test]
    fn a_message_is_delivered_once_and_gaps_are_no_fault() {
        let (mut assignments, session) = fetching(P, 5);
        let delivered =
            [4, 5, 5, 9, 8, 10].map(|offset| assignments.deliver(P, Offset(offset)).map(|of| (of == session, offset)));
        assert_eq!(delivered, [None, Some((true, 5)), None, Some((true, 9)), None, Some((true, 10))]);
    }

    #[test]
    fn each_session_of_a_partition_is_another_one() {
        let (mut assignments, first) = fetching(P, 5);
        let second = assignments.begin(P, Offset(0));
        assert!(second > first);
        assert!(!assignments.is_current(P, first));
        assignments.fetch(P, first);
        assert_eq!(assignments.deliver(P, Offset(0)), None);
    }

    #[test]
    fn a_revocation_ends_when_the_last_partition_is_released() {
        let (mut assignments, session) = fetching(P, 0);
        let other = assignments.begin(Q, Offset(0));
        assignments.await_offsets(&[Partition(7)]);
        let draining = assignments.revoke(&[P, Q, Partition(7)], later());
        assert_eq!(draining, [P, Q]);
        assert_eq!(assignments.unread(), []);
        assert_eq!(assignments.deliver(P, Offset(0)), None);

        let now = Instant::now();
        assignments.release(P, Session(99));
        assignments.release(Q, other);
        assert_eq!(assignments.finish_revocation(now), None);
        assignments.release(P, session);
        let finished = assignments.finish_revocation(now);
        assert_eq!(finished, Some((vec![P, Q, Partition(7)], vec![])));
        assert!(!assignments.is_current(P, session));
    }

    #[test]
    fn a_partition_that_is_not_released_in_time_is_given_back_all_the_same() {
        let (mut assignments, _) = fetching(P, 0);
        let deadline = later();
        assignments.revoke(&[P], deadline);
        assert_eq!(assignments.finish_revocation(deadline), Some((vec![P], vec![P])));
    }

    #[test]
    fn a_revocation_of_partitions_the_worker_never_knew_ends_at_once() {
        let mut assignments = Assignments::default();
        assignments.await_offsets(&[P]);
        assert_eq!(assignments.revoke(&[P], later()), []);
        let finished = assignments.finish_revocation(Instant::now());
        assert_eq!(finished, Some((vec![P], vec![])));
    }

    #[test]
    fn a_second_revoke_joins_the_one_under_way() {
        let (mut assignments, session) = fetching(P, 0);
        let other = assignments.begin(Q, Offset(0));
        assignments.revoke(&[P], later());
        assignments.revoke(&[Q], later());
        assignments.release(P, session);
        assert_eq!(assignments.finish_revocation(Instant::now()), None);
        assignments.release(Q, other);
        let finished = assignments.finish_revocation(Instant::now());
        assert_eq!(finished, Some((vec![P, Q], vec![])));
    }

    #[test]
    fn what_is_lost_while_it_drains_holds_up_nothing() {
        let (mut assignments, session) = fetching(P, 0);
        assignments.revoke(&[P], later());
        assert_eq!(assignments.lose(&[P, Q]), [P]);
        assert!(!assignments.is_current(P, session));
        let finished = assignments.finish_revocation(Instant::now());
        assert_eq!(finished, Some((vec![P], vec![])));
    }

    #[test]
    fn a_partition_is_fetched_when_it_may_and_nothing_holds_it() {
        let (mut assignments, _) = fetching(P, 0);
        assignments.begin(Q, Offset(0));
        let resume = PauseChanges { resume: BTreeMap::from([(P, Offset(0))]), ..PauseChanges::default() };
        let pause = PauseChanges { pause: vec![P], ..PauseChanges::default() };
        assert_eq!(assignments.pause_changes(Flow::Open), resume);
        for flow in [Flow::Open, Flow::Waiting] {
            assert_eq!(assignments.pause_changes(flow), PauseChanges::default());
        }
        assert_eq!(assignments.pause_changes(Flow::Paused), pause);
        assert_eq!(assignments.pause_changes(Flow::Paused), PauseChanges::default());
        assert_eq!(assignments.pause_changes(Flow::Open), resume);
    }
}
