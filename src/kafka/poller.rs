//! The consumer thread: polls, serves commands, and hands records over in batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset as NativeOffset, TopicPartitionList, TopicPartitionListElem};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{Receiver, Sender};

use super::assignment::{Assignments, PauseChanges};
use super::back_pressure::{BackPressure, Blocked, Flow};
use super::brokers::BrokerSearch;
use super::client;
use super::confirmation::Confirmations;
use super::consumer::{ConsumerCommand, ConsumerError, ConsumerEvent, ConsumerHealth, Joining};
use super::context::{self, Context, Notice};
use super::membership::{self, AnsweredCommits};
use super::outbox::Outbox;
use super::queue::Queue;
use super::record;
use super::topic_identity::TopicIdentity;
use crate::config::{GroupProtocol, OnLostOffsets, Settings, StartFrom};
use crate::core::record::{Offset, Partition, Record, Session};

/// How long a poll waits for a message, and so how long a command may wait.
const POLL_WAIT: Duration = Duration::from_millis(20);

/// How long a turn takes that polls nothing.
const STILL_WAIT: Duration = Duration::from_millis(2);

/// How often a group that has not answered yet is looked at.
const MEMBERSHIP_INTERVAL: Duration = Duration::from_millis(100);

/// A turn hands over what is at hand, up to one of these.
const TURN_RECORDS: usize = 500;
const TURN_BYTES: usize = 1 << 20;

/// The engine aborts what runs at the drain deadline and releases; this is for an engine that does not.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

pub(super) struct Poller {
    /// Before the consumer, which these two may not outlive.
    pub(super) confirmations: Confirmations,
    pub(super) identity: TopicIdentity,
    pub(super) consumer: BaseConsumer<Context>,
    pub(super) topic: String,
    pub(super) start_from: StartFrom,
    /// How many partitions the topic had when this consumer began; asked for when it matters.
    pub(super) first_partitions: Option<i32>,
    /// Until then whatever is committed may be of a topic that was deleted, and is not gone on from.
    pub(super) rewinds_until: Option<Instant>,
    pub(super) on_lost_offsets: OnLostOffsets,
    pub(super) drain_limit: Duration,
    pub(super) assignments: Assignments,
    pub(super) outbox: Outbox,
    pub(super) due: Due,
    commands: Receiver<ConsumerCommand>,
    context: Arc<Context>,
    health: Arc<ConsumerHealth>,
    pressure: BackPressure,
    flow: Flow,
    /// Stored at the end of the turn: one call instead of one per batch of settlements.
    stores: BTreeMap<Partition, Offset>,
    life: Life,
}

/// What is to be tried, again if need be, while polling goes on.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Librdkafka waits for the answer to an assignment; everything else of the group waits for it.
    pub(super) answer_assignment: bool,
    ask_membership: Option<Instant>,
    /// Start offsets wait for it.
    pub(super) count_partitions: Option<Instant>,
    pub(super) read_starts: Option<Instant>,
    pub(super) compare_positions: Option<Comparison>,
    pub(super) look_for_topic: Option<TopicSearch>,
    pub(super) look_for_brokers: Option<BrokerSearch>,
    pub(super) restarts: BTreeMap<Partition, (Session, Offset)>,
    pub(super) retry_restarts: Option<Instant>,
}

/// Partitions whose positions are to be compared with their watermarks.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) due: Instant,
    pub(super) left: BTreeSet<Partition>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct TopicSearch {
    pub(super) missing_since: Instant,
    pub(super) next_look: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    /// A fatal error was reported: said once.
    Failed,
    Closing,
}

#[derive(Default)]
struct Turn {
    batches: BTreeMap<Partition, (Session, Vec<Record>)>,
    records: usize,
    bytes: usize,
}

impl Poller {
    pub(super) fn new(
        settings: &Settings,
        joining: Joining,
        (commands, events): (Receiver<ConsumerCommand>, Sender<ConsumerEvent>),
        health: Arc<ConsumerHealth>,
    ) -> Result<Self, ConsumerError> {
        let kafka = &settings.kafka;
        let consumer: BaseConsumer<Context> =
            client::consumer_config(kafka)?.create_with_context(Context::default()).map_err(client::creation_error)?;
        consumer.subscribe(&[&kafka.topic]).map_err(client::creation_error)?;
        let queue = || Queue::of(&consumer).map_err(client::creation_error);
        Ok(Self {
            confirmations: Confirmations::through(AnsweredCommits::through(queue()?)),
            identity: TopicIdentity::through(queue()?),
            context: Arc::clone(consumer.context()),
            consumer,
            topic: kafka.topic.clone(),
            start_from: kafka.start_from,
            first_partitions: None,
            rewinds_until: joining.rewinds_until,
            on_lost_offsets: kafka.on_lost_offsets,
            drain_limit: settings.delivery.drain_timeout + DRAIN_MARGIN,
            assignments: Assignments::of_consumer(joining.number),
            outbox: Outbox::new(events),
            due: Due {
                ask_membership: (kafka.group_protocol == GroupProtocol::Consumer).then(Instant::now),
                count_partitions: (kafka.start_from == StartFrom::Latest).then(Instant::now),
                ..Due::default()
            },
            commands,
            health,
            pressure: BackPressure::default(),
            flow: Flow::default(),
            stores: BTreeMap::new(),
            life: Life::Running,
        })
    }

    pub(super) fn run(mut self) {
        while self.life != Life::Closing {
            self.turn();
        }
        self.close();
    }

    fn turn(&mut self) {
        match self.flow {
            Flow::Open | Flow::Paused => self.poll(),
            Flow::Waiting => std::thread::sleep(STILL_WAIT),
        }
        self.health.polled();
        self.serve_notices();
        self.serve_commands();
        let now = Instant::now();
        self.ask_membership(now);
        self.count_partitions(now);
        self.read_starts(now);
        self.retry_restarts(now);
        self.confirm(now);
        self.compare_positions(now);
        self.look_for_topic(now);
        self.look_at_identity(now);
        self.look_for_brokers(now);
        self.finish_revocation(now);
        self.outbox.flush();
        self.apply_pauses();
        if self.outbox.is_abandoned() {
            self.life = Life::Closing;
        }
    }

    fn poll(&mut self) {
        let mut turn = Turn::default();
        let mut wait = POLL_WAIT;
        while turn.has_room() {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let record = record::from_message(&message);
                    drop(message);
                    turn.take(record, &mut self.assignments);
                }
                Some(Err(KafkaError::MessageConsumptionFatal(_))) => {
                    self.fail(match self.consumer.client().fatal_error() {
                        Some((code, reason)) if context::is_instance_id_taken(code) => {
                            ConsumerError::InstanceIdTaken(reason)
                        }
                        Some((_, reason)) => ConsumerError::Broken(reason),
                        None => ConsumerError::Broken("unknown".to_owned()),
                    });
                    break;
                }
                // The context recorded it, with the reason that is missing here.
                Some(Err(_)) => {}
            }
            wait = Duration::ZERO;
        }
        for (partition, (session, records)) in turn.batches {
            self.outbox.push(ConsumerEvent::Polled { partition, session, records });
        }
    }

    fn serve_notices(&mut self) {
        for notice in self.context.take() {
            match notice {
                Notice::Assigned(partitions) => self.assigned(&partitions),
                Notice::Revoked(partitions) => self.revoked(&partitions),
                Notice::Lost(partitions) => self.lost(&partitions),
                Notice::Committed(result) => self.outbox.push(ConsumerEvent::Committed { result }),
                Notice::Error { code, reason } => self.client_error(code, reason),
            }
        }
    }

    fn ask_membership(&mut self, now: Instant) {
        if self.due.ask_membership.is_none_or(|due| due > now) {
            return;
        }
        let is_member = membership::is_taken_in(&self.consumer);
        if is_member {
            self.outbox.push(ConsumerEvent::Joined);
        }
        self.due.ask_membership = (!is_member).then(|| now + MEMBERSHIP_INTERVAL);
    }

    fn serve_commands(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.serve(command),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.life = Life::Closing;
                    break;
                }
            }
        }
        self.store_offsets();
    }

    fn serve(&mut self, command: ConsumerCommand) {
        match command {
            ConsumerCommand::Fetch { partition, session } => {
                self.assignments.fetch(partition, session);
            }
            ConsumerCommand::StoreOffset { partition, session, offset } => {
                if self.assignments.is_current(partition, session) {
                    self.store(partition, offset);
                }
            }
            ConsumerCommand::Pause => self.pressure.hold(),
            ConsumerCommand::Resume => self.pressure.let_go(),
            ConsumerCommand::Release { partition, session } => {
                self.assignments.release(partition, session);
            }
            ConsumerCommand::Restart { partition, session, from } => {
                // What was stored is of the session that ends here.
                self.store_offsets();
                self.restart(partition, session, from);
            }
            ConsumerCommand::Confirm { assignments, answer } => self.confirmations.ask(assignments, answer),
            ConsumerCommand::Close => self.life = Life::Closing,
        }
    }

    pub(super) fn store(&mut self, partition: Partition, offset: Offset) {
        self.stores.insert(partition, offset);
    }

    /// Stores what gathered. The list form stores exactly these offsets; `store_offset` would add one.
    pub(super) fn store_offsets(&mut self) {
        if self.stores.is_empty() {
            return;
        }
        let stored = context::list_at(&self.topic, &std::mem::take(&mut self.stores)).and_then(|list| {
            let stored = self.consumer.store_offsets(&list);
            list.elements().iter().try_for_each(TopicPartitionListElem::error)?;
            stored
        });
        if let Err(error) = stored {
            self.outbox.error("store_offset", error.to_string());
        }
    }

    /// Makes librdkafka forget what is stored, so that unassigning commits nothing: it clears the mark of a lost assignment before
    /// it commits the offsets of the removed partitions.
    pub(super) fn forget_stored_offsets(&mut self, partitions: &[Partition]) {
        self.stores.retain(|partition, _| !partitions.contains(partition));
        let mut list: TopicPartitionList = context::list(&self.topic, partitions.iter().copied());
        let forgotten = list.set_all_offsets(NativeOffset::Invalid).and_then(|()| self.consumer.store_offsets(&list));
        if let Err(error) = forgotten {
            self.outbox.error("store_offset", error.to_string());
        }
    }

    fn apply_pauses(&mut self) {
        let blocked = if self.outbox.is_empty() { Blocked::No } else { Blocked::Yes };
        self.flow = self.pressure.flow(Instant::now(), blocked);
        let PauseChanges { pause, resume } = self.assignments.pause_changes(self.flow);
        self.pause(&pause);
        if !resume.is_empty()
            && let Err(error) = self.resume(&resume)
        {
            self.outbox.error("other", error.to_string());
        }
    }

    /// Resuming wakes nobody: a fetcher that found every partition paused sleeps for a second. Seeking wakes it.
    fn resume(&self, partitions: &BTreeMap<Partition, Offset>) -> KafkaResult<()> {
        let list = context::list_at(&self.topic, partitions)?;
        self.consumer.resume(&list)?;
        // Without waiting: one that cannot be sought is not fetched, and an error has told why.
        self.consumer.seek_partitions(list, Duration::ZERO).map(drop)
    }

    pub(super) fn pause(&mut self, partitions: &[Partition]) {
        if partitions.is_empty() {
            return;
        }
        let list = context::list(&self.topic, partitions.iter().copied());
        if let Err(error) = self.consumer.pause(&list) {
            self.outbox.error("other", error.to_string());
        }
    }

    /// Reports the first fatal error.
    pub(super) fn fail(&mut self, error: ConsumerError) {
        if self.life == Life::Running {
            self.life = Life::Failed;
            self.outbox.push(ConsumerEvent::Fatal(error));
        }
    }

    /// Dropping the consumer runs the last rebalance inside its callback, which commits what is stored, and leaves the group.
    fn close(mut self) {
        self.serve_notices();
        self.store_offsets();
        self.context.close();
        self.give_back_at_once();
        let Self { confirmations, identity, consumer, context, mut outbox, .. } = self;
        drop((confirmations, identity));
        drop(consumer);
        for notice in context.take() {
            if let Notice::Committed(result) = notice {
                outbox.push(ConsumerEvent::Committed { result });
            }
        }
        outbox.flush();
    }
}

impl Turn {
    fn has_room(&self) -> bool {
        self.records < TURN_RECORDS && self.bytes < TURN_BYTES
    }

    fn take(&mut self, record: Record, assignments: &mut Assignments) {
        let at = record.coordinates;
        let Some(session) = assignments.deliver(at.partition, at.offset) else {
            return;
        };
        self.records += 1;
        self.bytes += record.size();
        let batch = self.batches.entry(at.partition);
        batch.or_insert_with(|| (session, Vec::new())).1.push(record);
    }
}
