//! What the shell reports: one struct for each noteworthy event. Emitting it logs and counts.

use std::time::{Duration, SystemTime};

use tracing::{debug, error, info, warn};

use super::labels::{Dependency, RebalanceKind, Statement, StatementResult};
use super::{Telemetry, gauge_value, unix_seconds};
use crate::core::breaker::BreakerState;
use crate::core::dead_letter::Letter;
use crate::core::effect::PauseCause;
use crate::core::failure::DeliveryFailure;
use crate::core::input::Ticket;
use crate::core::record::Partition;
use crate::core::trace::TraceParent;

/// The consumer was polled; `records` may be 0.
#[derive(Clone, Copy, Debug)]
pub struct Polled {
    pub records: usize,
}

/// One try of a delivery ended.
#[derive(Clone, Copy, Debug)]
pub struct AttemptEnded<'a> {
    pub ticket: Ticket,
    pub attempt: u32,
    /// As it was sent along.
    pub trace: Option<TraceParent>,
    pub result: &'a Result<(), DeliveryFailure>,
    pub duration: Duration,
}

/// Kafka changed the assignment.
#[derive(Clone, Copy, Debug)]
pub struct Rebalanced<'a> {
    pub kind: RebalanceKind,
    /// The partitions that came or went.
    pub partitions: &'a [Partition],
    /// How many are assigned afterwards.
    pub assigned: usize,
}

/// Revoked partitions were given back.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    pub duration: Duration,
}

/// How many partitions are not fetched for this cause changed.
#[derive(Clone, Copy, Debug)]
pub struct PausedPartitions {
    pub cause: PauseCause,
    pub count: usize,
}

/// What the worker cannot do without went away, or came back.
#[derive(Clone, Copy, Debug)]
pub struct DependencyChanged {
    pub dependency: Dependency,
    pub before: BreakerState,
    pub after: BreakerState,
}

/// Kafka answered a commit.
#[derive(Clone, Copy, Debug)]
pub struct OffsetsCommitted<'a> {
    pub result: Result<(), &'a str>,
}

/// Retention removed records before they were read.
#[derive(Clone, Copy, Debug)]
pub struct OffsetsLost {
    pub partition: Partition,
    pub count: u64,
}

/// Dead letters are past their retention and were removed.
#[derive(Clone, Copy, Debug)]
pub struct DeadLettersExpired {
    pub letters: u64,
    /// Those of them that nobody had closed.
    pub open: u64,
}

/// Dead letters that nobody has closed and that expire within a day.
#[derive(Clone, Copy, Debug)]
pub struct DeadLettersExpiring {
    pub count: u64,
}

/// Letters of a replay ended before they were delivered.
#[derive(Clone, Copy, Debug)]
pub struct ReplaysEnded {
    /// Their orders were notified meanwhile.
    pub duplicates: u64,
    /// Changed since the plan, gone, or not readable.
    pub refused: u64,
}

/// A Kafka client complained.
#[derive(Clone, Copy, Debug)]
pub struct KafkaFailed<'a> {
    /// One of [`ERROR_CLASSES`](crate::kafka::consumer::ERROR_CLASSES).
    pub class: &'static str,
    pub error: &'a str,
}

/// The DLQ topic acknowledged a dead letter.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetterPublished<'a> {
    pub letter: &'a Letter,
    pub duration: Duration,
}

/// A dead letter could not be published. It is kept, and published later.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetterNotPublished<'a> {
    pub letter: &'a Letter,
    pub error: &'a str,
    pub duration: Duration,
}

/// Postgres answered a statement, or did not.
#[derive(Clone, Copy, Debug)]
pub struct StatementEnded {
    pub statement: Statement,
    pub result: StatementResult,
    pub rows: usize,
    pub duration: Duration,
}

impl Polled {
    pub fn emit(self, telemetry: &Telemetry) {
        telemetry.metrics.last_poll_timestamp_seconds.set(unix_seconds(SystemTime::now()));
        telemetry.series.polled.inc_by(self.records.try_into().unwrap_or_default());
        telemetry.series.in_flight.add(gauge_value(self.records));
    }
}

impl AttemptEnded<'_> {
    /// A failure is told by what the engine makes of it.
    pub fn emit(self, telemetry: &Telemetry) {
        let Self { ticket, attempt, trace, result, duration } = self;
        telemetry.series.attempt(result).observe(duration);
        if let (Some(traces), Some(trace)) = (&telemetry.traces, trace) {
            traces.attempt_ended((ticket, attempt), trace, result.as_ref().map(|&()| ()), duration);
        }
        if let Err(failure) = result {
            let class = failure.class.as_str();
            debug!(attempt, class, ?duration, error = failure.error, "attempt failed");
        }
    }
}

impl Rebalanced<'_> {
    pub fn emit(self, telemetry: &Telemetry) {
        let topic: &str = &telemetry.topic;
        let kind = self.kind.as_str();
        let metrics = &telemetry.metrics;
        metrics.consumer_rebalances_total.with_label_values(&[kind]).inc();
        metrics.consumer_assigned_partitions.with_label_values(&[topic]).set(gauge_value(self.assigned));
        let partitions = numbers(self.partitions);
        let assigned = self.assigned;
        match self.kind {
            RebalanceKind::Assigned => {
                telemetry.lag.show(self.partitions);
                info!(topic, partitions, assigned, "partitions assigned");
            }
            RebalanceKind::Revoked => {
                telemetry.lag.forget(self.partitions);
                info!(topic, partitions, assigned, "partitions revoked");
            }
            RebalanceKind::Lost => {
                telemetry.lag.forget(self.partitions);
                warn!(topic, partitions, assigned, "partitions lost to another owner: their work is dropped");
            }
        }
    }
}

impl Drained {
    pub fn emit(self, telemetry: &Telemetry) {
        telemetry.metrics.consumer_drain_duration_seconds.observe(self.duration.as_secs_f64());
        info!(duration = ?self.duration, "partitions drained and given back");
    }
}

impl PausedPartitions {
    pub fn emit(self, telemetry: &Telemetry) {
        let cause = self.cause.as_str();
        telemetry
            .metrics
            .consumer_paused_partitions
            .with_label_values(&[telemetry.topic.as_ref(), cause])
            .set(gauge_value(self.count));
        debug!(cause, count = self.count, "paused partitions");
    }
}

impl DependencyChanged {
    /// The log has it from who found out, with the error.
    pub fn emit(self, telemetry: &Telemetry) {
        let dependency = self.dependency.as_str();
        for state in BreakerState::ALL {
            let is_in_it = i64::from(state == self.after);
            telemetry.metrics.breaker_state.with_label_values(&[dependency, state.as_str()]).set(is_in_it);
        }
        if self.before == BreakerState::Closed && self.after != BreakerState::Closed {
            telemetry.metrics.breaker_opened_total.with_label_values(&[dependency]).inc();
        }
    }
}

impl OffsetsCommitted<'_> {
    pub fn emit(self, telemetry: &Telemetry) {
        let committed = &telemetry.metrics.offset_commits_total;
        match self.result {
            Ok(()) => committed.with_label_values(&["ok"]).inc(),
            Err(error) => {
                committed.with_label_values(&["error"]).inc();
                warn!(error, "offsets not committed: tried again with the next commit");
            }
        }
    }
}

impl OffsetsLost {
    pub fn emit(self, telemetry: &Telemetry) {
        let topic: &str = &telemetry.topic;
        telemetry.metrics.offsets_lost_total.with_label_values(&[topic]).inc_by(self.count);
        let (partition, count) = (self.partition.0, self.count);
        error!(topic, partition, count, "records lost to retention before they were read");
    }
}

impl ReplaysEnded {
    /// The replay tells of each letter in its own list: there may be thousands.
    pub fn emit(self, telemetry: &Telemetry) {
        let ended = &telemetry.metrics.replays_total;
        ended.with_label_values(&["duplicate"]).inc_by(self.duplicates);
        ended.with_label_values(&["refused"]).inc_by(self.refused);
    }
}

impl KafkaFailed<'_> {
    pub fn emit(self, telemetry: &Telemetry) {
        let Self { class, error } = self;
        telemetry.metrics.kafka_errors_total.with_label_values(&[class]).inc();
        if let Some(suppressed) = telemetry.repeated.admit(class, std::time::Instant::now()) {
            warn!(class, error, suppressed, "kafka error: the client goes on trying");
        }
    }
}

impl DeadLetterPublished<'_> {
    pub fn emit(self, telemetry: &Telemetry) {
        let metrics = &telemetry.metrics;
        metrics.dead_letters_published_total.with_label_values(&[telemetry.topic.as_ref()]).inc();
        metrics.dead_letter_publish_duration_seconds.observe(self.duration.as_secs_f64());
        if let Some(traces) = &telemetry.traces {
            traces.letter_published(self.letter, None, self.duration);
        }
        debug!(id = self.letter.id, duration = ?self.duration, "dead letter published");
    }
}

impl DeadLetterNotPublished<'_> {
    pub fn emit(self, telemetry: &Telemetry) {
        telemetry.metrics.dead_letter_publish_failures_total.inc();
        if let Some(traces) = &telemetry.traces {
            traces.letter_published(self.letter, Some(self.error), self.duration);
        }
        let kind = "dead letter not published";
        if let Some(suppressed) = telemetry.repeated.admit(kind, std::time::Instant::now()) {
            let (id, error) = (self.letter.id, self.error);
            error!(id, error, suppressed, "dead letters cannot be published: they are kept and published later");
        }
    }
}

impl DeadLettersExpired {
    pub fn emit(self, _: &Telemetry) {
        let (letters, open) = (self.letters, self.open);
        if open > 0 {
            warn!(letters, open, "dead letters expired that nobody had closed: dead_letters.retention is over");
        } else if letters > 0 {
            info!(letters, "closed dead letters expired");
        }
    }
}

impl DeadLettersExpiring {
    pub fn emit(self, telemetry: &Telemetry) {
        let before = telemetry.metrics.dead_letters_expiring.get();
        telemetry.metrics.dead_letters_expiring.set(gauge_value(self.count));
        if self.count > before.unsigned_abs() {
            warn!(count = self.count, "open dead letters expire within a day: replay or discard them");
        }
    }
}

impl StatementEnded {
    /// A failure is told by what the engine makes of it.
    pub fn emit(self, telemetry: &Telemetry) {
        let metrics = &telemetry.metrics;
        let (operation, result) = (self.statement.as_str(), self.result.as_str());
        metrics.postgres_duration_seconds.with_label_values(&[operation, result]).observe(self.duration.as_secs_f64());
        if self.statement.writes_ledger() {
            metrics
                .ledger_batch_size
                .with_label_values(&[operation])
                .observe(f64::from(u32::try_from(self.rows).unwrap_or(u32::MAX)));
        }
    }
}

/// `0 3 17`: short enough for a line with hundreds of partitions.
fn numbers(partitions: &[Partition]) -> String {
    let numbers: Vec<String> = partitions.iter().map(Partition::to_string).collect();
    numbers.join(" ")
}
