//! Every series of an enumerated label at 0 from the start, so that a rate sees the first event and an alert never lacks its data.

use prometheus::core::{MetricVec, MetricVecBuilder};

use super::Subject;
use super::labels::{Dependency, Queue, RebalanceKind, Statement, StatementResult};
use super::metrics::Metrics;
use crate::core::breaker::BreakerState;
use crate::core::effect::{ClaimResult, Outcome, PauseCause, WaitingPlace};
use crate::core::failure::Reason;
use crate::core::invariants::Invariant;
use crate::kafka::consumer::ERROR_CLASSES;
use crate::postgres::{DeadLetterState, ReplayState};

// Values that no enum of the code holds, or not yet all of them.
const ATTEMPT_RESULTS: [&str; 5] = ["ok", "transient", "unknown", "permanent", "outage"];
const PARKED_OUTCOMES: [&str; 3] = ["notified", "duplicate", "dead_lettered"];
const COMMIT_RESULTS: [&str; 2] = ["ok", "error"];
const POOL_STATES: [&str; 2] = ["used", "idle"];
const PARKED_KINDS: [&str; 2] = ["retry", "replay"];
const REPLAY_RESULTS: [&str; 4] = ["notified", "duplicate", "dead_lettered", "refused"];
const MEMORY_AREAS: [&str; 1] = ["records"];

/// Makes all series present, and sets the few whose resting value is not 0.
pub(super) fn present_all(metrics: &Metrics, subject: Subject<'_>) {
    present_records(metrics, subject);
    present_kafka(metrics, subject);
    present_postgres(metrics);
    present_parking(metrics);
    present_dead_letters(metrics, subject);
    present_process(metrics);
}

fn present_records(metrics: &Metrics, subject: Subject<'_>) {
    let topic = [subject.topic];
    let channel = [subject.channel];
    let outcomes = Outcome::ALL.map(Outcome::as_str);
    present(&metrics.records_polled_total, &[&topic]);
    present(&metrics.records_total, &[&topic, &outcomes]);
    present(&metrics.records_in_flight, &[&topic]);
    present(&metrics.records_handed_back_total, &[&topic]);
    present(&metrics.parked_settled_total, &[&topic, &PARKED_OUTCOMES]);
    present(&metrics.record_duration_seconds, &[&topic, &outcomes]);
    present(&metrics.event_age_seconds, &[&topic]);
    present(&metrics.attempts_total, &[&channel, &ATTEMPT_RESULTS]);
    present(&metrics.attempt_duration_seconds, &[&channel, &ATTEMPT_RESULTS]);
    present(&metrics.retries_scheduled_total, &[&WaitingPlace::ALL.map(WaitingPlace::as_str)]);
    present(&metrics.deliveries_held_total, &[&channel]);
    present(&metrics.claims_total, &[&ClaimResult::ALL.map(ClaimResult::as_str)]);
}

fn present_kafka(metrics: &Metrics, subject: Subject<'_>) {
    let topic = [subject.topic];
    let causes = PauseCause::ALL.map(PauseCause::as_str);
    let kinds = RebalanceKind::ALL.map(RebalanceKind::as_str);
    present(&metrics.consumer_assigned_partitions, &[&topic]);
    present(&metrics.consumer_paused_partitions, &[&topic, &causes]);
    present(&metrics.consumer_rebalances_total, &[&kinds]);
    present(&metrics.offset_commits_total, &[&COMMIT_RESULTS]);
    present(&metrics.offsets_lost_total, &[&topic]);
    present(&metrics.kafka_errors_total, &[&ERROR_CLASSES]);
    // Half of an unknown retention must be longer than any lag, or the alert on it would fire.
    metrics.topic_retention_seconds.with_label_values(&topic).set(f64::INFINITY);
}

fn present_postgres(metrics: &Metrics) {
    let statements = Statement::ALL.map(Statement::as_str);
    let mut ledger = Statement::ALL.to_vec();
    ledger.retain(|statement| statement.writes_ledger());
    let ledger: Vec<_> = ledger.into_iter().map(Statement::as_str).collect();
    let results = StatementResult::ALL.map(StatementResult::as_str);
    present(&metrics.ledger_batch_size, &[&ledger]);
    present(&metrics.postgres_duration_seconds, &[&statements, &results]);
    present(&metrics.postgres_pool_connections, &[&POOL_STATES]);
}

fn present_parking(metrics: &Metrics) {
    present(&metrics.parked_records, &[&PARKED_KINDS]);
    let dependencies = Dependency::ALL.map(Dependency::as_str);
    present(&metrics.breaker_state, &[&dependencies, &BreakerState::ALL.map(BreakerState::as_str)]);
    present(&metrics.breaker_opened_total, &[&dependencies]);
    for dependency in dependencies {
        metrics.breaker_state.with_label_values(&[dependency, "closed"]).set(1);
    }
}

fn present_dead_letters(metrics: &Metrics, subject: Subject<'_>) {
    let topic = [subject.topic];
    let reasons = Reason::ALL.map(Reason::as_str);
    present(&metrics.dead_letters_total, &[&topic, &reasons]);
    present(&metrics.dead_letters_published_total, &[&topic]);
    present(&metrics.dead_letters, &[&DeadLetterState::ALL.map(DeadLetterState::as_str), &reasons]);
    present(&metrics.replays_total, &[&REPLAY_RESULTS]);
    present(&metrics.replay_runs, &[&ReplayState::ALL.map(ReplayState::as_str)]);
}

fn present_process(metrics: &Metrics) {
    let queues = Queue::ALL.map(Queue::as_str);
    present(&metrics.invariant_violations_total, &[&Invariant::ALL.map(Invariant::as_str)]);
    present(&metrics.queue_length, &[&queues]);
    present(&metrics.queue_capacity, &[&queues]);
    present(&metrics.memory_limit_bytes, &[&MEMORY_AREAS]);
    present(&metrics.memory_used_bytes, &[&MEMORY_AREAS]);
    metrics
        .build_info
        .with_label_values(&[env!("CARGO_PKG_VERSION"), env!("HERALD_REVISION"), env!("HERALD_RUSTC")])
        .set(1);
}

/// One series for every combination of the labels' values.
fn present<T: MetricVecBuilder>(family: &MetricVec<T>, labels: &[&[&str]]) {
    let mut combinations = vec![Vec::new()];
    for values in labels {
        let mut longer = Vec::with_capacity(combinations.len() * values.len());
        for combination in &combinations {
            for value in *values {
                let mut combination = combination.clone();
                combination.push(*value);
                longer.push(combination);
            }
        }
        combinations = longer;
    }
    for combination in &combinations {
        family.with_label_values(combination);
    }
}
