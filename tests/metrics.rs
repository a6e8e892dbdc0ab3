//! `/metrics` is a contract with dashboards and alerts: every series is there from the start, and the sums close.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::gateway::Answer;
use crate::support::kafka::{Broker, NewRecord};
use crate::support::wait::{EVENTUALLY, equal, wait_until};
use crate::support::worker::{Metrics, Worker};
use crate::support::{World, orders};

type Labels = &'static [(&'static str, &'static str)];

const OUTCOMES: &str = "notified duplicate ignored parked dead_lettered";
const RESULTS: &str = "ok transient unknown permanent outage";
const REASONS: &str = "undecodable invalid conflict permanent exhausted crash_loop uncertain";
const DEPENDENCIES: &str = "gateway postgres dlq kafka";

/// Names without `herald_`, types, and the labels that have a closed list of values; series of all combinations are there.
const CONTRACT: &[(&str, &str, Labels)] = &[
    ("records_polled_total", "counter", &[]),
    ("records_total", "counter", &[("outcome", OUTCOMES)]),
    ("records_in_flight", "gauge", &[]),
    ("records_handed_back_total", "counter", &[]),
    ("parked_settled_total", "counter", &[("outcome", "notified duplicate dead_lettered")]),
    ("record_duration_seconds", "histogram", &[("outcome", OUTCOMES)]),
    ("event_age_seconds", "histogram", &[]),
    ("attempts_total", "counter", &[("result", RESULTS)]),
    ("attempt_duration_seconds", "histogram", &[("result", RESULTS)]),
    ("retries_scheduled_total", "counter", &[("where", "lane parked")]),
    ("claims_total", "counter", &[("result", "fresh takeover busy duplicate conflict fenced")]),
    ("consumer_lag_records", "gauge", &[("partition", "0 1")]),
    ("consumer_lag_seconds", "gauge", &[("partition", "0 1")]),
    ("consumer_committed_offset", "gauge", &[("partition", "0 1")]),
    ("consumer_assigned_partitions", "gauge", &[]),
    ("consumer_paused_partitions", "gauge", &[("cause", "backpressure breaker ledger parked_limit")]),
    ("consumer_rebalances_total", "counter", &[("kind", "assigned revoked lost")]),
    ("consumer_drain_duration_seconds", "histogram", &[]),
    ("offset_commits_total", "counter", &[("result", "ok error")]),
    ("offsets_lost_total", "counter", &[]),
    ("kafka_errors_total", "counter", &[("class", "transport authentication authorization other")]),
    ("topic_retention_seconds", "gauge", &[]),
    ("last_poll_timestamp_seconds", "gauge", &[]),
    ("ledger_batch_size", "histogram", &[("operation", "claim done dead")]),
    ("postgres_duration_seconds", "histogram", &[("operation", "claim done dead"), ("result", "ok outage")]),
    ("postgres_pool_connections", "gauge", &[("state", "used idle")]),
    ("postgres_pool_wait_seconds", "histogram", &[]),
    ("ledger_rows", "gauge", &[]),
    ("ledger_pruned_total", "counter", &[]),
    ("parked_records", "gauge", &[("kind", "retry replay")]),
    ("parked_keys", "gauge", &[]),
    ("parked_oldest_timestamp_seconds", "gauge", &[]),
    ("parked_next_due_timestamp_seconds", "gauge", &[]),
    ("breaker_state", "gauge", &[("dependency", DEPENDENCIES), ("state", "closed open half_open")]),
    ("breaker_opened_total", "counter", &[("dependency", DEPENDENCIES)]),
    ("exhausted_without_evidence_total", "counter", &[]),
    ("crash_loop_partitions", "gauge", &[]),
    ("busy_records", "gauge", &[]),
    ("dead_letters_total", "counter", &[("reason", REASONS)]),
    ("dead_letters_published_total", "counter", &[]),
    ("dead_letter_publish_failures_total", "counter", &[]),
    ("dead_letters_unpublished", "gauge", &[]),
    ("dead_letters_oldest_unpublished_timestamp_seconds", "gauge", &[]),
    ("dead_letter_publish_duration_seconds", "histogram", &[]),
    ("dead_letters", "gauge", &[("state", "open replaying quarantined discarded resolved"), ("reason", REASONS)]),
    ("dead_letters_oldest_open_timestamp_seconds", "gauge", &[]),
    ("dead_letters_expiring", "gauge", &[]),
    ("replays_total", "counter", &[("result", "notified duplicate dead_lettered refused")]),
    ("replay_runs", "gauge", &[("state", "planned running paused stopped cancelled done")]),
    ("replay_remaining_records", "gauge", &[]),
    ("operator_actions_total", "counter", &[("result", "ok refused conflict error")]),
    ("build_info", "gauge", &[]),
    ("invariant_violations_total", "counter", &[("invariant", "I1 I2 I3 I4 I5 I6 I7 I8")]),
    ("queue_length", "gauge", &[]),
    ("queue_capacity", "gauge", &[]),
    ("memory_limit_bytes", "gauge", &[]),
    ("memory_used_bytes", "gauge", &[]),
];

const LABELLED_WITH_THE_TOPIC: [&str; 9] = [
    "records_polled_total",
    "records_total",
    "records_in_flight",
    "event_age_seconds",
    "consumer_lag_records",
    "consumer_assigned_partitions",
    "topic_retention_seconds",
    "dead_letters_total",
    "dead_letters_published_total",
];

/// What is missing of one metric.
fn missing(text: &str, name: &str, kind: &str, labels: Labels) -> Vec<String> {
    let kind_line = format!("# TYPE herald_{name} {kind}");
    if !text.lines().any(|line| line == kind_line) {
        return vec![kind_line];
    }
    let suffix = if kind == "histogram" { "_count" } else { "" };
    let mut combinations = vec![Vec::new()];
    for (label, values) in labels {
        let longer = combinations.iter().flat_map(|combination: &Vec<String>| {
            values.split(' ').map(move |value| [combination.as_slice(), &[format!("{label}=\"{value}\"")]].concat())
        });
        combinations = longer.collect();
    }
    let is_there = |wanted: &Vec<String>| {
        text.lines().any(|line| {
            let series = line.rsplit_once(' ').map_or("", |(series, _)| series);
            let (found, labels) = series.split_once('{').unwrap_or((series, ""));
            found == format!("herald_{name}{suffix}") && wanted.iter().all(|label| labels.contains(label))
        })
    };
    combinations.iter().filter(|wanted| !is_there(wanted)).map(|wanted| format!("{name}{wanted:?}")).collect()
}

async fn text(worker: &Worker) -> String {
    worker.get("/metrics").await.unwrap().1
}

/// The partitions that have series of this metric.
fn partitions(metrics: &Metrics, name: &str) -> BTreeSet<String> {
    let labels = metrics.0.keys().filter_map(|series| series.strip_prefix(&format!("herald_{name}{{")));
    labels.map(|labels| labels.split("partition=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_series_of_the_contract_is_there_right_after_the_start() {
    let world = World::with_partitions(2).await;
    let worker = world.worker().start().await;
    // The lag of a partition is known only after Kafka was asked.
    wait_until("every series is there", EVENTUALLY, async || {
        let text = text(&worker).await;
        let missing: Vec<String> =
            CONTRACT.iter().flat_map(|(name, kind, labels)| missing(&text, name, kind, labels)).collect();
        equal(missing, &Vec::new())
    })
    .await;
    let text = text(&worker).await;
    let topic = format!("topic=\"{}\"", world.topic);
    for name in LABELLED_WITH_THE_TOPIC {
        let mut series = text.lines().filter(|line| line.starts_with(&format!("herald_{name}")) && line.contains('{'));
        assert!(series.all(|line| line.contains(&topic)), "{name} without its topic");
    }
    for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is missing");
    }
}

#[tokio::test]
async fn every_metric_says_what_it_means() {
    let world = World::with_partitions(1).await;
    let worker = world.worker().start().await;
    let text = text(&worker).await;
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        assert!(help.is_some_and(|help| help.ends_with('.') || name.starts_with("process_")), "{name}: {help:?}");
    }
}

#[tokio::test]
async fn the_sums_close_over_every_outcome_and_while_work_goes_on() {
    let mut world = World::with_partitions(2).await;
    world.gateway.answer(Answer::ok().after(Duration::from_millis(10)));
    world.gateway.always_answer_order("7", Answer::status(422));
    world.gateway.answer_order("8", [Answer::status(503)]);
    let mut events: Vec<_> = (0..300).map(orders::created).collect();
    events.extend([orders::created(1), orders::created(2), orders::event("ORDER_SEEN", 1)]);
    world.produce(&events).await;
    world.kafka.produce(&world.topic, vec![NewRecord::of("no JSON"), NewRecord::of("{}")]).await;
    let worker = world.worker().with("HERALD_DELIVERY__MAX_CONCURRENT", "4").start().await;
    while world.gateway.accepted() < 250 {
        worker.assert_accounting_closes().await;
    }
    world.all_committed().await;
    worker.assert_accounting_closes().await;
    let metrics = worker.metrics().await;
    let sum = |name: &str, labels: &[(&str, &str)]| metrics.sum(&format!("herald_{name}"), labels);
    for (name, labels, expected) in [
        ("records_polled_total", &[][..], 305.0),
        ("records_total", &[("outcome", "notified")][..], 299.0),
        ("records_total", &[("outcome", "duplicate")][..], 2.0),
        ("records_total", &[("outcome", "ignored")][..], 1.0),
        ("records_total", &[("outcome", "dead_lettered")][..], 3.0),
        ("records_in_flight", &[][..], 0.0),
        ("attempts_total", &[("result", "ok")][..], 299.0),
        ("attempts_total", &[("result", "permanent")][..], 1.0),
        ("attempts_total", &[("result", "transient")][..], 1.0),
        ("dead_letters_total", &[("reason", "undecodable")][..], 1.0),
        ("dead_letters_total", &[("reason", "invalid")][..], 1.0),
        ("dead_letters_total", &[("reason", "permanent")][..], 1.0),
        ("record_duration_seconds_count", &[("outcome", "notified")][..], 299.0),
        ("event_age_seconds_count", &[][..], 299.0),
        ("topic_retention_seconds", &[][..], 604_800.0),
    ] {
        assert!((sum(name, labels) - expected).abs() < 0.5, "{name}{labels:?} is {}", sum(name, labels));
    }
    worker.wait_for_metric("herald_dead_letters", &[("state", "open")], 3.0).await;
    worker.wait_for_metric("herald_dead_letters_published_total", &[], 3.0).await;
    worker.wait_for_metric("herald_dead_letters_unpublished", &[], 0.0).await;
    worker.wait_for_metric("herald_consumer_lag_records", &[], 0.0).await;
    sqlx::query("ANALYZE processed_orders").execute(&world.database.pool).await.unwrap();
    worker.wait_for_metric("herald_ledger_rows", &[], 302.0).await;
    let waited = worker.metrics().await.sum("herald_postgres_pool_wait_seconds_count", &[]);
    assert!(waited > 1.0, "statements wait for a connection each: {waited}");
}

#[tokio::test]
async fn what_operators_did_is_counted_ever_and_is_the_same_at_every_worker_and_after_a_restart() {
    let world = World::with_partitions(2).await;
    let setup = world.worker();
    let acts = async |words: &[&str], code| assert_eq!(setup.run_command(words).await.code, Some(code), "{words:?}");
    let first = setup.start().await;
    world.kafka.produce(&world.topic, vec![NewRecord::of("no JSON"), NewRecord::of("{}")]).await;
    world.buried(2).await;
    let counted = async |worker: &Worker, expected: [(&str, &str, f64); 5]| {
        for (action, result, count) in expected {
            let labels = [("action", action), ("result", result)];
            worker.wait_for_metric("herald_operator_actions_total", &labels, count).await;
        }
    };
    acts(&["dlq", "discard", "--reason", "undecodable", "--why", "test_data"], 0).await;
    acts(&["dlq", "replay"], 3).await;
    acts(&["dlq", "replays", "cancel", "r9"], 3).await;
    acts(&["dlq", "reindex", "--of-topic", "no-such-topic"], 1).await;
    let seen = [
        ("discard", "ok", 1.0),
        ("replay", "refused", 1.0),
        ("cancel", "refused", 1.0),
        ("reindex", "error", 1.0),
        ("restore", "conflict", 0.0),
    ];
    counted(&first, seen).await;
    let second = setup.start().await;
    counted(&second, seen).await;
    drop((first, second));
    // Nobody is there to see it.
    acts(&["dlq", "discard", "--reason", "invalid", "--why", "test_data"], 0).await;
    let third = setup.start().await;
    let [(action, result, _), others @ ..] = seen;
    counted(&third, [others[0], others[1], others[2], others[3], (action, result, 2.0)]).await;
}

#[tokio::test]
async fn the_lag_is_right_while_partitions_are_paused_and_while_nobody_can_sample_it() {
    let mut broker = Broker::private().await;
    let mut world = World::on(broker.clone(), 1).await;
    world.gateway.down().await;
    // Longer than the freeze: a worker that has lost its partitions shows nothing of them.
    let worker = world.worker().with("HERALD_KAFKA__SESSION_TIMEOUT", "40s").start().await;
    world.produce(&(0..20).map(orders::created).collect::<Vec<_>>()).await;
    worker.wait_for_metric("herald_consumer_paused_partitions", &[("cause", "breaker")], 1.0).await;
    world.produce(&(20..50).map(orders::created).collect::<Vec<_>>()).await;
    worker.wait_for_metric("herald_consumer_lag_records", &[], 50.0).await;

    broker.freeze();
    let lag = async || worker.metrics().await.sum("herald_consumer_lag_seconds", &[]);
    let (start, first) = (Instant::now(), lag().await);
    wait_until("the lag in seconds grows", EVENTUALLY, async || {
        let grown = lag().await - first;
        if grown > 8.0 { Ok(()) } else { Err(grown) }
    })
    .await;
    let (grown, elapsed) = (lag().await - first, start.elapsed().as_secs_f64());
    assert!((grown - elapsed).abs() < 2.0, "grown by {grown} s in {elapsed} s");
    broker.thaw();
    world.gateway.up().await;
    world.all_committed().await;
    worker.wait_for_metric("herald_consumer_lag_records", &[], 0.0).await;
    worker.wait_for_metric("herald_consumer_lag_seconds", &[], 0.0).await;
}

#[tokio::test]
async fn the_series_of_a_partition_are_at_the_worker_that_owns_it_and_at_no_other() {
    let world = World::with_partitions(4).await;
    let first = world.worker().start().await;
    let names = ["consumer_lag_records", "consumer_lag_seconds", "consumer_committed_offset"];
    let owned = async |worker: &Worker, count: usize| {
        wait_until(&format!("the worker has the series of {count} partitions"), EVENTUALLY, async || {
            let metrics = worker.metrics().await;
            equal(names.map(|name| partitions(&metrics, name).len()), &[count; 3])
        })
        .await;
    };
    owned(&first, 4).await;
    let mut second = world.worker().start().await;
    owned(&first, 2).await;
    owned(&second, 2).await;
    let (of_first, of_second) = tokio::join!(first.metrics(), second.metrics());
    for name in names {
        let both: BTreeSet<String> = &partitions(&of_first, name) | &partitions(&of_second, name);
        assert_eq!(both.len(), 4, "{name} is missing for a partition");
    }
    // A later sample does not bring back what went.
    let sampled = async || first.metrics().await.sum("herald_consumer_lag_sample_timestamp_seconds", &[]);
    let before = sampled().await;
    wait_until("the lag is sampled again", EVENTUALLY, async || {
        let after = sampled().await;
        if after > before { Ok(()) } else { Err(after) }
    })
    .await;
    owned(&first, 2).await;
    second.sigterm();
    second.wait_exit(EVENTUALLY).await;
    owned(&first, 4).await;
}
