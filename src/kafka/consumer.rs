//! The consumer thread as the worker sees it: commands in, events out.
//!
//! One dedicated OS thread owns the consumer. It alone polls, pauses, stores offsets and answers rebalances, so no call of the
//! client library blocks the async runtime, and no callback runs on its threads. Both channels are bounded; the thread never waits
//! for the event channel (what does not fit waits in its outbox, and fetching pauses meanwhile), so that a worker which waits for
//! the command channel is always served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::client::ClientError;
use super::poller::Poller;
use crate::config::Settings;
use crate::core::record::{Offset, Partition, Record, Session};

const COMMANDS: usize = 4_096;
/// Each may hold a megabyte of records that the worker's limits do not count yet.
const EVENTS: usize = 16;

#[derive(Debug)]
pub enum ConsumerEvent {
    /// Each partition is paused until [`ConsumerCommand::Fetch`]. Empty when the group has nothing for this member.
    Assigned(Vec<Assignment>),
    /// The group has taken this member in. Comes with the consumer protocol only, where no assignment follows when there is nothing
    /// for this member.
    Joined,
    /// Kafka wants these back and waits: each is given back once it is released.
    Revoking(Vec<Partition>),
    /// These belong to somebody else already: nothing is committed for them.
    Lost(Vec<Partition>),
    /// Records of one session, in offset order; offsets may have gaps.
    Polled {
        partition: Partition,
        session: Session,
        records: Vec<Record>,
    },
    /// Retention removed records before they were read. Comes before the `Assigned` that begins behind the gap.
    OffsetsLost {
        partition: Partition,
        count: u64,
    },
    Committed {
        result: Result<Vec<(Partition, Offset)>, String>,
    },
    /// Whether any broker answers, when that changed; an error says why none does. The client goes on trying.
    Brokers(Result<(), String>),
    /// The client recovers from it by itself; see [`ERROR_CLASSES`].
    Error {
        class: &'static str,
        message: String,
    },
    /// The worker should stop, or begin with another consumer. The thread goes on serving commands until it is closed.
    Fatal(ConsumerError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub partition: Partition,
    pub session: Session,
    /// The offset from which on records will be polled.
    pub start: Offset,
}

/// A command for a session that is over is ignored.
#[derive(Debug)]
pub enum ConsumerCommand {
    Fetch {
        partition: Partition,
        session: Session,
    },
    /// Everything below `offset` has custody elsewhere: it may be committed.
    StoreOffset {
        partition: Partition,
        session: Session,
        offset: Offset,
    },
    /// Fetch nothing; the membership is kept.
    Pause,
    Resume,
    /// A partition that is being revoked is drained.
    Release {
        partition: Partition,
        session: Session,
    },
    /// Begin a new session at `from`, if Kafka has not taken the partition; answered by `Assigned`.
    Restart {
        partition: Partition,
        session: Session,
        from: Offset,
    },
    /// Ask Kafka whether these are ours; answered with those that are, as soon as Kafka says so.
    Confirm {
        assignments: Vec<Assignment>,
        answer: oneshot::Sender<Vec<Assignment>>,
    },
    /// Commit what is stored, leave the group, end the thread. The event channel closes when that is done.
    Close,
}

/// Every `class` of [`ConsumerEvent::Error`].
pub const ERROR_CLASSES: [&str; 12] = [
    "transport",
    "authentication",
    "authorization",
    "unknown_topic",
    "out_of_range",
    "max_poll_exceeded",
    "group",
    "instance_id",
    "offsets",
    "store_offset",
    "drain_overrun",
    "other",
];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumerError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the consumer thread cannot be started: {0}")]
    Thread(String),
    #[error(
        "{count} records of partition {partition} were removed by retention before they were read; the first left is at {low} \
         (set kafka.on_lost_offsets = \"earliest\" to go on there)"
    )]
    OffsetsLost { partition: Partition, low: Offset, count: u64 },
    #[error("topic {0} does not exist")]
    TopicGone(String),
    /// This client may never fetch it; another one can.
    #[error("topic {0} was deleted and created again")]
    TopicReplaced(String),
    #[error("kafka refuses access: {0}")]
    Unauthorized(String),
    /// This client is of no use any more; another one can join again.
    #[error("another process uses the same kafka.instance_id in this group: {0}")]
    InstanceIdTaken(String),
    #[error("the kafka client is broken for good: {0}")]
    Broken(String),
}

/// The handle of the consumer thread. Dropping it closes the consumer too, but nobody can wait for that.
#[derive(Debug)]
pub struct Consumer {
    commands: mpsc::Sender<ConsumerCommand>,
    health: Arc<ConsumerHealth>,
    ended: oneshot::Receiver<()>,
}

/// Asks Kafka whose partitions are, for as long as the consumer lives.
#[derive(Clone, Debug)]
pub struct Confirmer {
    commands: mpsc::WeakSender<ConsumerCommand>,
}

/// How a consumer begins; by default as the first one of its process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Joining {
    /// Its sessions are others than those of any other number.
    pub number: u32,
    /// The topic was created again: until then partitions begin at their first record, whatever is committed.
    pub rewinds_until: Option<Instant>,
}

/// How the thread is: read by the health endpoint and the metrics.
#[derive(Debug)]
pub struct ConsumerHealth {
    started: Instant,
    last_poll_millis: AtomicU64,
}

impl Consumer {
    /// Joins the group. Must be called inside a tokio runtime's lifetime, not necessarily on one of its threads.
    pub fn start(
        settings: &Settings,
        joining: Joining,
    ) -> Result<(Self, mpsc::Receiver<ConsumerEvent>), ConsumerError> {
        let (command_sender, commands) = mpsc::channel(COMMANDS);
        let (events, event_receiver) = mpsc::channel(EVENTS);
        let (end, ended) = oneshot::channel();
        let health = Arc::new(ConsumerHealth::new());
        let poller = Poller::new(settings, joining, (commands, events), Arc::clone(&health))?;
        std::thread::Builder::new()
            .name("kafka-consumer".to_owned())
            .spawn(move || {
                // Dropped however the thread ends.
                let _end = end;
                poller.run();
            })
            .map_err(|error| ConsumerError::Thread(error.to_string()))?;
        let consumer = Self { commands: command_sender, health, ended };
        Ok((consumer, event_receiver))
    }

    /// Waits while the command channel is full, for one turn of the thread (about 20 ms) at most. After the thread has ended the
    /// command is dropped: the closed event channel tells the worker. Cancel safe: a cancelled command was not sent.
    pub async fn send(&self, command: ConsumerCommand) {
        let _ended = self.commands.send(command).await;
    }

    pub fn confirmer(&self) -> Confirmer {
        Confirmer::through(&self.commands)
    }

    pub fn health(&self) -> Arc<ConsumerHealth> {
        Arc::clone(&self.health)
    }

    /// How many commands wait, and how many may.
    pub fn queue(&self) -> (usize, usize) {
        let capacity = self.commands.max_capacity();
        (capacity - self.commands.capacity(), capacity)
    }

    /// Waits for the thread to end after [`ConsumerCommand::Close`]; says whether it did within `deadline`.
    pub async fn closed(self, deadline: Duration) -> bool {
        tokio::time::timeout(deadline, self.ended).await.is_ok()
    }
}

impl Confirmer {
    pub(crate) fn through(commands: &mpsc::Sender<ConsumerCommand>) -> Self {
        Self { commands: commands.downgrade() }
    }

    /// Those of the assignments that are ours by what Kafka says after this question, for however long it says nothing. None once the
    /// consumer has ended.
    pub async fn confirmed(&self, assignments: Vec<Assignment>) -> Vec<Assignment> {
        let Some(commands) = self.commands.upgrade() else { return Vec::new() };
        let (answer, answered) = oneshot::channel();
        let _ended = commands.send(ConsumerCommand::Confirm { assignments, answer }).await;
        // Else this question would keep the consumer that is to answer it from ending.
        drop(commands);
        answered.await.unwrap_or_default()
    }
}

impl ConsumerHealth {
    fn new() -> Self {
        Self { started: Instant::now(), last_poll_millis: AtomicU64::new(0) }
    }

    pub(super) fn polled(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_poll_millis.store(millis, Ordering::Relaxed);
    }

    /// How long ago the thread last polled: milliseconds while it is well.
    pub fn last_poll_age(&self) -> Duration {
        let last = Duration::from_millis(self.last_poll_millis.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_consumer_that_has_ended_nothing_is_confirmed() {
        let (commands, mut served) = mpsc::channel(1);
        let confirmer = Confirmer::through(&commands);
        let assignment = Assignment { partition: Partition(0), session: Session(1), start: Offset(0) };
        let asked = tokio::spawn({
            let confirmer = confirmer.clone();
            async move { confirmer.confirmed(vec![assignment]).await }
        });
        // Whoever waits for an answer keeps no consumer from ending.
        let question = served.recv().await;
        assert!(matches!(question, Some(ConsumerCommand::Confirm { .. })));
        drop(commands);
        assert!(served.recv().await.is_none());
        drop(question);
        assert_eq!(asked.await.unwrap(), []);
        assert_eq!(confirmer.confirmed(vec![assignment]).await, []);
    }
}
