//! Everything at once: real Kafka, Postgres, workers and Prometheus, with the rules as they are shipped but faster. Drills break
//! something each; meanwhile every panel and every rule has to find data, and every name has to be one of the binary.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use futures_util::future::join_all;

use crate::drill::{fired, fired_in};
use crate::drills::{self, Daily};
use crate::files::{DASHBOARDS, RULES, alerts, dashboard, expressions, metric_names, panels, read, rules};
use crate::prometheus::Prometheus;
use crate::promtool::promtool;
use crate::speed::sped_up;

/// Metrics that no dashboard, rule or runbook needs, and why they are there.
const UNUSED_ON_PURPOSE: [(&str, &str); 5] = [
    ("process_max_fds", "comes with the others of the process; a limit of the system"),
    ("process_open_fds", "comes with the others of the process; connections are bounded by configuration"),
    ("process_start_time_seconds", "comes with the others of the process; up and build_info tell restarts"),
    ("process_threads", "comes with the others of the process; the number is fixed"),
    ("process_virtual_memory_bytes", "comes with the others of the process; says nothing of use"),
];

/// A violation is a bug, and none is known. The unit tests of the rules have it fire.
const NEVER_PROVOKED: [&str; 1] = ["HeraldInvariantViolated"];

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

/// In one of the drills or another.
async fn assert_each_alert_fired(prometheus: &Prometheus) {
    let mut expected: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    for name in NEVER_PROVOKED {
        assert!(expected.remove(name), "{name} is no alert");
    }
    assert_eq!(fired_in(prometheus, "job!=\"\"").await, expected);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_drill_raises_its_alert_and_no_other_and_every_panel_and_rule_finds_data() {
    let daily = Daily::start().await;
    let rules = RULES.map(|file| (file, sped_up(&read(&format!("dashboards/rules/{file}")))));
    let (job, target) = daily.target();
    let prometheus = Prometheus::start(&rules, job, &target).await;
    // Each to its end, whatever becomes of the others.
    let drills = drills::all(&prometheus).into_iter().map(|drill| AssertUnwindSafe(drill).catch_unwind());
    let (quiet, drills) = tokio::join!(Box::pin(daily.go_on(&prometheus)), join_all(drills));
    let failed = drills.iter().filter(|drill| drill.is_err()).count();
    assert_eq!(failed, 0, "drills failed: what each of them panicked with is above");
    let metrics = quiet.ends().await;
    assert_eq!(fired(&prometheus, "").await, BTreeSet::new(), "alerts without a job");
    assert_each_alert_fired(&prometheus).await;
    assert_eq!(promtool(&["check", "metrics"], &metrics), Ok(String::new()), "promtool check metrics");
    assert_names_agree(&metrics);
    let all_of_it = u32::try_from(prometheus.age_seconds()).unwrap();
    assert_rules_find_data(&prometheus, all_of_it).await;
    assert_panels_find_data(&prometheus, all_of_it).await;
}
