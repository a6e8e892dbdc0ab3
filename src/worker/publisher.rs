//! The outbox of dead letters: what the ledger holds and the DLQ topic does not have yet is published, again and again
//! until the broker acknowledges it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::core::breaker::BreakerState;
use crate::core::dead_letter::Letter;
use crate::core::record::{Epoch, Partition};
use crate::http::health::{Health, NotReady};
use crate::kafka::dead_letters::DeadLetterProducer;
use crate::postgres::Postgres;
use crate::telemetry::Telemetry;
use crate::telemetry::events::{DeadLetterNotPublished, DeadLetterPublished, DependencyChanged};
use crate::telemetry::labels::Dependency;

/// Looked at without a nudge: letters that another owner, or this one before a restart, left behind.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// While Postgres or the topic refuses; longer while refusing takes the topic longer.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const BATCH_LETTERS: u32 = 100;
const BATCH_BYTES: u64 = 4 << 20;
/// For what is still queued in the producer at the end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(4);

pub(super) struct Publisher {
    owned: watch::Sender<Vec<(Partition, Epoch)>>,
    nudge: Arc<Notify>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Outbox {
    postgres: Postgres,
    producer: DeadLetterProducer,
    telemetry: Arc<Telemetry>,
    health: Arc<Health>,
    owned: watch::Receiver<Vec<(Partition, Epoch)>>,
    nudge: Arc<Notify>,
    stop: watch::Receiver<bool>,
    /// Source partitions whose letters were refused, and until when they are left alone: their leader may be away while others
    /// are there.
    resting: HashMap<Partition, Instant>,
    shown: BreakerState,
}

impl Publisher {
    pub(super) fn start(
        postgres: Postgres,
        producer: DeadLetterProducer,
        telemetry: Arc<Telemetry>,
        health: Arc<Health>,
    ) -> Self {
        let nudge = Arc::new(Notify::new());
        let (owned, owned_receiver) = watch::channel(Vec::new());
        let (stop, stop_receiver) = watch::channel(false);
        let outbox = Outbox {
            postgres,
            producer,
            telemetry,
            health,
            owned: owned_receiver,
            nudge: Arc::clone(&nudge),
            stop: stop_receiver,
            resting: HashMap::new(),
            shown: BreakerState::Closed,
        };
        Self { owned, nudge, stop, task: tokio::spawn(outbox.run()) }
    }

    /// A dead letter was written.
    pub(super) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Only the owner of a partition publishes its letters.
    pub(super) fn own(&self, owned: Vec<(Partition, Epoch)>) {
        self.owned.send_replace(owned);
        self.nudge();
    }

    /// Gives the epoch under which it was owned.
    pub(super) fn disown(&self, partition: Partition) -> Option<Epoch> {
        let mut epoch = None;
        self.owned.send_modify(|owned| {
            epoch = owned.iter().find(|(owned, _)| *owned == partition).map(|(_, epoch)| *epoch);
            owned.retain(|(owned, _)| *owned != partition);
        });
        epoch
    }

    /// Lets what is under way end; says whether it did.
    pub(super) async fn finish(self, deadline: Duration) -> bool {
        self.stop.send_replace(true);
        self.nudge.notify_one();
        tokio::time::timeout(deadline, self.task).await.is_ok()
    }
}

impl Outbox {
    async fn run(mut self) {
        while !*self.stop.borrow() {
            // A panic is an outage: the letters behind it would else wait for another process.
            let tried = AssertUnwindSafe(self.publish_batch()).catch_unwind().await.unwrap_or(Err(()));
            let pause = match tried {
                // There may be more, of the same partitions or of those that do not rest.
                Ok(tried) if tried > 0 => continue,
                Ok(_) => LOOK_EVERY,
                Err(()) => RETRY_AFTER,
            };
            tokio::select! {
                () = self.nudge.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.producer.close(CLOSE_DEADLINE).await;
    }

    /// Tries to publish what waits, up to a batch, and says how much that was.
    async fn publish_batch(&mut self) -> Result<usize, ()> {
        let now = Instant::now();
        self.resting.retain(|_, until| *until > now);
        let mut owned = self.owned.borrow().clone();
        owned.retain(|(partition, _)| !self.resting.contains_key(partition));
        if owned.is_empty() {
            if self.resting.is_empty() {
                // Whoever owns the partitions says what their letters wait for.
                self.health.resolve(NotReady::Dlq);
                self.show();
            }
            return Ok(0);
        }
        let letters = self.postgres.unpublished(&owned, BATCH_LETTERS, BATCH_BYTES).await.map_err(|error| {
            tracing::warn!(?error, "unpublished dead letters cannot be read");
        })?;
        let tried = Instant::now();
        let published = self.publish_all(&letters).await;
        if !published.is_empty() {
            // Published twice if this fails: the header herald-id makes the two one.
            self.postgres.mark_published(&published).await.map_err(|error| {
                tracing::warn!(?error, "published dead letters cannot be marked");
            })?;
        }
        // Others get as much time as was spent on those that were refused.
        let rested = Instant::now() + tried.elapsed().max(RETRY_AFTER);
        let refused = letters.iter().filter(|letter| !published.iter().any(|one| one.id == letter.id));
        self.resting.extend(refused.map(|letter| (letter.record.coordinates.partition, rested)));
        if self.resting.is_empty() {
            self.health.resolve(NotReady::Dlq);
        }
        self.show();
        Ok(letters.len())
    }

    fn show(&mut self) {
        let after = if self.resting.is_empty() { BreakerState::Closed } else { BreakerState::Open };
        let before = std::mem::replace(&mut self.shown, after);
        if before != after {
            DependencyChanged { dependency: Dependency::Dlq, before, after }.emit(&self.telemetry);
        }
    }

    /// Gives those that the broker acknowledged.
    async fn publish_all<'a>(&self, letters: &'a [Letter]) -> Vec<&'a Letter> {
        let publish = async |letter: &'a Letter| {
            let started = Instant::now();
            let published = self.producer.publish(letter).await;
            let duration = started.elapsed();
            match published {
                Ok(()) => {
                    DeadLetterPublished { letter, duration }.emit(&self.telemetry);
                    Some(letter)
                }
                Err(error) => {
                    let error = error.to_string();
                    DeadLetterNotPublished { letter, error: &error, duration }.emit(&self.telemetry);
                    self.health.hold(NotReady::Dlq, error);
                    None
                }
            }
        };
        futures_util::future::join_all(letters.iter().map(publish)).await.into_iter().flatten().collect()
    }
}
