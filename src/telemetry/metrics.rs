//! The metrics: the contract with dashboards and alerts. Adding is easy; renaming breaks people.

use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::define::{PLAIN, by, metrics};

/// For work that is done at once: requests, statements, produces.
const LATENCY: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// For a record's stay, retries included.
const STAY: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// For an event's age; 60 is the objective's bound.
const AGE: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0,
];

const DRAIN: &[f64] = &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0];

const BATCH: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

metrics! {
    /// Every metric but those of a partition's lag ([`LagBoard`](super::lag::LagBoard)), of operators
    /// ([`OperatorBoard`](super::operators::OperatorBoard)) and of the process.
    pub struct Metrics {
        /// Records taken from Kafka.
        records_polled_total: IntCounterVec = by(&["topic"]),
        /// Records that ended here, by outcome.
        records_total: IntCounterVec = by(&["topic", "outcome"]),
        /// Records polled and not ended. Polled is ended, in flight and handed back together.
        records_in_flight: IntGaugeVec = by(&["topic"]),
        /// Unfinished records left to the next owner of their partition.
        records_handed_back_total: IntCounterVec = by(&["topic"]),
        /// Parked records that ended, by outcome.
        parked_settled_total: IntCounterVec = by(&["topic", "outcome"]),
        /// Time from polled to ended.
        record_duration_seconds: HistogramVec = by(&["topic", "outcome"]).buckets(STAY),
        /// Time from the record's timestamp to its notification.
        event_age_seconds: HistogramVec = by(&["topic"]).buckets(AGE),
        /// Attempts, by how they ended.
        attempts_total: IntCounterVec = by(&["channel", "result"]),
        /// Time of one attempt.
        attempt_duration_seconds: HistogramVec = by(&["channel", "result"]).buckets(LATENCY),
        /// Retries put off, by where the record waits.
        retries_scheduled_total: IntCounterVec = by(&["where"]),
        /// Deliveries put off without an attempt because the channel was not available.
        deliveries_held_total: IntCounterVec = by(&["channel"]),
        /// Running deliveries cut off when the time to drain was over.
        deliveries_aborted_total: IntCounter = PLAIN,
        /// What claims found in the ledger.
        claims_total: IntCounterVec = by(&["result"]),

        /// Partitions assigned to this instance.
        consumer_assigned_partitions: IntGaugeVec = by(&["topic"]),
        /// Partitions that are not fetched, by cause.
        consumer_paused_partitions: IntGaugeVec = by(&["topic", "cause"]),
        /// Changes of the assignment.
        consumer_rebalances_total: IntCounterVec = by(&["kind"]),
        /// Time from a revocation to the partitions being given back.
        consumer_drain_duration_seconds: Histogram = PLAIN.buckets(DRAIN),
        /// Partition epochs that Postgres refused: another owner has come, or a raise came late.
        consumer_fenced_total: IntCounter = PLAIN,
        /// Times that the process stood still for long enough to have lost its partitions.
        process_freezes_total: IntCounter = PLAIN,
        /// Commits of stored offsets, by result.
        offset_commits_total: IntCounterVec = by(&["result"]),
        /// Records that retention removed before they were read.
        offsets_lost_total: IntCounterVec = by(&["topic"]),
        /// Errors of the Kafka clients, by class.
        kafka_errors_total: IntCounterVec = by(&["class"]),
        /// Retention of the source topic; +Inf while unknown or without end.
        topic_retention_seconds: GaugeVec = by(&["topic"]),
        /// When the consumer last polled.
        last_poll_timestamp_seconds: Gauge = PLAIN,

        /// Rows in one ledger statement.
        ledger_batch_size: HistogramVec = by(&["operation"]).buckets(BATCH),
        /// Ledger batches held because Postgres was not available.
        ledger_batches_held_total: IntCounter = PLAIN,
        /// Time of one statement.
        postgres_duration_seconds: HistogramVec = by(&["operation", "result"]).buckets(LATENCY),
        /// Connections to Postgres, by state.
        postgres_pool_connections: IntGaugeVec = by(&["state"]),
        /// Time waited for a connection of the pool.
        postgres_pool_wait_seconds: Histogram = PLAIN.buckets(LATENCY),
        /// Rows in the ledger, an estimate of the planner.
        ledger_rows: IntGauge = PLAIN,
        /// Ledger rows removed after their retention.
        ledger_pruned_total: IntCounter = PLAIN,

        /// Parked records, by why they wait.
        parked_records: IntGaugeVec = by(&["kind"]),
        /// Keys that have parked records.
        parked_keys: IntGauge = PLAIN,
        /// When the oldest parked record was parked; 0 without one.
        parked_oldest_timestamp_seconds: Gauge = PLAIN,
        /// When the next parked record is due; 0 without one.
        parked_next_due_timestamp_seconds: Gauge = PLAIN,
        /// 1 for the state that the breaker is in, else 0.
        breaker_state: IntGaugeVec = by(&["dependency", "state"]),
        /// Times that the breaker opened.
        breaker_opened_total: IntCounterVec = by(&["dependency"]),
        /// Records kept parked after their last attempt, since nothing showed that the channel works for others.
        exhausted_without_evidence_total: IntCounter = PLAIN,
        /// Partitions run carefully because their owners died without progress.
        crash_loop_partitions: IntGauge = PLAIN,
        /// Records that wait for another copy of their identity.
        busy_records: IntGauge = PLAIN,

        /// Records given up on, by reason.
        dead_letters_total: IntCounterVec = by(&["topic", "reason"]),
        /// Dead letters published to the DLQ topic.
        dead_letters_published_total: IntCounterVec = by(&["topic"]),
        /// Failed tries to publish a dead letter.
        dead_letter_publish_failures_total: IntCounter = PLAIN,
        /// Dead letters that wait for being published.
        dead_letters_unpublished: IntGauge = PLAIN,
        /// When the oldest unpublished dead letter was written; 0 without one.
        dead_letters_oldest_unpublished_timestamp_seconds: Gauge = PLAIN,
        /// Time from produced to acknowledged by the DLQ topic.
        dead_letter_publish_duration_seconds: Histogram = PLAIN.buckets(LATENCY),
        /// Dead letters, by state and reason.
        dead_letters: IntGaugeVec = by(&["state", "reason"]),
        /// When the oldest open dead letter was written; 0 without one.
        dead_letters_oldest_open_timestamp_seconds: Gauge = PLAIN,
        /// Open and quarantined dead letters that expire within 24 hours.
        dead_letters_expiring: IntGauge = PLAIN,
        /// Replayed records that ended, by result.
        replays_total: IntCounterVec = by(&["result"]),
        /// Replays, by state; planned is a plan.
        replay_runs: IntGaugeVec = by(&["state"]),
        /// Records that running replays have still to process.
        replay_remaining_records: IntGauge = PLAIN,

        /// 1; the labels say what runs.
        build_info: IntGaugeVec = by(&["version", "revision", "rustc"]),
        /// Violated invariants: each is a bug.
        invariant_violations_total: IntCounterVec = by(&["invariant"]),
        /// Items in a queue between threads.
        queue_length: IntGaugeVec = by(&["queue"]),
        /// Items that fit into a queue between threads.
        queue_capacity: IntGaugeVec = by(&["queue"]),
        /// Configured limit of the memory that records may take.
        memory_limit_bytes: IntGaugeVec = by(&["area"]),
        /// Memory that records take: payloads, and 512 bytes for each.
        memory_used_bytes: IntGaugeVec = by(&["area"]),
    }
}
