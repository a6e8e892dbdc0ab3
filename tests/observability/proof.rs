//! Everything at once: real Kafka, Postgres, workers and Prometheus, with the rules as they are shipped but faster. Drills break
//! something each; meanwhile every panel and every rule has to find data, and every name has to be one of the binary.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use crate::drill::{Drill, fired};
use crate::files::{DASHBOARDS, RULES, alerts, dashboard, expressions, metric_names, panels, path, read, rules};
use crate::prometheus::Prometheus;
use crate::promtool::promtool;
use crate::speed::sped_up;
use crate::support::gateway::Answer;
use crate::support::kafka::{Broker, NewRecord};
use crate::support::wait::{EVENTUALLY, blocking, equal, wait_until};
use crate::support::{World, letters, orders, postgres};
use crate::traffic::{Batch, Traffic};

/// Metrics that no dashboard, rule or runbook needs, and why they are there.
const UNUSED_ON_PURPOSE: [(&str, &str); 5] = [
    ("process_max_fds", "comes with the others of the process; a limit of the system"),
    ("process_open_fds", "comes with the others of the process; connections are bounded by configuration"),
    ("process_start_time_seconds", "comes with the others of the process; up and build_info tell restarts"),
    ("process_threads", "comes with the others of the process; the number is fixed"),
    ("process_virtual_memory_bytes", "comes with the others of the process; says nothing of use"),
];

/// Selectors of an expression, with their matchers and without their ranges.
fn selectors(expression: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let word = &rest[at..];
        let end = word.find(|c: char| !is_of_name(c)).unwrap_or(word.len());
        let (name, after) = word.split_at(end);
        if name.starts_with("herald") && !after.starts_with('.') || name == "up" {
            let matchers = if after.starts_with('{') { after.split_inclusive('}').next().unwrap() } else { "" };
            found.insert(format!("{name}{matchers}"));
        }
        // Matchers hold strings that look like names.
        rest = if after.starts_with('{') { after.split_once('}').map_or("", |(_, rest)| rest) } else { after };
    }
    found
}

async fn assert_rules_find_data(prometheus: &Prometheus, seconds: u32) {
    for rule in rules() {
        for selector in selectors(&rule.expression) {
            let series = prometheus.over(&selector, seconds).await;
            assert!(!series.is_empty(), "{}: nothing is selected by {selector}", rule.name);
        }
    }
    for rule in prometheus.rules().await {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}

/// A panel may show nothing for a while; over all drills together each of its queries has values.
async fn assert_panels_find_data(prometheus: &Prometheus, seconds: u32) {
    let mut empty = Vec::new();
    for name in DASHBOARDS {
        for panel in panels(&dashboard(name)) {
            for expression in expressions(&panel) {
                let query = ["job", "instance", "topic"]
                    .iter()
                    .fold(expression.replace("$__rate_interval", "8s"), |query, name| {
                        query.replace(&format!("${name}"), ".+")
                    });
                let series = prometheus.over(&query, seconds).await;
                if !series.iter().any(|one| one.values.iter().any(|value| value.is_finite())) {
                    empty.push(format!("{name}: {}: {query}", panel["title"]));
                }
            }
        }
    }
    assert!(empty.is_empty(), "{empty:#?}");
}

fn assert_names_agree(metrics: &str) {
    let of_binary: BTreeSet<String> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    let mut used = BTreeSet::new();
    for name in DASHBOARDS {
        used.extend(panels(&dashboard(name)).iter().flat_map(expressions).flat_map(|query| metric_names(&query)));
    }
    used.extend(rules().iter().flat_map(|rule| metric_names(&rule.expression)));
    for alert in alerts() {
        used.extend(metric_names(&read(&format!("docs/runbooks/{}.md", alert.name))));
    }
    used.retain(|name| !name.starts_with("herald:"));
    let unused: BTreeSet<String> = UNUSED_ON_PURPOSE.iter().map(|(name, _)| (*name).to_owned()).collect();
    let unknown: Vec<_> = used.difference(&of_binary).collect();
    assert!(unknown.is_empty(), "named, but not in the binary: {unknown:?}");
    let forgotten: Vec<_> = of_binary.difference(&used).filter(|name| !unused.contains(*name)).collect();
    assert!(forgotten.is_empty(), "neither used nor listed as unused: {forgotten:?}");
    let needless: Vec<_> = unused.intersection(&used).chain(unused.difference(&of_binary)).collect();
    assert!(needless.is_empty(), "listed as unused, but used or gone: {needless:?}");
}

fn series_of(metrics: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

async fn postgres_down(prometheus: &Prometheus, drill: &Drill, server: &mut herald::demo::postgres::PrivatePostgres) {
    server.crash().unwrap();
    drill.raises(prometheus, &["HeraldPostgresUnavailable"]).await;
}

async fn gateway_down(prometheus: &Prometheus, drill: &mut Drill) {
    drill.world.gateway.down().await;
    drill.raises(prometheus, &["HeraldGatewayUnavailable"]).await;
}

async fn dlq_topic_gone(prometheus: &Prometheus, drill: &Drill) {
    drill.world.kafka.delete_topic(&drill.world.dlq_topic).await;
    drill.world.kafka.produce(&drill.world.topic, vec![NewRecord::of("no JSON")]).await;
    drill.raises(prometheus, &["HeraldDeadLetterNewReason", "HeraldDeadLetterPublishFailing"]).await;
}

async fn poison_burst(prometheus: &Prometheus, drill: &mut Drill) {
    drill.traffic = Some(Traffic::start(&drill.world, Batch { poison: 4, ..Batch::USUAL }));
    drill.raises(prometheus, &["HeraldDeadLetterNewReason", "HeraldDeliveredBurnFast"]).await;
}

async fn old_records(prometheus: &Prometheus, drill: &mut Drill) {
    drill.traffic = Some(Traffic::start(&drill.world, Batch { age: Duration::from_mins(10), ..Batch::USUAL }));
    drill.raises(prometheus, &["HeraldFreshBurnFast"]).await;
}

/// One request that hangs holds its partition and no other.
async fn partition_held(prometheus: &Prometheus, drill: &mut Drill) {
    drill.world.gateway.always_answer_order("held", Answer::Hang);
    let mut held = orders::created(1);
    held["order"]["order_id"] = "held".into();
    drill.world.produce_in(0, &[held]).await;
    drill.raises(prometheus, &["HeraldPartitionStuck"]).await;
}

/// The first that is killed is no alert: the other does its work.
async fn workers_killed(prometheus: &Prometheus, drill: &mut Drill) {
    let mut first = drill.workers.remove(0);
    first.kill9().await;
    drill.world.shared_equally(&[&drill.workers[0]]).await;
    drill.raises(prometheus, &[]).await;
    drill.workers[0].kill9().await;
    drill.raises(prometheus, &["HeraldDown"]).await;
}

async fn kafka_hangs(prometheus: &Prometheus, drill: &mut Drill, broker: &mut Broker) {
    // A batch under way would wait for the broker.
    drill.traffic.take().unwrap().end().await;
    broker.freeze();
    drill.raises(prometheus, &["HeraldNoPartitionsAssigned"]).await;
}

/// An hour of the drills' clock is two minutes, so a day is 48.
async fn nobody_looks(prometheus: &Prometheus, drill: &Drill) {
    drill.world.kafka.produce(&drill.world.topic, vec![NewRecord::of("no JSON")]).await;
    drill.world.buried(1).await;
    let backdated = "UPDATE dead_letters SET failed_at = failed_at - interval '50 minutes'";
    drill.world.published(1).await;
    sqlx::query(backdated).execute(&drill.world.database.pool).await.unwrap();
    assert_eq!(letters::rows(&drill.world.database.pool).await.len(), 1);
    drill.raises(prometheus, &["HeraldDeadLetterNewReason", "HeraldDeadLettersUnattended"]).await;
}

/// Some orders fail now and then, duplicates and foreign event types arrive, an instance comes and goes: nothing that anybody should be woken for.
async fn daily_life(prometheus: &Prometheus, drill: &mut Drill, until: impl Future<Output = ()>) {
    let before = series_of(&drill.workers[0].get("/metrics").await.unwrap().1);
    let mut events: Vec<_> = (1_000_000..1_002_000).map(orders::created).collect();
    events.extend((1_000_000..1_000_020).map(orders::created));
    events.extend((0..20).map(|order| orders::event(&format!("TYPE_{order}"), order)));
    for order in 1_000_000..1_000_100_u64 {
        drill.world.gateway.answer_order(&order.to_string(), [Answer::status(503)]);
    }
    drill.world.produce_evenly(&events).await;
    let mut guest = drill.world.worker().start().await;
    drill.world.shared_equally(&[&drill.workers[0], &guest]).await;
    guest.sigterm();
    assert_eq!(guest.wait_exit(EVENTUALLY).await, 0);
    until.await;
    drill.raises(prometheus, &[]).await;
    let metrics = wait_until("orders, errors and event types have added no series", EVENTUALLY, async || {
        let metrics = drill.workers[0].get("/metrics").await.unwrap().1;
        equal(series_of(&metrics), &before).map(|_| metrics)
    })
    .await;
    let checked = promtool(&["check", "metrics"], &metrics);
    assert_eq!(checked, Ok(String::new()), "promtool check metrics");
    assert_names_agree(&metrics);
}

/// For `make pictures`: the dashboards as they look during the drills.
async fn draw(prometheus: &Prometheus, directory: &str) {
    let mut command = Command::new("python3");
    command.arg(path("dashboards/pictures/draw.py")).args([
        prometheus.url(),
        &prometheus.age_seconds().to_string(),
        directory,
    ]);
    command.current_dir(path("."));
    let output = blocking(move || command.output().unwrap()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_drill_raises_its_alert_and_no_other_and_every_panel_and_rule_finds_data() {
    let (mut server, url) = postgres::private().await;
    let mut broker = Broker::private().await;
    let world = World::with_partitions(2).await;
    // A statement waits this long before it is an outage. By the rules' clock the default of 10 s would be five minutes, in which a
    // partition that stands still is told before its cause.
    let without_postgres = world.worker().with("DATABASE_URL", &url).with("HERALD_DATABASE__STATEMENT_TIMEOUT", "1s");
    let postgres = Drill::with("herald-postgres", world, &without_postgres, 1).await;
    let world = World::on(broker.clone(), 2).await;
    let without_kafka = world.worker();
    let mut kafka = Drill::with("herald-kafka", world, &without_kafka, 1).await;
    let world = World::with_partitions(2).await;
    let patient = world.worker().with("HERALD_WEBHOOK__TIMEOUT", "5m");
    let mut held = Drill::with("herald-held", world, &patient, 1).await;
    let mut gateway = Drill::new("herald-gateway", 1).await;
    let dlq = Drill::new("herald-dlq", 1).await;
    let mut poison = Drill::new("herald-poison", 1).await;
    let mut late = Drill::new("herald-late", 1).await;
    let unattended = Drill::new("herald-unattended", 1).await;
    let mut killed = Drill::new("herald-killed", 2).await;
    let mut daily = Drill::new("herald-daily", 1).await;
    let all = [&postgres, &kafka, &held, &gateway, &dlq, &poison, &late, &unattended, &killed, &daily];
    let targets: Vec<_> = all.iter().flat_map(|drill| drill.targets()).collect();
    let rules = RULES.map(|file| (file, sped_up(&read(&format!("dashboards/rules/{file}")))));
    let prometheus = Prometheus::start(&rules, &targets).await;
    wait_until("all is scraped and nothing fires", EVENTUALLY, async || {
        let up = prometheus.at_once("sum(up) + 0 * count(herald:records_ended:rate5m)").await;
        match up.first() {
            Some(one) if (one.values[0] - 11.0).abs() < 0.5 => Ok(()),
            _ => Err(format!("{up:?}")),
        }
    })
    .await;

    let drills = async {
        tokio::join!(
            postgres_down(&prometheus, &postgres, &mut server),
            gateway_down(&prometheus, &mut gateway),
            dlq_topic_gone(&prometheus, &dlq),
            poison_burst(&prometheus, &mut poison),
            old_records(&prometheus, &mut late),
            partition_held(&prometheus, &mut held),
            workers_killed(&prometheus, &mut killed),
            kafka_hangs(&prometheus, &mut kafka, &mut broker),
            nobody_looks(&prometheus, &unattended),
        );
    };
    Box::pin(daily_life(&prometheus, &mut daily, drills)).await;
    assert_eq!(fired(&prometheus, "").await, BTreeSet::new(), "alerts without a job");
    assert_rules_find_data(&prometheus, 180).await;
    assert_panels_find_data(&prometheus, 180).await;
    if let Ok(directory) = std::env::var("HERALD_PICTURES") {
        draw(&prometheus, &directory).await;
    }
    broker.thaw();
}
