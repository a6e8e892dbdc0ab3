//! The worker: the loop between the engine and the world. It performs effects and feeds their results back as inputs;
//! about a record it decides nothing.

mod gauges;
mod membership;
mod ownership;
mod publisher;
mod replays;
mod statements;
mod stop;
mod upkeep;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::channels::Channel;
use crate::channels::pool::{DeliveryPool, Ended};
use crate::config::Settings;
use crate::core::breaker::BreakerConfig;
use crate::core::effect::{Delivery, Effect, Effects, Report};
use crate::core::engine::{Engine, EngineConfig};
use crate::core::input::{Input, Now, ReplayRow};
use crate::core::record::{Offset, Partition};
use crate::core::retry::Schedule;
use crate::http::health::{Health, NotReady};
use crate::kafka::consumer::{Assignment, Consumer, ConsumerCommand, ConsumerError, ConsumerEvent, Joining};
use crate::kafka::dead_letters::DeadLetterProducer;
use crate::kafka::lag::LagReader;
use crate::postgres::Postgres;
use crate::preflight::Retention;
use crate::telemetry::Telemetry;
use crate::telemetry::events::{AttemptEnded, KafkaFailed, OffsetsCommitted, OffsetsLost};

use gauges::Shown;
use membership::Membership;
use ownership::Owned;
use publisher::Publisher;
use replays::Replays;
use statements::Ledger;
pub use stop::Ending;
use stop::{Signals, Stop};

/// The longest time without an input: gauges, the freeze watch and `/livez` live on it.
const TICK: Duration = Duration::from_millis(200);
/// Deliveries that are taken in one turn.
const DELIVERIES_PER_TURN: usize = 512;
/// Consumer events and answers that are taken in one turn.
const EVENTS_PER_TURN: usize = 64;
/// With so many records in a turn no more events are taken: an answer of the database that waits meanwhile leaves it idle.
const RECORDS_PER_TURN: u64 = 500;

/// What a worker is made of; nothing of it was used yet.
pub struct Parts {
    pub settings: Settings,
    pub postgres: Postgres,
    pub channel: Channel,
    pub producer: DeadLetterProducer,
    pub lag: LagReader,
    pub telemetry: Arc<Telemetry>,
    pub health: Arc<Health>,
    pub topic_retention: Retention,
}

/// What comes back from a task.
enum Answer {
    Input(Input),
    Raised(Vec<Owned>),
    /// Replayed records that are due, or none when they could not be read.
    Replays(Vec<ReplayRow>),
    Nothing,
}

struct Worker {
    started: Instant,
    settings: Settings,
    /// Who raises epochs: unique for each start of a process, and readable in the table.
    owner: String,
    engine: Engine,
    effects: Effects,
    consumer: Consumer,
    postgres: Postgres,
    deliveries: DeliveryPool,
    ended: Vec<Ended>,
    tasks: JoinSet<Answer>,
    /// Assigned by Kafka; Postgres has not raised their epochs yet. Read by the tasks that raise them.
    raising: watch::Sender<HashMap<Partition, Assignment>>,
    /// Ours as Kafka sees it.
    assigned: BTreeSet<Partition>,
    publisher: Publisher,
    lag: Arc<LagReader>,
    telemetry: Arc<Telemetry>,
    health: Arc<Health>,
    membership: Membership,
    stop: Stop,
    shown: Shown,
    /// When replays that are due are read again; none while they are being read.
    replays_at: Option<Instant>,
}

/// Joins the group and works until a signal or a fatal error.
pub async fn run(parts: Parts) -> Ending {
    let (consumer, events) = match Consumer::start(&parts.settings, Joining::default()) {
        Ok(started) => started,
        Err(error) => return Ending::Failed(error.to_string()),
    };
    let lag = Arc::new(parts.lag);
    let mut upkeep = JoinSet::new();
    upkeep.spawn(upkeep::watch_lag(Arc::clone(&lag), Arc::clone(&parts.telemetry)));
    upkeep.spawn(upkeep::watch_retention(parts.settings.kafka.clone(), Arc::clone(&parts.telemetry)));
    if parts.topic_retention != Retention::Forever {
        let retention = parts.settings.ledger.retention;
        upkeep.spawn(upkeep::prune(parts.postgres.clone(), retention, Arc::clone(&parts.telemetry)));
    }
    let retention = parts.settings.dead_letters.retention;
    upkeep.spawn(upkeep::expire(parts.postgres.clone(), retention, Arc::clone(&parts.telemetry)));
    let replays = Replays {
        postgres: parts.postgres.clone(),
        decoder: parts.settings.decoder(),
        topic: parts.settings.kafka.topic.as_str().into(),
        telemetry: Arc::clone(&parts.telemetry),
    };
    upkeep.spawn(replays.run());
    upkeep.spawn(upkeep::watch_postgres(parts.postgres.clone(), Arc::clone(&parts.telemetry)));
    let publisher = Publisher::start(
        parts.postgres.clone(),
        parts.producer,
        Arc::clone(&parts.telemetry),
        Arc::clone(&parts.health),
    );
    let worker = Worker {
        started: Instant::now(),
        owner: ownership::owner(&parts.settings.kafka),
        engine: Engine::new(engine_config(&parts.settings)),
        effects: Effects::new(),
        consumer,
        deliveries: DeliveryPool::new(parts.channel),
        ended: Vec::new(),
        tasks: JoinSet::new(),
        raising: watch::Sender::new(HashMap::new()),
        assigned: BTreeSet::new(),
        publisher,
        postgres: parts.postgres,
        lag,
        telemetry: parts.telemetry,
        health: parts.health,
        membership: Membership::default(),
        stop: Stop::default(),
        shown: Shown::default(),
        replays_at: Some(Instant::now()),
        settings: parts.settings,
    };
    worker.work(events).await
}

fn engine_config(settings: &Settings) -> EngineConfig {
    EngineConfig {
        topic: settings.kafka.topic.as_str().into(),
        decoder: settings.decoder(),
        semantics: settings.notification.semantics,
        max_attempts: settings.retry.max_attempts,
        retry: Schedule::new(settings.retry.initial_backoff, settings.retry.max_backoff),
        park_after: settings.retry.park_after,
        breaker: BreakerConfig {
            outages: settings.breaker.outages,
            failing_keys: settings.breaker.failing_keys,
            failing_percent: settings.breaker.failing_percent,
            probes: Schedule::new(settings.breaker.initial_wait, settings.breaker.max_wait),
        },
        max_concurrent: settings.delivery.max_concurrent,
        max_records: settings.limits.records,
        max_bytes: settings.limits.bytes,
        max_parked: settings.limits.parked_records,
        freeze_gap: settings.kafka.session_timeout / 2,
        seed: fastrand::u64(..),
    }
}

fn committed(result: &Result<Vec<(Partition, Offset)>, String>) -> Result<(), &str> {
    result.as_ref().map(drop).map_err(String::as_str)
}

impl Worker {
    async fn work(mut self, mut events: Receiver<ConsumerEvent>) -> Ending {
        self.show_limits(events.max_capacity());
        let mut signals = Signals::listen();
        loop {
            let wake = self.wake_in();
            tokio::select! {
                event = events.recv(), if self.has_consumer() => match event {
                    Some(event) => self.take_events(event, &mut events).await,
                    None => self.consumer_gone(),
                },
                Some(answer) = self.tasks.join_next() => self.take_answers(answer).await,
                () = self.deliveries.next_batch(&mut self.ended, DELIVERIES_PER_TURN) => self.take_deliveries(),
                () = tokio::time::sleep(wake) => self.tick(),
                () = signals.next() => if self.begin_stop() { return Ending::at_once() },
            }
            if let Some(joined) = self.join_again().await {
                events = joined;
            }
            self.read_replays();
            self.perform().await;
            self.show(events.len());
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
        let polled = self.engine.accounting().polled;
        self.take_event(first).await;
        for _ in 1..EVENTS_PER_TURN {
            let is_full = self.engine.accounting().polled - polled >= RECORDS_PER_TURN;
            // What was taken in reached a limit: nothing more until the consumer thread knows.
            if is_full || self.engine.stats().paused.is_some() {
                return;
            }
            let Ok(event) = events.try_recv() else { return };
            self.take_event(event).await;
        }
    }

    async fn take_event(&mut self, event: ConsumerEvent) {
        match event {
            ConsumerEvent::Polled { partition, session, records } => {
                self.input(Input::Polled { partition, session, records });
            }
            // The consumer was given up, and the next one gets partitions of its own.
            ConsumerEvent::Assigned(_)
            | ConsumerEvent::Joined
            | ConsumerEvent::Revoking(_)
            | ConsumerEvent::Lost(_)
                if !self.has_consumer() => {}
            ConsumerEvent::Assigned(assignments) => self.assigned(assignments).await,
            ConsumerEvent::Joined => self.joined(),
            ConsumerEvent::Revoking(partitions) => self.revoking(partitions).await,
            ConsumerEvent::Lost(partitions) => self.lost(partitions),
            ConsumerEvent::OffsetsLost { partition, count } => OffsetsLost { partition, count }.emit(&self.telemetry),
            ConsumerEvent::Committed { result } => {
                OffsetsCommitted { result: committed(&result) }.emit(&self.telemetry);
            }
            ConsumerEvent::Brokers(reached) => self.brokers_changed(reached),
            ConsumerEvent::Error { class, message } => KafkaFailed { class, error: &message }.emit(&self.telemetry),
            ConsumerEvent::Fatal(error @ ConsumerError::InstanceIdTaken(_)) => self.stand_back(&error).await,
            ConsumerEvent::Fatal(error @ ConsumerError::TopicReplaced(_)) => self.begin_anew(&error).await,
            ConsumerEvent::Fatal(error) => self.fail(&error.to_string()),
        }
    }

    async fn take_answers(&mut self, first: Result<Answer, tokio::task::JoinError>) {
        let mut next = Some(first);
        let mut room = EVENTS_PER_TURN;
        while let Some(answer) = next {
            match answer {
                Ok(Answer::Input(input)) => self.take_input(input),
                Ok(Answer::Raised(owned)) => self.raised(owned).await,
                Ok(Answer::Replays(rows)) => self.replays_read(rows),
                // What asks Postgres catches its panics, and nobody aborts it before the end.
                Ok(Answer::Nothing) | Err(_) => {}
            }
            room -= 1;
            // An answer that is taken out of the set and not taken in would be lost.
            next = if room > 0 { self.tasks.try_join_next() } else { None };
        }
    }

    fn take_input(&mut self, input: Input) {
        match &input {
            Input::Buried { .. } => {
                self.health.resolve(NotReady::Postgres);
                self.publisher.nudge();
            }
            Input::Claimed { .. }
            | Input::Yielded
            | Input::Started { .. }
            | Input::Settled { .. }
            | Input::Parked { .. }
            | Input::ParkedLoaded { .. } => {
                self.health.resolve(NotReady::Postgres);
            }
            // Those that are no answer of the ledger, or one that came by another way.
            Input::Assigned { .. }
            | Input::Revoking { .. }
            | Input::Lost { .. }
            | Input::Polled { .. }
            | Input::ReplaysLoaded { .. }
            | Input::LedgerFailed { .. }
            | Input::Delivered { .. }
            | Input::HolderInspected { .. }
            | Input::EpochsConfirmed { .. }
            | Input::Tick
            | Input::Shutdown { .. } => {}
        }
        self.input(input);
    }

    /// What has ended is taken in first: a deadline that comes with this tick must not abort it.
    fn tick(&mut self) {
        self.deliveries.take_ended(&mut self.ended, usize::MAX);
        self.take_deliveries();
        self.input(Input::Tick);
    }

    fn take_deliveries(&mut self) {
        let mut results = Vec::with_capacity(self.ended.len());
        for Ended { ticket, attempt, trace, result, duration } in self.ended.drain(..) {
            AttemptEnded { ticket, attempt, trace, result: &result, duration }.emit(&self.telemetry);
            results.push((ticket, result));
        }
        self.input(Input::Delivered { results });
    }

    async fn perform(&mut self) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Claim(batch) => self.spawn(statements::claim(self.ledger(), batch)),
                Effect::Yield(batch) => self.spawn(statements::yield_claims(self.ledger(), batch)),
                Effect::Start(batch) => self.spawn(statements::start(self.ledger(), batch)),
                Effect::Done(batch) => self.spawn(statements::done(self.ledger(), batch)),
                Effect::Park(batch) => self.spawn(statements::park(self.ledger(), batch)),
                Effect::Dead(batch) => self.spawn(statements::dead(self.ledger(), batch)),
                Effect::LoadParked(keys) => self.spawn(statements::load_parked(self.ledger(), keys)),
                Effect::Deliver(delivery) => {
                    let trace = self.telemetry.attempt_trace(&delivery);
                    self.deliveries.start(Delivery { trace, ..delivery });
                }
                Effect::Abort(ticket) => self.deliveries.abort(ticket),
                Effect::InspectHolder { ticket, holder } => {
                    self.spawn(ownership::inspect(self.postgres.clone(), Arc::clone(&self.lag), ticket, holder));
                }
                Effect::ConfirmEpochs { freeze, partitions } => {
                    self.spawn(ownership::confirm(self.postgres.clone(), freeze, partitions));
                }
                Effect::StoreOffset { partition, session, offset } => {
                    self.consumer.send(ConsumerCommand::StoreOffset { partition, session, offset }).await;
                }
                Effect::Pause => self.consumer.send(ConsumerCommand::Pause).await,
                Effect::Resume => self.consumer.send(ConsumerCommand::Resume).await,
                Effect::Release { partition, session } => self.release(partition, session).await,
                Effect::Restart { partition, session, from } => {
                    self.publisher.disown(partition);
                    self.consumer.send(ConsumerCommand::Restart { partition, session, from }).await;
                }
                Effect::Report(report) => self.report(&report),
            }
        }
    }

    fn ledger(&self) -> Ledger {
        Ledger { postgres: self.postgres.clone(), telemetry: Arc::clone(&self.telemetry) }
    }

    fn spawn(&mut self, task: impl Future<Output = Answer> + Send + 'static) {
        self.tasks.spawn(task);
    }

    fn report(&mut self, report: &Report) {
        match report {
            Report::LedgerHeld { error, .. } => self.health.hold(NotReady::Postgres, error.clone()),
            Report::BreakerOpened { error } => self.health.hold(NotReady::Breaker, error.clone()),
            Report::BreakerClosed => self.health.resolve(NotReady::Breaker),
            _ => {}
        }
        self.stop.note(report);
        self.telemetry.report(report);
    }
}
