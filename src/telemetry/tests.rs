//! The contract: names, labels and series, as a scrape sees them.

use std::collections::BTreeMap;
use std::time::Instant;

use prometheus::TextEncoder;

use super::events::{
    AttemptEnded, DeadLetterNotPublished, DeadLetterPublished, Drained, KafkaFailed, OffsetsCommitted, OffsetsLost,
    PausedPartitions, Polled, Rebalanced, StatementEnded,
};
use super::labels::{RebalanceKind, Statement, StatementResult};
use super::lag::PartitionLag;
use super::*;
use crate::core::dead_letter::Letter;
use crate::core::effect::{ClaimResult, Outcome, PauseCause, RecordName, Report, WaitingPlace};
use crate::core::failure::{DeliveryFailure, FailureClass, Reason};
use crate::core::input::Ticket;
use crate::core::record::{Coordinates, Epoch, Offset, Partition, Record, Timestamp};

const SUBJECT: Subject<'_> = Subject { topic: "order_events", channel: "webhook" };

fn telemetry() -> (Registry, Telemetry) {
    let registry = Registry::new();
    let telemetry = Telemetry::new(&registry, SUBJECT).unwrap();
    (registry, telemetry)
}

/// Every series and its value as text, without the prefix.
fn scrape(registry: &Registry) -> BTreeMap<String, String> {
    TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let series = series.strip_prefix("herald_").unwrap_or(series);
            (series.to_owned(), value.to_owned())
        })
        .collect()
}

/// Name, labels, and how many series there are before anything happens; histograms by their `_count`.
const CONTRACT: [(&str, &str, usize); 66] = [
    ("records_polled_total", "topic", 1),
    ("records_total", "outcome,topic", 5),
    ("records_in_flight", "topic", 1),
    ("records_handed_back_total", "topic", 1),
    ("parked_settled_total", "outcome,topic", 3),
    ("record_duration_seconds_count", "outcome,topic", 5),
    ("event_age_seconds_count", "topic", 1),
    ("attempts_total", "channel,result", 5),
    ("attempt_duration_seconds_count", "channel,result", 5),
    ("retries_scheduled_total", "where", 2),
    ("claims_total", "result", 6),
    ("consumer_lag_records", "partition,topic", 1),
    ("consumer_lag_seconds", "partition,topic", 1),
    ("consumer_committed_offset", "partition,topic", 1),
    ("consumer_assigned_partitions", "topic", 1),
    ("consumer_paused_partitions", "cause,topic", 4),
    ("consumer_rebalances_total", "kind", 3),
    ("consumer_drain_duration_seconds_count", "", 1),
    ("offset_commits_total", "result", 2),
    ("offsets_lost_total", "topic", 1),
    ("kafka_errors_total", "class", 12),
    ("topic_retention_seconds", "topic", 1),
    ("last_poll_timestamp_seconds", "", 1),
    ("ledger_batch_size_count", "operation", 6),
    ("postgres_duration_seconds_count", "operation,result", 52),
    ("postgres_pool_connections", "state", 2),
    ("postgres_pool_wait_seconds_count", "", 1),
    ("ledger_rows", "", 1),
    ("ledger_pruned_total", "", 1),
    ("parked_records", "kind", 2),
    ("parked_keys", "", 1),
    ("parked_oldest_timestamp_seconds", "", 1),
    ("parked_next_due_timestamp_seconds", "", 1),
    ("breaker_state", "dependency,state", 12),
    ("breaker_opened_total", "dependency", 4),
    ("exhausted_without_evidence_total", "", 1),
    ("crash_loop_partitions", "", 1),
    ("busy_records", "", 1),
    ("dead_letters_total", "reason,topic", 7),
    ("dead_letters_published_total", "topic", 1),
    ("dead_letter_publish_failures_total", "", 1),
    ("dead_letters_unpublished", "", 1),
    ("dead_letters_oldest_unpublished_timestamp_seconds", "", 1),
    ("dead_letter_publish_duration_seconds_count", "", 1),
    ("dead_letters", "reason,state", 35),
    ("dead_letters_oldest_open_timestamp_seconds", "", 1),
    ("dead_letters_expiring", "", 1),
    ("replays_total", "result", 4),
    ("replay_runs", "state", 7),
    ("replay_remaining_records", "", 1),
    ("operator_actions_total", "action,result", 32),
    ("build_info", "revision,rustc,version", 1),
    ("invariant_violations_total", "invariant", 8),
    ("queue_length", "queue", 4),
    ("queue_capacity", "queue", 4),
    ("memory_limit_bytes", "area", 1),
    ("memory_used_bytes", "area", 1),
    ("process_cpu_seconds_total", "", 1),
    ("process_resident_memory_bytes", "", 1),
    ("process_open_fds", "", 1),
    ("process_start_time_seconds", "", 1),
    ("deliveries_held_total", "channel", 1),
    ("deliveries_aborted_total", "", 1),
    ("consumer_fenced_total", "", 1),
    ("process_freezes_total", "", 1),
    ("ledger_batches_held_total", "", 1),
];

/// `a,b` out of `name{a="x",b="y"}`.
fn label_names(series: &str) -> String {
    let Some((_, labels)) = series.split_once('{') else {
        return String::new();
    };
    let names: Vec<_> = labels.split(',').map(|label| label.split('=').next().unwrap()).collect();
    names.join(",")
}

#[test]
fn every_series_of_the_contract_is_there_from_the_start() {
    let (registry, telemetry) = telemetry();
    telemetry.operators().replace([]);
    telemetry.lag().show(&[Partition(0)]);
    telemetry.lag().replace([PartitionLag {
        partition: Partition(0),
        committed: Offset(0),
        end: Offset(0),
        behind_since: Instant::now(),
    }]);
    let series = scrape(&registry);
    for (name, labels, count) in CONTRACT {
        let found: Vec<_> = series.iter().filter(|(series, _)| series.split('{').next() == Some(name)).collect();
        assert_eq!(found.len(), count, "{name}: {found:?}");
        for (series, value) in found {
            assert_eq!(label_names(series), labels, "{series}");
            let resting = match name {
                "build_info" => "1",
                "topic_retention_seconds" => "inf",
                "breaker_state" if series.contains("closed") => "1",
                _ if name.starts_with("process_") && !name.contains("freezes") => continue,
                _ => "0",
            };
            assert_eq!(value, resting, "{series}");
        }
    }
}

#[test]
fn no_metric_is_outside_the_contract() {
    let (registry, _telemetry) = telemetry();
    let known = |name: &str| {
        CONTRACT.iter().any(|(known, _, _)| known.trim_end_matches("_count") == name)
            || name.starts_with("process_")
            || name == "consumer_lag_sample_timestamp_seconds"
    };
    for family in registry.gather() {
        let name = family.name().trim_start_matches("herald_");
        assert!(known(name), "{name} is not in the table above");
        assert!(family.help().ends_with('.') && !family.help().starts_with(' '), "{name}");
    }
}

#[test]
fn a_second_telemetry_in_one_registry_is_refused() {
    let (registry, _telemetry) = telemetry();
    assert!(Telemetry::new(&registry, SUBJECT).is_err());
}

fn record() -> RecordName {
    RecordName {
        ticket: Ticket(1),
        coordinates: Coordinates { partition: Partition(3), offset: Offset(7) },
        timestamp: Some(Timestamp(0)),
        order_id: Some("1".into()),
        trace: None,
    }
}

fn letter(id: i64) -> Letter {
    let RecordName { coordinates, timestamp, .. } = record();
    Letter {
        id,
        topic: "order_events".into(),
        record: Record { coordinates, timestamp, key: None, value: None, headers: Vec::new() },
        reason: Reason::Permanent,
        class: "permanent".to_owned(),
        error: "webhook: 422".to_owned(),
        attempts: 1,
        first_failed_at: Timestamp(0),
        last_failed_at: Timestamp(0),
        fingerprint: "a91f".to_owned(),
        replays: 0,
    }
}

fn reports() -> Vec<(Report, &'static str, &'static str)> {
    let second = Duration::from_secs(1);
    let error = || "webhook: 500".to_owned();
    vec![
        (
            Report::Ended { record: record(), outcome: Outcome::Notified, duration: second },
            r#"event_age_seconds_count{topic="order_events"}"#,
            "1",
        ),
        (
            Report::Buried { record: record(), reason: Reason::Exhausted, attempts: 5, error: error() },
            r#"dead_letters_total{reason="exhausted",topic="order_events"}"#,
            "1",
        ),
        (
            Report::IgnoredEventType { event_type: "X".into() },
            r#"records_total{outcome="ignored",topic="order_events"}"#,
            "0",
        ),
        (
            Report::HandedBack { partition: Partition(3), count: 4 },
            r#"records_handed_back_total{topic="order_events"}"#,
            "4",
        ),
        (Report::Claimed(ClaimResult::Takeover), r#"claims_total{result="takeover"}"#, "1"),
        (
            Report::RetryScheduled {
                record: record(),
                attempt: 1,
                place: WaitingPlace::Lane,
                wait: second,
                error: error(),
            },
            r#"retries_scheduled_total{where="lane"}"#,
            "1",
        ),
        (
            Report::DeliveryHeld { record: record(), wait: second, error: error() },
            r#"deliveries_held_total{channel="webhook"}"#,
            "1",
        ),
        (Report::LedgerHeld { wait: second, error: error() }, "ledger_batches_held_total", "1"),
        (Report::Fenced { partition: Partition(3), epoch: Epoch(2) }, "consumer_fenced_total", "1"),
        (Report::Frozen { gap: second }, "process_freezes_total", "1"),
        (Report::Aborted { partition: Partition(3), count: 2 }, "deliveries_aborted_total", "2"),
        (
            Report::InvariantViolated { invariant: "I7", detail: "1 too many".to_owned() },
            r#"invariant_violations_total{invariant="I7"}"#,
            "1",
        ),
    ]
}

#[test]
fn every_report_is_counted() {
    for (report, series, value) in reports() {
        let (registry, telemetry) = telemetry();
        telemetry.report(&report);
        assert_eq!(scrape(&registry)[series], value, "{report:?}");
    }
}

#[test]
fn polled_is_ended_and_in_flight_and_handed_back() {
    let (registry, telemetry) = telemetry();
    Polled { records: 10 }.emit(&telemetry);
    for outcome in Outcome::ALL {
        telemetry.report(&Report::Ended { record: record(), outcome, duration: Duration::from_millis(3) });
    }
    telemetry.report(&Report::HandedBack { partition: Partition(3), count: 2 });
    let series = scrape(&registry);
    let of = |name: &str| series[&format!(r#"{name}{{topic="order_events"}}"#)].as_str();
    assert_eq!(of("records_polled_total"), "10");
    assert_eq!(of("records_in_flight"), "3");
    assert_eq!(of("records_handed_back_total"), "2");
    let polled_at: f64 = series["last_poll_timestamp_seconds"].parse().unwrap();
    assert!(polled_at > 1.7e9);
    for outcome in Outcome::ALL.map(Outcome::as_str) {
        let labels = format!(r#"{{outcome="{outcome}",topic="order_events"}}"#);
        assert_eq!(series[&format!("records_total{labels}")], "1");
        assert_eq!(series[&format!("record_duration_seconds_count{labels}")], "1");
    }
}

#[test]
fn an_attempt_is_counted_by_its_class() {
    let (registry, telemetry) = telemetry();
    let classes = [
        FailureClass::Transient { retry_after: None },
        FailureClass::Unknown,
        FailureClass::Permanent,
        FailureClass::Outage,
    ];
    let failures = classes.map(|class| Err(DeliveryFailure { class, error: "x".to_owned() }));
    for result in failures.iter().chain([&Ok(())]) {
        let (attempt, duration) = (1, Duration::from_millis(5));
        AttemptEnded { ticket: Ticket(1), attempt, trace: None, result, duration }.emit(&telemetry);
    }
    let series = scrape(&registry);
    for result in ["ok", "transient", "unknown", "permanent", "outage"] {
        let labels = format!(r#"{{channel="webhook",result="{result}"}}"#);
        assert_eq!(series[&format!("attempts_total{labels}")], "1");
        assert_eq!(series[&format!("attempt_duration_seconds_count{labels}")], "1");
    }
}

#[test]
fn every_event_of_the_shell_is_counted() {
    let (registry, telemetry) = telemetry();
    let partitions = [Partition(0), Partition(1)];
    let duration = Duration::from_millis(5);
    telemetry.lag().show(&[Partition(0)]);
    telemetry.lag().replace([PartitionLag {
        partition: Partition(0),
        committed: Offset(0),
        end: Offset(9),
        behind_since: Instant::now(),
    }]);
    let (kind, assigned) = (RebalanceKind::Revoked, 3);
    Rebalanced { kind, partitions: &partitions, assigned }.emit(&telemetry);
    Drained { duration }.emit(&telemetry);
    let (cause, count) = (PauseCause::Backpressure, 2);
    PausedPartitions { cause, count }.emit(&telemetry);
    OffsetsCommitted { result: Ok(()) }.emit(&telemetry);
    let result = Err("broker gone");
    OffsetsCommitted { result }.emit(&telemetry);
    OffsetsLost { partition: Partition(0), count: 5 }.emit(&telemetry);
    let (class, error) = ("authorization", "denied");
    KafkaFailed { class, error }.emit(&telemetry);
    DeadLetterPublished { letter: &letter(1), duration }.emit(&telemetry);
    DeadLetterNotPublished { letter: &letter(2), error, duration }.emit(&telemetry);
    for statement in [Statement::Claim, Statement::RaiseEpoch] {
        let (result, rows) = (StatementResult::Ok, 100);
        StatementEnded { statement, result, rows, duration }.emit(&telemetry);
    }

    let series = scrape(&registry);
    let expected = [
        (r#"consumer_rebalances_total{kind="revoked"}"#, "1"),
        (r#"consumer_assigned_partitions{topic="order_events"}"#, "3"),
        ("consumer_drain_duration_seconds_count", "1"),
        (r#"consumer_paused_partitions{cause="backpressure",topic="order_events"}"#, "2"),
        (r#"offset_commits_total{result="ok"}"#, "1"),
        (r#"offset_commits_total{result="error"}"#, "1"),
        (r#"offsets_lost_total{topic="order_events"}"#, "5"),
        (r#"kafka_errors_total{class="authorization"}"#, "1"),
        (r#"dead_letters_published_total{topic="order_events"}"#, "1"),
        ("dead_letter_publish_duration_seconds_count", "1"),
        ("dead_letter_publish_failures_total", "1"),
        (r#"postgres_duration_seconds_count{operation="claim",result="ok"}"#, "1"),
        (r#"postgres_duration_seconds_count{operation="raise_epoch",result="ok"}"#, "1"),
        (r#"ledger_batch_size_sum{operation="claim"}"#, "100"),
    ];
    for (name, value) in expected {
        assert_eq!(series[name], value, "{name}");
    }
    let lag = |series: &&String| series.starts_with("consumer_lag_records");
    assert_eq!(scrape(&registry).keys().find(lag), None);
}

#[test]
fn ten_thousand_orders_and_errors_add_no_series() {
    let (registry, telemetry) = telemetry();
    let before: Vec<String> = scrape(&registry).into_keys().collect();
    for number in 0..10_000_i64 {
        let coordinates = Coordinates { partition: Partition(3), offset: Offset(number) };
        let record = RecordName { coordinates, order_id: Some(format!("order-{number}").into()), ..record() };
        let error = format!("error {number}");
        let (attempt, place, wait) = (1, WaitingPlace::Lane, Duration::from_secs(1));
        let failure = Err(DeliveryFailure { class: FailureClass::Permanent, error: error.clone() });
        AttemptEnded { ticket: Ticket(1), attempt, trace: None, result: &failure, duration: wait }.emit(&telemetry);
        DeadLetterNotPublished { letter: &letter(number), error: &error, duration: wait }.emit(&telemetry);
        OffsetsCommitted { result: Err(&error) }.emit(&telemetry);
        for report in [
            Report::IgnoredEventType { event_type: format!("TYPE_{number}").into() },
            Report::RetryScheduled { record: record.clone(), attempt, place, wait, error: error.clone() },
            Report::DeliveryHeld { record: record.clone(), wait, error: error.clone() },
            Report::Buried { record, reason: Reason::Permanent, attempts: 1, error },
        ] {
            telemetry.report(&report);
        }
    }
    let after: Vec<String> = scrape(&registry).into_keys().collect();
    assert_eq!(before, after);
}
