//! `docs/metrics.md`, written from the registry that `/metrics` is written from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use prometheus::Registry;
use prometheus::proto::{MetricFamily, MetricType};

use super::lag::PartitionLag;
use super::{Subject, Telemetry};
use crate::core::record::{Offset, Partition};

const OPENING: &str = "\
# Metrics

This page is written by `make docs` from the same code that serves `/metrics`; do not edit it.

Names, types and labels are a contract with dashboards and alerts: a rename is a breaking change. Units are
seconds and bytes. Every series of an enumerated label is there at 0 from the start, but for the totals that Postgres has to tell first
(`herald_operator_actions_total`); the series of a partition are at the worker that owns it and at no other. No label holds an order, a user, an error, an offset or an operator: the number of series does not grow with traffic.

";

/// Values of these come from the configuration or the build.
const CONFIGURED: [&str; 6] = ["topic", "partition", "channel", "version", "revision", "rustc"];

/// Every metric with its type, its labels and their values, and what it means.
pub fn markdown() -> prometheus::Result<String> {
    let mut text = OPENING.to_owned();
    text.push_str("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for family in families()? {
        let (name, help, kind) = (family.name(), family.help(), kind(&family));
        let _ = writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels(&family));
    }
    Ok(text)
}

/// What a worker that owns one partition shows; how many partitions there are changes no metric.
fn families() -> prometheus::Result<Vec<MetricFamily>> {
    let registry = Registry::new();
    let telemetry = Telemetry::new(&registry, Subject { topic: "order_events", channel: "webhook" })?;
    let partition = Partition(0);
    telemetry.lag().show(&[partition]);
    let (committed, end, behind_since) = (Offset(0), Offset(0), Instant::now());
    telemetry.lag().replace([PartitionLag { partition, committed, end, behind_since }]);
    telemetry.operators().replace([]);
    Ok(registry.gather())
}

fn kind(family: &MetricFamily) -> &'static str {
    match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}

fn labels(family: &MetricFamily) -> String {
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for label in family.get_metric().iter().flat_map(prometheus::proto::Metric::get_label) {
        let seen = values.entry(label.name()).or_default();
        if !seen.contains(&label.value()) {
            seen.push(label.value());
        }
    }
    let described = values.iter().map(|(name, values)| {
        if CONFIGURED.contains(name) { format!("`{name}`") } else { format!("`{name}`: {}", values.join(", ")) }
    });
    described.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_repository_is_what_the_code_says() {
        let kept = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"));
        assert!(kept == markdown().unwrap(), "docs/metrics.md is stale: run `make docs`");
    }
}
