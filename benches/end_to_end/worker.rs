//! The worker: the binary itself, from a topic that is full to a ledger in which every order is settled.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Client;

use crate::ledger::Fresh;
use crate::process;
use crate::slept;
use crate::source::Source;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Metrics, Worker, WorkerSetup, http_client};

/// How often it is looked whether work has begun, while there is none to disturb.
const BEFORE: Duration = Duration::from_millis(5);
/// How often it is looked whether all is done: what a look costs the worker counts against it, and what it is late by too. So it is
/// looked seldom, and often near the end.
const DURING: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(500);

/// A worker of this source and ledger, with a channel that does nothing.
pub fn setup(source: &Source, ledger: &Fresh, group: &str) -> WorkerSetup {
    WorkerSetup::empty()
        .with("KAFKA_BOOTSTRAP_SERVERS", source.kafka.bootstrap_servers())
        .with("DATABASE_URL", &ledger.url)
        .with("HERALD_KAFKA__TOPIC", &source.topic)
        .with("HERALD_KAFKA__GROUP", group)
        .with("HERALD_DEAD_LETTERS__TOPIC", &source.dlq_topic)
        .with("HERALD_NOTIFICATION__CHANNEL", "log")
        .with("HERALD_TELEMETRY__LOG_LEVEL", "info,herald::notification=off")
}

/// The same, with this gateway.
pub fn setup_with_gateway(source: &Source, ledger: &Fresh, group: &str, url: &str) -> WorkerSetup {
    setup(source, ledger, group).with("HERALD_NOTIFICATION__CHANNEL", "webhook").with("HERALD_WEBHOOK__URL", url)
}

/// The same, with work that is slept in the process, which says in this file when it begins.
pub fn setup_with_slept_work(source: &Source, ledger: &Fresh, group: &str, begun: &Path) -> WorkerSetup {
    setup(source, ledger, group)
        .of_program(std::env::current_exe().unwrap())
        .with(slept::VARIABLE, begun.to_str().unwrap())
}

/// Workers of one group, looked at without a new client for each look.
pub struct Watch {
    client: Client,
    workers: Vec<Worker>,
}

impl Watch {
    pub fn spawn(setup: &WorkerSetup) -> Self {
        Self::over(vec![setup.spawn()])
    }

    pub fn over(workers: Vec<Worker>) -> Self {
        Self { client: http_client(), workers }
    }

    /// From the first record polled to the last that ended.
    pub async fn time(&self, orders: u32) -> Duration {
        let started = self.first_polled().await;
        self.all_ended(orders).await;
        started.elapsed()
    }

    /// The time of the last look that saw nothing: work began after that.
    pub async fn first_polled(&self) -> Instant {
        let limit = Instant::now() + EVENTUALLY;
        let mut before = Instant::now();
        loop {
            assert!(before < limit, "nothing was polled:\n{}", self.log());
            let looked = Instant::now();
            if self.sum("herald_records_polled_total", &[]).await > 0.0 {
                return before;
            }
            before = looked;
            tokio::time::sleep(BEFORE).await;
        }
    }

    /// As many have ended, one way or another.
    pub async fn all_ended(&self, orders: u32) {
        let started = Instant::now();
        let mut last_progress = (started, 0.0);
        loop {
            let ended = self.sum("herald_records_total", &[]).await;
            if ended >= f64::from(orders) {
                return;
            }
            if ended > last_progress.1 {
                last_progress = (Instant::now(), ended);
            }
            assert!(last_progress.0.elapsed() < EVENTUALLY, "it stands still at {ended}:\n{}", self.log());
            // By its speed so far; a first look sees nothing yet.
            let left = started.elapsed().mul_f64((f64::from(orders) - ended) / ended.max(1.0));
            tokio::time::sleep((left / 2).clamp(*DURING.start(), *DURING.end())).await;
        }
    }

    /// Waits for a metric to be this number.
    pub async fn wait_for(&self, name: &str, expected: u32) {
        wait_until(&format!("{name} is {expected}"), EVENTUALLY, async || {
            let seen = self.sum(name, &[]).await;
            if (seen - f64::from(expected)).abs() < 0.5 { Ok(()) } else { Err(format!("{seen}\n{}", self.log())) }
        })
        .await;
    }

    pub async fn all_committed(&self, source: &Source, group: &str) {
        let ends = source.kafka.end_offsets(&source.topic).await;
        wait_until("all offsets are committed", EVENTUALLY, async || {
            let committed = source.kafka.committed_offsets(group, &source.topic).await;
            if committed == ends { Ok(()) } else { Err(format!("{committed:?} of {ends:?}")) }
        })
        .await;
    }

    /// Of all workers together.
    pub async fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut sum = 0.0;
        for worker in &self.workers {
            sum += self.metrics(worker).await.sum(name, labels);
        }
        sum
    }

    /// How many partitions each worker has.
    pub async fn assigned(&self) -> Vec<f64> {
        let mut assigned = Vec::new();
        for worker in &self.workers {
            assigned.push(self.metrics(worker).await.sum("herald_consumer_assigned_partitions", &[]));
        }
        assigned
    }

    /// Of the first, where there are several.
    pub fn pid(&self) -> u32 {
        self.workers[0].pid()
    }

    /// The most memory that any worker had at any time, in MiB.
    pub fn peak_mebibytes(&self) -> f64 {
        self.workers.iter().map(|worker| process::peak_mebibytes(worker.pid())).fold(0.0, f64::max)
    }

    /// Nothing where a worker does not listen yet.
    async fn metrics(&self, worker: &Worker) -> Metrics {
        assert_eq!(worker.exit_status(), None, "the worker ended:\n{}", worker.log());
        let text = async { self.client.get(worker.url("/metrics")).send().await?.text().await };
        text.await.map_or_else(|_| Metrics::default(), |text| Metrics::parse(&text))
    }

    fn log(&self) -> String {
        self.workers.iter().map(Worker::log).collect()
    }
}
