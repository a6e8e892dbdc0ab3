//! What goes on beside the records: lag, facts for gauges, pruning. Each ends with the worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Kafka;
use crate::core::failure::{LedgerFailure, Reason};
use crate::kafka::lag::{LagClock, LagReader, LagSample};
use crate::kafka::preflight;
use crate::postgres::{AuditResult, DeadLetterState, Postgres, ReplayState};
use crate::telemetry::events::{DeadLettersExpired, DeadLettersExpiring};
use crate::telemetry::labels::OperatorResult;
use crate::telemetry::lag::PartitionLag;
use crate::telemetry::operators::ActionCount;
use crate::telemetry::{Telemetry, gauge_value};

const SAMPLE_LAG_EVERY: Duration = Duration::from_secs(5);
/// Each look is a client of its own.
const LOOK_AT_RETENTION_EVERY: Duration = Duration::from_secs(30);
const COUNT_EVERY: Duration = Duration::from_secs(5);
const PRUNE_EVERY: Duration = Duration::from_secs(10);
const PRUNE_ROWS: u32 = 1_000;
const EXPIRE_EVERY: Duration = Duration::from_mins(1);
const EXPIRE_LETTERS: u32 = 1_000;
/// So long before it expires a dead letter is warned of.
const EXPIRY_WARNING: Duration = Duration::from_hours(24);

pub(super) async fn watch_lag(reader: Arc<LagReader>, telemetry: Arc<Telemetry>) {
    let mut clock = LagClock::default();
    loop {
        match reader.sample().await {
            Ok(samples) => {
                let now = Instant::now();
                clock.observe(now, &samples);
                telemetry.lag().replace(samples.iter().map(|sample| partition_lag(&clock, now, sample)));
            }
            // The last sample stays, and its age grows.
            Err(error) => tracing::warn!(%error, "the lag cannot be sampled"),
        }
        tokio::time::sleep(SAMPLE_LAG_EVERY).await;
    }
}

/// The retention of the topic may be changed while we run: it is what the alert on the backlog tells people to do.
pub(super) async fn watch_retention(kafka: Kafka, telemetry: Arc<Telemetry>) {
    loop {
        tokio::time::sleep(LOOK_AT_RETENTION_EVERY).await;
        if let Some(retention) = preflight::retention(&kafka).await {
            telemetry.topic_retention(retention);
        }
    }
}

fn partition_lag(clock: &LagClock, now: Instant, sample: &LagSample) -> PartitionLag {
    let behind = clock.lag(now, sample.partition).unwrap_or_default();
    PartitionLag {
        partition: sample.partition,
        committed: sample.next(),
        end: sample.end,
        behind_since: now.checked_sub(behind).unwrap_or(now),
    }
}

/// Counts of tables, for gauges: what all workers together have written.
pub(super) async fn watch_postgres(postgres: Postgres, telemetry: Arc<Telemetry>) {
    postgres.observe_waits(telemetry.metrics().postgres_pool_wait_seconds.clone());
    loop {
        let started = Instant::now();
        if let Err(error) = count_operator_actions(&postgres, &telemetry).await {
            tracing::debug!(?error, "what operators did cannot be counted");
        }
        if let Err(error) = count_dead_letters(&postgres, &telemetry).await {
            tracing::debug!(?error, "the dead letters cannot be counted");
        }
        if let Err(error) = count_parked(&postgres, &telemetry).await {
            tracing::debug!(?error, "the parked records cannot be counted");
        }
        if let Err(error) = count_replays(&postgres, &telemetry).await {
            tracing::debug!(?error, "the replays cannot be counted");
        }
        match postgres.ledger_rows().await {
            Ok(rows) => telemetry.metrics().ledger_rows.set(gauge_value(rows)),
            Err(error) => tracing::debug!(?error, "the rows of the ledger cannot be estimated"),
        }
        let pool = postgres.pool_facts();
        let connections = &telemetry.metrics().postgres_pool_connections;
        connections.with_label_values(&["used"]).set(gauge_value(pool.in_use));
        connections.with_label_values(&["idle"]).set(gauge_value(pool.idle));
        tokio::time::sleep(count_again_after(started.elapsed())).await;
    }
}

/// Counting reads whole tables: it may take a twentieth of the time, however large they are.
fn count_again_after(took: Duration) -> Duration {
    COUNT_EVERY.max(took.saturating_mul(20))
}

async fn count_dead_letters(postgres: &Postgres, telemetry: &Telemetry) -> Result<(), LedgerFailure> {
    let metrics = telemetry.metrics();
    let unpublished = postgres.unpublished_facts().await?;
    metrics.dead_letters_unpublished.set(gauge_value(unpublished.count));
    metrics.dead_letters_oldest_unpublished_timestamp_seconds.set(unpublished.oldest_failed_at.map_or(0.0, seconds));

    let counts = postgres.dead_letter_counts().await?;
    for state in DeadLetterState::ALL {
        for reason in Reason::ALL {
            let found = counts.iter().find(|count| count.state == state && count.reason == reason);
            let labels = [state.as_str(), reason.as_str()];
            metrics.dead_letters.with_label_values(&labels).set(gauge_value(found.map_or(0, |found| found.count)));
        }
    }
    let open = counts.iter().filter(|count| count.state == DeadLetterState::Open);
    let oldest = open.map(|count| count.oldest_failed_at).min();
    metrics.dead_letters_oldest_open_timestamp_seconds.set(oldest.map_or(0.0, seconds));
    Ok(())
}

async fn count_parked(postgres: &Postgres, telemetry: &Telemetry) -> Result<(), LedgerFailure> {
    let metrics = telemetry.metrics();
    let parked = postgres.parked_facts().await?;
    metrics.parked_records.with_label_values(&["retry"]).set(gauge_value(parked.retries));
    metrics.parked_records.with_label_values(&["replay"]).set(gauge_value(parked.replays));
    metrics.parked_keys.set(gauge_value(parked.keys));
    metrics.parked_oldest_timestamp_seconds.set(parked.oldest_parked_at.map_or(0.0, seconds));
    metrics.parked_next_due_timestamp_seconds.set(parked.next_due_at.map_or(0.0, seconds));
    Ok(())
}

async fn count_replays(postgres: &Postgres, telemetry: &Telemetry) -> Result<(), LedgerFailure> {
    let counts = postgres.replay_counts().await?;
    for state in ReplayState::ALL {
        let found = counts.iter().find(|count| count.state == state).map_or(0, |found| found.count);
        telemetry.metrics().replay_runs.with_label_values(&[state.as_str()]).set(gauge_value(found));
    }
    Ok(())
}

async fn count_operator_actions(postgres: &Postgres, telemetry: &Telemetry) -> Result<(), LedgerFailure> {
    let counts = postgres.audit_counts().await?.into_iter();
    telemetry.operators().replace(counts.map(|count| ActionCount {
        action: count.action,
        result: match count.result {
            AuditResult::Done => OperatorResult::Ok,
            AuditResult::Refused => OperatorResult::Refused,
            AuditResult::Conflict => OperatorResult::Conflict,
            AuditResult::Failed => OperatorResult::Error,
        },
        count: count.count,
    }));
    Ok(())
}

fn seconds(at: crate::core::record::Timestamp) -> f64 {
    Duration::from_millis(at.0.try_into().unwrap_or_default()).as_secs_f64()
}

/// Forgets what Kafka can no longer deliver again. Preflight has refused a retention shorter than the topic's.
pub(super) async fn prune(postgres: Postgres, retention: Duration, telemetry: Arc<Telemetry>) {
    loop {
        tokio::time::sleep(PRUNE_EVERY).await;
        match postgres.prune(retention, PRUNE_ROWS).await {
            Ok(rows) => telemetry.metrics().ledger_pruned_total.inc_by(rows),
            Err(error) => tracing::debug!(?error, "the ledger cannot be pruned"),
        }
    }
}

/// Removes dead letters past their retention, and warns of those that come next.
pub(super) async fn expire(postgres: Postgres, retention: Duration, telemetry: Arc<Telemetry>) {
    loop {
        match postgres.expire_letters(retention, EXPIRE_LETTERS).await {
            Ok(expired) => DeadLettersExpired { letters: expired.letters, open: expired.open }.emit(&telemetry),
            Err(error) => tracing::debug!(?error, "old dead letters cannot be removed"),
        }
        match postgres.open_letters_older_than(retention.saturating_sub(EXPIRY_WARNING)).await {
            Ok(count) => DeadLettersExpiring { count }.emit(&telemetry),
            Err(error) => tracing::debug!(?error, "expiring dead letters cannot be counted"),
        }
        tokio::time::sleep(EXPIRE_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tables_are_counted_less_often() {
        assert_eq!(count_again_after(Duration::from_millis(3)), COUNT_EVERY);
        assert_eq!(count_again_after(Duration::from_secs(4)), Duration::from_secs(80));
    }
}
