//! The worker: the binary itself, from a topic that is full to a ledger in which every order is settled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use herald::core::record::{Offset, Partition};
use reqwest::Client;
use serde::Serialize;

use crate::Source;
use crate::ledger::Server;
use crate::support::unique;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Metrics, Worker, WorkerSetup, http_client};

/// How often it is looked whether work has begun, while there is none to disturb.
const BEFORE: Duration = Duration::from_millis(5);
/// How often it is looked whether all is done: what a look costs is small, and what it is late by counts against the worker.
const DURING: Duration = Duration::from_millis(50);

/// One measurement of the worker.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// From the first record polled to the last order settled.
    pub settled: Duration,
    /// From the first record polled to the last offset committed; librdkafka commits once a second.
    pub committed: Duration,
    /// Of the worker's process.
    pub cpu_seconds: f64,
    pub rows_per_claim: f64,
    pub rows_per_settlement: f64,
}

pub async fn measure(server: &Server, source: &Source) -> Measured {
    let fresh = server.fresh().await;
    let group = unique("bench");
    let worker = WorkerSetup::empty()
        .with("KAFKA_BOOTSTRAP_SERVERS", source.kafka.bootstrap_servers())
        .with("DATABASE_URL", &fresh.url)
        .with("HERALD_KAFKA__TOPIC", &source.topic)
        .with("HERALD_KAFKA__GROUP", &group)
        .with("HERALD_DEAD_LETTERS__TOPIC", &source.dlq_topic)
        .with("HERALD_NOTIFICATION__CHANNEL", "log")
        .with("HERALD_TELEMETRY__LOG_LEVEL", "info,herald::notification=off")
        .spawn();
    let watch = Watch { client: http_client(), worker };
    let started = watch.first_polled().await;
    let metrics = watch.all_settled(source.orders).await;
    let settled = started.elapsed();
    watch.all_committed(source, &group).await;
    let committed = started.elapsed();
    server.finish(fresh, source.orders).await;
    Measured {
        settled,
        committed,
        cpu_seconds: metrics.sum("process_cpu_seconds_total", &[]),
        rows_per_claim: mean_batch(&metrics, "claim"),
        rows_per_settlement: mean_batch(&metrics, "done"),
    }
}

/// Looks at a worker without making a client for each look.
struct Watch {
    client: Client,
    worker: Worker,
}

impl Watch {
    async fn metrics(&self) -> Option<Metrics> {
        assert_eq!(self.worker.exit_status(), None, "the worker ended:\n{}", self.worker.log());
        let answer = self.client.get(self.worker.url("/metrics")).send().await.ok()?;
        Some(Metrics::parse(&answer.text().await.ok()?))
    }

    /// The time of the last look that saw nothing: work began after that.
    async fn first_polled(&self) -> Instant {
        let limit = Instant::now() + EVENTUALLY;
        let mut before = Instant::now();
        loop {
            assert!(before < limit, "nothing was polled:\n{}", self.worker.log());
            let looked = Instant::now();
            let metrics = self.metrics().await.unwrap_or_default();
            if metrics.sum("herald_records_polled_total", &[]) > 0.0 {
                return before;
            }
            before = looked;
            tokio::time::sleep(BEFORE).await;
        }
    }

    /// The metrics at the end.
    async fn all_settled(&self, orders: u32) -> Metrics {
        let mut last_progress = (Instant::now(), 0.0);
        loop {
            let metrics = self.metrics().await.unwrap_or_default();
            let notified = metrics.sum("herald_records_total", &[("outcome", "notified")]);
            if notified >= f64::from(orders) {
                return metrics;
            }
            if notified > last_progress.1 {
                last_progress = (Instant::now(), notified);
            }
            assert!(last_progress.0.elapsed() < EVENTUALLY, "it stands still:\n{}", self.worker.log());
            tokio::time::sleep(DURING).await;
        }
    }

    async fn all_committed(&self, source: &Source, group: &str) {
        let ends: BTreeMap<Partition, Offset> = source.kafka.end_offsets(&source.topic).await;
        wait_until("all offsets are committed", EVENTUALLY, async || {
            let committed = source.kafka.committed_offsets(group, &source.topic).await;
            if committed == ends { Ok(()) } else { Err(format!("{committed:?} of {ends:?}")) }
        })
        .await;
    }
}

fn mean_batch(metrics: &Metrics, operation: &str) -> f64 {
    let labels = [("operation", operation)];
    metrics.sum("herald_ledger_batch_size_sum", &labels) / metrics.sum("herald_ledger_batch_size_count", &labels)
}
