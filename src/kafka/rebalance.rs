//! How the consumer thread answers what happens to its partitions.
//!
//! A rebalance is deferred: the callback only recorded it, librdkafka waits, and polling goes on, so that the membership outlives a
//! drain of any length. librdkafka keeps every partition paused while it waits, kept ones too; the worker goes on with what it has.
//!
//! `incremental_unassign` commits what is stored for the partitions that it removes, and the group goes on only after that
//! commit (`rd_kafka_assignment_serve_removals`). So the next owner starts where this one stopped, without a blocking commit here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::TopicPartitionListElem;

use super::consumer::{Assignment, ConsumerError, ConsumerEvent};
use super::context;
use super::offsets::{self, Start, Watermarks};
use super::poller::{Comparison, Poller, TopicSearch};
use crate::config::{OnLostOffsets, StartFrom};
use crate::core::record::{Offset, Partition, Session};

/// How long the thread waits for brokers before it polls again.
const BROKER_TIMEOUT: Duration = Duration::from_secs(3);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A topic that is missing for longer was not just recreated.
const TOPIC_GONE_AFTER: Duration = Duration::from_mins(1);
const LOOK_FOR_TOPIC_EVERY: Duration = Duration::from_secs(5);

impl Poller {
    pub(super) fn assigned(&mut self, partitions: &[Partition]) {
        self.assignments.await_offsets(partitions);
        self.due.answer_assignment = true;
        self.due.read_starts = Some(Instant::now());
    }

    pub(super) fn revoked(&mut self, partitions: &[Partition]) {
        let deadline = Instant::now() + self.drain_limit;
        let draining = self.assignments.revoke(partitions, deadline);
        for partition in &draining {
            self.outbox.forget_records(*partition);
        }
        if !draining.is_empty() {
            self.outbox.push(ConsumerEvent::Revoking(draining));
        }
    }

    pub(super) fn lost(&mut self, partitions: &[Partition]) {
        let known = self.assignments.lose(partitions);
        self.forget_stored_offsets(partitions);
        self.unassign(partitions);
        for partition in &known {
            self.outbox.forget_records(*partition);
        }
        if !known.is_empty() {
            self.outbox.push(ConsumerEvent::Lost(known));
        }
    }

    pub(super) fn client_error(&mut self, code: Option<RDKafkaErrorCode>, reason: String) {
        let class = context::error_class(code);
        let now = Instant::now();
        match class {
            "out_of_range" => {
                let left = self.assignments.positions().into_keys().collect();
                self.due.compare_positions = Some(Comparison { due: now, left });
            }
            "unknown_topic" => {
                self.due.look_for_topic.get_or_insert(TopicSearch { missing_since: now, next_look: now });
            }
            "transport" => self.suspect_brokers(now, &reason),
            "authorization" => self.fail(ConsumerError::Unauthorized(reason.clone())),
            _ => {}
        }
        self.outbox.error(class, reason);
    }

    /// Before any partition was added that this consumer could be given.
    pub(super) fn count_partitions(&mut self, now: Instant) {
        if self.due.count_partitions.is_none_or(|due| due > now) {
            return;
        }
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), BROKER_TIMEOUT);
        let counted = metadata.ok().and_then(|metadata| {
            let topic = metadata.topics().first().filter(|topic| topic.error().is_none())?;
            i32::try_from(topic.partitions().len()).ok()
        });
        self.first_partitions = counted;
        self.due.count_partitions = counted.is_none().then(|| Instant::now() + RETRY_AFTER);
    }

    /// Starts the partitions whose start offset can be read. The others stay unassigned for the time being, but librdkafka gets its
    /// answer: one partition without a leader must not hold up the group.
    pub(super) fn read_starts(&mut self, now: Instant) {
        if self.due.count_partitions.is_some() || self.due.read_starts.is_none_or(|due| due > now) {
            return;
        }
        let unread = self.assignments.unread();
        let starts = self.starts(&unread);
        self.assign(&starts);
        self.due.read_starts = (!self.assignments.unread().is_empty()).then(|| Instant::now() + RETRY_AFTER);
    }

    fn starts(&mut self, partitions: &[Partition]) -> BTreeMap<Partition, Start> {
        let mut starts = BTreeMap::new();
        if partitions.is_empty() {
            return starts;
        }
        let read = offsets::committed(&self.consumer, &self.topic, partitions, BROKER_TIMEOUT);
        let committed = match read {
            Ok(committed) => committed,
            Err(error) => {
                let message = format!("the committed offsets cannot be read: {error}");
                self.outbox.error("offsets", message);
                return starts;
            }
        };
        for (partition, marks) in self.watermarks(partitions) {
            let Some(committed) = committed.get(&partition) else {
                continue;
            };
            let start = if self.rewinds_until.is_some_and(|until| Instant::now() < until) {
                Start::Rewound(marks.low)
            } else {
                offsets::decide(*committed, marks, self.start_from(partition))
            };
            if self.accept(partition, start).is_some() {
                self.report_start(partition, start);
                starts.insert(partition, start);
            } else {
                self.assignments.abandon(partition);
            }
        }
        starts
    }

    /// All that is in a partition which was added since this consumer began has come since.
    fn start_from(&self, partition: Partition) -> StartFrom {
        match self.first_partitions {
            Some(count) if partition.0 >= count => StartFrom::Earliest,
            _ => self.start_from,
        }
    }

    fn watermarks(&mut self, partitions: &[Partition]) -> BTreeMap<Partition, Watermarks> {
        let (marks, error) = offsets::watermarks(&self.consumer, &self.topic, partitions, BROKER_TIMEOUT);
        if let Some(error) = error {
            let message = format!("the watermarks cannot be read: {error}");
            self.outbox.error("offsets", message);
        }
        marks
    }

    /// Where to begin, unless the configuration says to stop rather than to pass over a gap.
    fn accept(&mut self, partition: Partition, start: Start) -> Option<Offset> {
        match start {
            Start::Committed(offset) | Start::First(offset) | Start::Rewound(offset) => Some(offset),
            Start::Lost { at, .. } if self.on_lost_offsets == OnLostOffsets::Earliest => Some(at),
            Start::Lost { at, count } => {
                self.report_start(partition, start);
                self.fail(ConsumerError::OffsetsLost { partition, low: at, count });
                None
            }
        }
    }

    fn report_start(&mut self, partition: Partition, start: Start) {
        match start {
            Start::Committed(_) | Start::First(_) => {}
            Start::Rewound(offset) => {
                let message = format!(
                    "partition {partition} is read again from {offset}: its topic was created again, or cut short of the position"
                );
                self.outbox.error("out_of_range", message);
            }
            Start::Lost { count, .. } => self.outbox.push(ConsumerEvent::OffsetsLost { partition, count }),
        }
    }

    fn assign(&mut self, starts: &BTreeMap<Partition, Start>) {
        if starts.is_empty() && !self.due.answer_assignment {
            return;
        }
        let offsets = starts.iter().map(|(partition, start)| (*partition, start.offset())).collect();
        let assigned = context::list_at(&self.topic, &offsets).and_then(|list| self.consumer.incremental_assign(&list));
        if let Err(error) = assigned {
            self.outbox.error("group", format!("the assignment was refused: {error}"));
            return;
        }
        self.due.answer_assignment = false;
        let partitions: Vec<Partition> = starts.keys().copied().collect();
        // Messages that were fetched before this are dropped by librdkafka, and fetched again.
        self.pause(&partitions);
        let assignments = offsets
            .iter()
            .map(|(partition, start)| Assignment {
                partition: *partition,
                session: self.assignments.begin(*partition, *start),
                start: *start,
            })
            .collect::<Vec<_>>();
        for (partition, start) in starts {
            self.commit_choice(*partition, *start);
        }
        // A member that gets nothing, because others have all partitions, has its answer too.
        if !assignments.is_empty() || self.assignments.is_empty() {
            self.outbox.push(ConsumerEvent::Assigned(assignments));
        }
    }

    /// Commits a start that is not committed yet: until then it is known here alone, and the next owner would choose another, past
    /// records that are nobody's by then.
    fn commit_choice(&mut self, partition: Partition, start: Start) {
        match start {
            Start::Committed(_) => {}
            Start::First(offset) | Start::Lost { at: offset, .. } => self.store(partition, offset),
            Start::Rewound(offset) => {
                self.store(partition, offset);
                self.commit_back(partition, offset);
            }
        }
    }

    /// Of what is stored librdkafka commits in passing only what is above its own last commit. Should this come late, after another
    /// owner has begun, the group goes back to the beginning of the log, which loses nothing.
    fn commit_back(&mut self, partition: Partition, offset: Offset) {
        let committed = context::list_at(&self.topic, &BTreeMap::from([(partition, offset)]))
            .and_then(|list| self.consumer.commit(&list, CommitMode::Async));
        if let Err(error) = committed {
            self.outbox.error("offsets", format!("the start of partition {partition} cannot be committed: {error}"));
        }
    }

    pub(super) fn finish_revocation(&mut self, now: Instant) {
        let Some((partitions, late)) = self.assignments.finish_revocation(now) else {
            return;
        };
        if !late.is_empty() {
            let message = format!("partitions {late:?} were given back before they were drained");
            self.outbox.error("drain_overrun", message);
        }
        self.store_offsets();
        self.unassign(&partitions);
    }

    /// Answers a revoke. librdkafka refuses the whole list for one partition that it was never told to assign.
    fn unassign(&mut self, partitions: &[Partition]) {
        let ours: BTreeSet<Partition> = match self.consumer.assignment() {
            Ok(list) => context::partitions(&list).into_iter().collect(),
            Err(_) => partitions.iter().copied().collect(),
        };
        let assigned = partitions.iter().copied().filter(|one| ours.contains(one));
        let list = context::list(&self.topic, assigned);
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            self.outbox.error("group", format!("the unassignment was refused: {error}"));
        }
    }

    /// For a close: nobody will release what still drains.
    pub(super) fn give_back_at_once(&mut self) {
        let now = Instant::now() + self.drain_limit + Duration::from_secs(1);
        if let Some((partitions, _)) = self.assignments.finish_revocation(now) {
            self.unassign(&partitions);
        }
    }

    pub(super) fn restart(&mut self, partition: Partition, session: Session, from: Offset) {
        if !self.assignments.is_current(partition, session) {
            return;
        }
        if self.assignments.is_revoking(partition) {
            // Whoever asks for a restart has dropped its work.
            self.assignments.release(partition, session);
            return;
        }
        self.pause(&[partition]);
        match self.set_position(partition, from) {
            Ok(()) => self.begin_again(partition, from),
            Err(error) => {
                self.outbox.error("offsets", error);
                self.due.restarts.insert(partition, (session, from));
                self.due.retry_restarts = Some(Instant::now() + RETRY_AFTER);
            }
        }
    }

    fn begin_again(&mut self, partition: Partition, start: Offset) {
        self.outbox.forget_records(partition);
        let session = self.assignments.begin(partition, start);
        self.outbox.push(ConsumerEvent::Assigned(vec![Assignment { partition, session, start }]));
    }

    pub(super) fn retry_restarts(&mut self, now: Instant) {
        if self.due.retry_restarts.take_if(|due| *due <= now).is_some() {
            for (partition, (session, from)) in std::mem::take(&mut self.due.restarts) {
                self.restart(partition, session, from);
            }
        }
    }

    /// Goes on at `offset`. A partition that librdkafka stopped after an error cannot be sought, only assigned again; while a revoke
    /// is under way that would be taken as the answer to it, so it waits.
    fn set_position(&mut self, partition: Partition, offset: Offset) -> Result<(), String> {
        let at =
            context::list_at(&self.topic, &BTreeMap::from([(partition, offset)])).map_err(|error| error.to_string())?;
        let sought = self
            .consumer
            .seek_partitions(at.clone(), BROKER_TIMEOUT)
            .and_then(|list| list.elements().iter().try_for_each(TopicPartitionListElem::error));
        let Err(error) = sought else {
            return Ok(());
        };
        if self.assignments.is_giving_back() {
            return Err(format!("partition {partition} cannot go on at {offset} yet: {error}"));
        }
        self.unassign(&[partition]);
        self.consumer
            .incremental_assign(&at)
            .map_err(|error| format!("partition {partition} cannot go on at {offset}: {error}"))
    }

    /// A position turned out not to be there. librdkafka does not say of which partition, and has stopped fetching it: all are
    /// compared with their watermarks, and all are set going again.
    pub(super) fn compare_positions(&mut self, now: Instant) {
        let Some(Comparison { left, .. }) = self.due.compare_positions.take_if(|comparison| comparison.due <= now)
        else {
            return;
        };
        let mut positions = self.assignments.positions();
        positions.retain(|partition, _| left.contains(partition));
        let partitions: Vec<Partition> = positions.keys().copied().collect();
        if partitions.is_empty() {
            return;
        }
        let marks = self.watermarks(&partitions);
        positions.retain(|partition, position| {
            let start = marks.get(partition).map(|marks| offsets::decide(Some(*position), *marks, self.start_from));
            !start.is_some_and(|start| self.reposition(*partition, start))
        });
        if !positions.is_empty() {
            let left = positions.into_keys().collect();
            self.due.compare_positions = Some(Comparison { due: Instant::now() + RETRY_AFTER, left });
        }
    }

    /// False when it has to be tried again.
    fn reposition(&mut self, partition: Partition, start: Start) -> bool {
        let Some(offset) = self.accept(partition, start) else {
            return true;
        };
        if let Start::Rewound(_) = start {
            // Offsets that were used begin again: for the worker that is another ownership.
            self.forget_stored_offsets(&[partition]);
            self.pause(&[partition]);
        }
        if let Err(error) = self.set_position(partition, offset) {
            self.outbox.error("offsets", error);
            return false;
        }
        self.report_start(partition, start);
        if let Start::Rewound(_) = start {
            self.outbox.push(ConsumerEvent::Lost(vec![partition]));
            self.begin_again(partition, offset);
            self.commit_choice(partition, start);
        } else {
            self.assignments.skip_to(partition, offset);
        }
        true
    }

    /// A topic that stays away is a reason to stop.
    pub(super) fn look_for_topic(&mut self, now: Instant) {
        let Some(search) = self.due.look_for_topic else {
            return;
        };
        if search.next_look > now {
            return;
        }
        let found = self
            .consumer
            .fetch_metadata(Some(&self.topic), BROKER_TIMEOUT)
            .map(|metadata| metadata.topics().iter().all(|topic| topic.error().is_none()));
        match found {
            Ok(true) => {
                self.due.look_for_topic = None;
                return;
            }
            Ok(false) if now.duration_since(search.missing_since) >= TOPIC_GONE_AFTER => {
                self.fail(ConsumerError::TopicGone(self.topic.clone()));
            }
            Ok(false) | Err(_) => {}
        }
        self.due.look_for_topic = Some(TopicSearch { next_look: Instant::now() + LOOK_FOR_TOPIC_EVERY, ..search });
    }

    /// A topic that was created again is read from its beginning, by another consumer.
    pub(super) fn look_at_identity(&mut self, now: Instant) {
        if !self.identity.has_changed(&self.consumer, &self.topic, now) {
            return;
        }
        // What is stored is of the topic that was deleted, or of the middle of this one.
        self.lost(&self.assignments.all());
        self.fail(ConsumerError::TopicReplaced(self.topic.clone()));
    }
}
