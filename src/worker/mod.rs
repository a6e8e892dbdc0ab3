//! The worker: the loop between the engine and the world. It performs effects and feeds their results back as inputs;
//! about a record it decides nothing.

mod ownership;
mod publisher;
mod statements;
mod stop;
mod upkeep;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use crate::channels::Channel;
use crate::channels::pool::{DeliveryPool, Ended};
use crate::config::Settings;
use crate::core::decode::Decoder;
use crate::core::effect::{Effect, Effects};
use crate::core::engine::{Engine, EngineConfig};
use crate::core::input::{Input, Now};
use crate::core::record::Partition;
use crate::core::retry::Schedule;
use crate::http::Health;
use crate::kafka::consumer::{Assignment, Consumer, ConsumerCommand, ConsumerError, ConsumerEvent};
use crate::kafka::lag::GroupOffsets;
use crate::postgres::Postgres;
use crate::telemetry::Telemetry;

pub use stop::Ending;
use ownership::Owned;
use publisher::Publisher;
use stop::{Signals, Stop};

/// The longest time without an input: gauges, the freeze watch and `/livez` live on it.
const TICK: Duration = Duration::from_millis(200);
/// Deliveries that are taken in one turn.
const DELIVERIES_PER_TURN: usize = 512;
/// Consumer events and answers that are taken in one turn.
const EVENTS_PER_TURN: usize = 64;

/// What a worker is made of; everything in it is running already.
pub struct Parts {
    pub settings: Settings,
    pub postgres: Postgres,
    pub channel: Channel,
    pub telemetry: Arc<Telemetry>,
    pub health: Arc<Health>,
    pub group_offsets: Arc<GroupOffsets>,
}

/// What comes back from a task.
enum Answer {
    Input(Input),
    Raised(Vec<Owned>),
    Nothing,
}

struct Worker {
    started: Instant,
    settings: Settings,
    engine: Engine,
    effects: Effects,
    consumer: Consumer,
    postgres: Postgres,
    deliveries: DeliveryPool,
    ended: Vec<Ended>,
    tasks: JoinSet<Answer>,
    /// Assigned by Kafka; Postgres has not raised their epochs yet.
    raising: HashMap<Partition, Assignment>,
    publisher: Publisher,
    group_offsets: Arc<GroupOffsets>,
    telemetry: Arc<Telemetry>,
    health: Arc<Health>,
    stop: Stop,
}

/// Joins the group and works until a signal or a fatal error.
pub async fn run(parts: Parts) -> Result<Ending, ConsumerError> {
    let (consumer, events) = Consumer::start(&parts.settings)?;
    parts.health.watch_consumer(consumer.health());
    let upkeep = upkeep::start(&parts);
    let publisher = Publisher::start(&parts);
    let worker = Worker {
        started: Instant::now(),
        engine: Engine::new(engine_config(&parts.settings)),
        effects: Effects::new(),
        consumer,
        deliveries: DeliveryPool::new(Arc::new(parts.channel)),
        ended: Vec::new(),
        tasks: JoinSet::new(),
        raising: HashMap::new(),
        publisher,
        postgres: parts.postgres,
        group_offsets: parts.group_offsets,
        telemetry: parts.telemetry,
        health: parts.health,
        stop: Stop::default(),
        settings: parts.settings,
    };
    let ending = worker.work(events).await;
    upkeep.abort();
    Ok(ending)
}

fn engine_config(settings: &Settings) -> EngineConfig {
    EngineConfig {
        topic: settings.kafka.topic.as_str().into(),
        decoder: Decoder::new(
            settings.notification.event_types.iter().map(String::as_str),
            settings.ordering.key,
        ),
        max_attempts: settings.retry.max_attempts,
        retry: Schedule::new(settings.retry.initial_backoff, settings.retry.max_backoff),
        max_concurrent: settings.delivery.max_concurrent,
        max_records: settings.limits.records,
        max_bytes: settings.limits.bytes,
        freeze_gap: settings.kafka.session_timeout / 2,
        seed: fastrand::u64(..),
    }
}

impl Worker {
    async fn work(mut self, mut events: Receiver<ConsumerEvent>) -> Ending {
        let mut signals = Signals::listen();
        loop {
            let wake = self.wake_in();
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take_events(event, &mut events).await,
                    // The thread is gone, by a panic: nothing can be stored any more.
                    None => self.fail("the consumer thread ended").await,
                },
                Some(answer) = self.tasks.join_next() => self.take_answers(answer).await,
                () = self.deliveries.next_batch(&mut self.ended, DELIVERIES_PER_TURN) => self.take_deliveries(),
                () = tokio::time::sleep(wake) => self.input(Input::Tick),
                () = signals.next() => if self.begin_stop() { return self.stop.at_once() },
            }
            self.perform().await;
            self.show();
            if self.is_drained() {
                return self.finish(events).await;
            }
        }
    }

    fn now(&self) -> Now {
        self.started.elapsed()
    }

    fn wake_in(&self) -> Duration {
        let due = self.engine.wake_at().map_or(TICK, |at| at.saturating_sub(self.now()));
        due.min(TICK)
    }

    fn input(&mut self, input: Input) {
        self.engine.handle(self.now(), input, &mut self.effects);
    }

    async fn take_events(&mut self, first: ConsumerEvent, events: &mut Receiver<ConsumerEvent>) {
        self.take_event(first).await;
        for _ in 1..EVENTS_PER_TURN {
            let Ok(event) = events.try_recv() else { return };
            self.take_event(event).await;
        }
    }

    async fn take_event(&mut self, event: ConsumerEvent) {
        match event {
            ConsumerEvent::Polled { partition, session, records } => {
                self.input(Input::Polled { partition, session, records });
            }
            ConsumerEvent::Assigned(assignments) => self.assigned(assignments).await,
            ConsumerEvent::Revoking(partitions) => self.revoking(partitions).await,
            ConsumerEvent::Lost(partitions) => self.lost(partitions),
            ConsumerEvent::OffsetsLost { partition, count } => self.telemetry.offsets_lost(partition, count),
            ConsumerEvent::Committed { result } => self.telemetry.committed(&result),
            ConsumerEvent::Error { class, message } => self.telemetry.kafka_error(class, &message),
            ConsumerEvent::Fatal(error) => self.fail(&error.to_string()).await,
        }
    }

    async fn take_answers(&mut self, first: Result<Answer, tokio::task::JoinError>) {
        let mut next = Some(first);
        for _ in 0..EVENTS_PER_TURN {
            match next {
                Some(Ok(Answer::Input(input))) => self.take_input(input),
                Some(Ok(Answer::Raised(owned))) => self.raised(owned).await,
                // Statements catch their own panics, and nobody aborts them before the end.
                Some(Ok(Answer::Nothing) | Err(_)) => {}
                None => return,
            }
            next = self.tasks.try_join_next();
        }
    }

    fn take_input(&mut self, input: Input) {
        if matches!(input, Input::Buried { .. }) {
            self.publisher.nudge();
        }
        self.input(input);
    }

    fn take_deliveries(&mut self) {
        let channel = self.deliveries.channel_name();
        let mut results = Vec::with_capacity(self.ended.len());
        for ended in self.ended.drain(..) {
            self.telemetry.attempt_ended(channel, &ended.result, ended.duration);
            results.push((ended.ticket, ended.result));
        }
        self.input(Input::Delivered { results });
    }

    async fn perform(&mut self) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Claim(batch) => self.spawn(statements::claim(self.postgres.clone(), batch)),
                Effect::Done(batch) => self.spawn(statements::done(self.postgres.clone(), batch)),
                Effect::Dead(batch) => self.spawn(statements::dead(self.postgres.clone(), batch)),
                Effect::Deliver(delivery) => self.deliveries.start(delivery),
                Effect::Abort(ticket) => self.deliveries.abort(ticket),
                Effect::InspectHolder { ticket, holder } => {
                    self.spawn(ownership::inspect(Arc::clone(&self.group_offsets), ticket, holder));
                }
                Effect::ConfirmEpochs => {
                    let partitions = self.engine.epochs().map(|(partition, _)| partition).collect();
                    self.spawn(ownership::confirm(self.postgres.clone(), partitions));
                }
                Effect::StoreOffset { partition, session, offset } => {
                    self.consumer.send(ConsumerCommand::StoreOffset { partition, session, offset }).await;
                }
                Effect::Pause => self.consumer.send(ConsumerCommand::Pause).await,
                Effect::Resume => self.consumer.send(ConsumerCommand::Resume).await,
                Effect::Release { partition, session } => self.release(partition, session).await,
                Effect::Restart { partition, session, from } => {
                    self.disown(partition);
                    self.consumer.send(ConsumerCommand::Restart { partition, session, from }).await;
                }
                Effect::Report(report) => {
                    self.stop.note(&report);
                    self.telemetry.report(&report);
                }
            }
        }
    }

    fn spawn(&mut self, task: impl Future<Output = Answer> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// What gauges and health endpoints say.
    fn show(&self) {
        self.health.turned();
        self.telemetry.show(&self.engine.stats(), self.consumer.queue());
    }
}
