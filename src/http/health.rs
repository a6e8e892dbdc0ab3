//! Whether the process is alive, and whether it makes progress.
//!
//! Alive means that its loops turn: an orchestrator restarts a process that is not. What it waits for outside never makes it
//! dead, since a restart would not mend that; it makes it unready, with the reasons.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Why the worker makes no progress. In the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotReady {
    /// The group has not answered yet, or the topic was created again and is about to be joined anew. A worker that got no partitions because others have them all is ready.
    Assignment,
    /// Another process has this one's place in the group, by the same `kafka.instance_id`; it is asked for again after a while.
    InstanceId,
    /// No broker answers.
    Kafka,
    /// Postgres does not answer.
    Postgres,
    /// Dead letters cannot be published.
    Dlq,
    /// The channel is not available.
    Breaker,
    /// The process cannot go on and is about to end.
    Fatal,
    /// The process stops.
    Draining,
}

/// Written by the worker, read by the admin listener. Turning costs one atomic store.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    turn_bound: Duration,
    worker: Turn,
    consumer: Turn,
    holding: Mutex<BTreeMap<NotReady, String>>,
}

/// When a loop last turned, in milliseconds since the start.
#[derive(Debug, Default)]
struct Turn(AtomicU64);

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Liveness {
    pub live: bool,
    pub reasons: Vec<Reason<&'static str>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub reasons: Vec<Reason<NotReady>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Reason<T> {
    pub reason: T,
    pub detail: String,
}

impl Health {
    /// A loop that has not turned for `turn_bound` is dead; until its first turn it has that long from here.
    pub fn new(turn_bound: Duration) -> Self {
        let waiting = (NotReady::Assignment, "no answer of the group yet".to_owned());
        Self {
            started: Instant::now(),
            turn_bound,
            worker: Turn::default(),
            consumer: Turn::default(),
            holding: Mutex::new(BTreeMap::from([waiting])),
        }
    }

    /// The worker loop came round.
    pub fn worker_turned(&self) {
        self.worker.set(self.started.elapsed());
    }

    /// The consumer thread came round.
    pub fn consumer_turned(&self) {
        self.consumer.set(self.started.elapsed());
    }

    /// The worker makes no progress for this reason until it is resolved. Repeating it replaces the detail.
    pub fn hold(&self, reason: NotReady, detail: impl Into<String>) {
        self.holding().insert(reason, detail.into());
    }

    /// The reason is gone. Nothing happens if it was not there.
    pub fn resolve(&self, reason: NotReady) {
        self.holding().remove(&reason);
    }

    pub fn liveness(&self) -> Liveness {
        let now = self.started.elapsed();
        let mut reasons = Vec::new();
        for (name, turn) in [("worker", &self.worker), ("consumer", &self.consumer)] {
            let silent = now.saturating_sub(turn.get());
            if silent > self.turn_bound {
                reasons.push(Reason {
                    reason: name,
                    detail: format!(
                        "has not turned for {:.1} s, {:.1} s are allowed",
                        silent.as_secs_f64(),
                        self.turn_bound.as_secs_f64()
                    ),
                });
            }
        }
        Liveness { live: reasons.is_empty(), reasons }
    }

    pub fn readiness(&self) -> Readiness {
        let reasons: Vec<_> =
            self.holding().iter().map(|(reason, detail)| Reason { reason: *reason, detail: detail.clone() }).collect();
        Readiness { ready: reasons.is_empty(), reasons }
    }

    fn holding(&self) -> std::sync::MutexGuard<'_, BTreeMap<NotReady, String>> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    fn set(&self, since_start: Duration) {
        let millis = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
        self.0.store(millis, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}
