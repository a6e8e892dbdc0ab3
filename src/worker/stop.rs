//! How a worker ends: ready off, drain, settle, store, commit, flush, each with a deadline.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;

use super::{Worker, committed};
use crate::core::effect::Report;
use crate::core::input::{Input, Now};
use crate::http::health::NotReady;
use crate::kafka::consumer::{ConsumerCommand, ConsumerEvent};
use crate::telemetry::events::OffsetsCommitted;

/// After the drain: settlements under way, then the consumer's last commit and leaving the group.
const SETTLE_DEADLINE: Duration = Duration::from_secs(3);
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
const COUNT_DEADLINE: Duration = Duration::from_secs(2);

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything that ran has ended and was settled and committed.
    Clean,
    /// Something was cut off: what it was. Nothing is lost; the next owner does it again with the same idempotency keys.
    CutOff(String),
    /// The worker could not go on.
    Failed(String),
}

impl Ending {
    pub(super) fn at_once() -> Self {
        Self::CutOff("a second signal came before the drain ended".to_owned())
    }
}

/// What is known about the end so far.
#[derive(Debug, Default)]
pub(super) struct Stop {
    deadline: Option<Now>,
    failure: Option<String>,
    aborted: u64,
    is_consumer_gone: bool,
}

impl Stop {
    pub(super) fn is_stopping(&self) -> bool {
        self.deadline.is_some()
    }

    pub(super) fn is_consumer_gone(&self) -> bool {
        self.is_consumer_gone
    }

    pub(super) fn note(&mut self, report: &Report) {
        if let Report::Aborted { count, .. } = report
            && self.is_stopping()
        {
            self.aborted += count;
        }
    }
}

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
}

impl Signals {
    pub(super) fn listen() -> Self {
        let listen = |kind| match signal(kind) {
            Ok(signal) => Some(signal),
            Err(error) => {
                tracing::warn!(%error, "a signal cannot be listened to; its default action ends the process");
                None
            }
        };
        Self { terminate: listen(SignalKind::terminate()), interrupt: listen(SignalKind::interrupt()) }
    }

    /// Cancel safe.
    pub(super) async fn next(&mut self) {
        let one = async |signal: &mut Option<Signal>| match signal {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        };
        tokio::select! {
            _ = one(&mut self.terminate) => {}
            _ = one(&mut self.interrupt) => {}
        }
    }
}

impl Worker {
    /// Says whether it had begun before: then there is no more waiting.
    pub(super) fn begin_stop(&mut self) -> bool {
        if self.stop.is_stopping() {
            return true;
        }
        let deadline = self.now() + self.settings.delivery.drain_timeout;
        self.stop.deadline = Some(deadline);
        self.health.hold(NotReady::Draining, "the process stops");
        tracing::info!(drain_timeout = ?self.settings.delivery.drain_timeout, "stopping: what runs may end");
        self.raising.send_modify(HashMap::clear);
        self.input(Input::Shutdown { deadline });
        false
    }

    /// The thread ended by itself, so by a panic: nothing can be stored any more, but what runs can still be settled.
    pub(super) fn consumer_gone(&mut self) {
        self.stop.is_consumer_gone = true;
        self.fail("the consumer thread ended");
    }

    pub(super) fn fail(&mut self, error: &str) {
        tracing::error!(error, "the worker cannot go on");
        self.health.hold(NotReady::Fatal, error);
        self.stop.failure.get_or_insert_with(|| error.to_owned());
        self.begin_stop();
    }

    pub(super) fn is_drained(&self) -> bool {
        let Some(deadline) = self.stop.deadline else { return false };
        let is_idle = self.engine.is_idle() && self.deliveries.is_empty();
        is_idle || self.now() >= deadline + SETTLE_DEADLINE
    }

    pub(super) async fn finish(mut self, mut events: Receiver<ConsumerEvent>) -> Ending {
        let unsettled = self.engine.stats().in_flight;
        self.consumer.send(ConsumerCommand::Close).await;
        let telemetry = Arc::clone(&self.telemetry);
        // Also keeps the thread from waiting for room in the channel.
        let last_events = async {
            while let Some(event) = events.recv().await {
                if let ConsumerEvent::Committed { result } = event {
                    OffsetsCommitted { result: committed(&result) }.emit(&telemetry);
                }
            }
        };
        let last_events = tokio::time::timeout(CLOSE_DEADLINE, last_events);
        let (is_closed, _) = tokio::join!(self.consumer.closed(CLOSE_DEADLINE), last_events);
        let is_flushed = self.publisher.finish(FLUSH_DEADLINE).await;
        // What is left are counts; the statements were waited for above.
        let _ = tokio::time::timeout(COUNT_DEADLINE, async { while self.tasks.join_next().await.is_some() {} }).await;
        let cut_off = [
            match self.stop.aborted {
                0 => None,
                1 => Some("1 delivery was aborted".to_owned()),
                count => Some(format!("{count} deliveries were aborted")),
            },
            match unsettled {
                0 => None,
                1 => Some("1 notification could not be settled".to_owned()),
                count => Some(format!("{count} notifications could not be settled")),
            },
            (!is_closed).then(|| "the consumer did not leave its group in time".to_owned()),
            (!is_flushed).then(|| "the dead-letter producer was not flushed in time".to_owned()),
        ];
        let cut_off: Vec<String> = cut_off.into_iter().flatten().collect();
        match self.stop.failure {
            Some(failure) => Ending::Failed(failure),
            None if cut_off.is_empty() => Ending::Clean,
            None => Ending::CutOff(cut_off.join("; ")),
        }
    }
}
