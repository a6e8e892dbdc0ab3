//! One drill: a Herald of its own under a job of its own, into which something breaks.

use std::collections::BTreeSet;

use crate::prometheus::Prometheus;
use crate::support::World;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::traffic::{Batch, Traffic};

/// A world with two partitions, its workers, and traffic.
#[derive(Debug)]
pub struct Drill {
    /// The job under which Prometheus scrapes it.
    pub job: &'static str,
    pub world: World,
    pub workers: Vec<Worker>,
    pub traffic: Option<Traffic>,
}

impl Drill {
    pub async fn with(job: &'static str, world: World, setup: &WorkerSetup, workers: usize) -> Self {
        let mut started = Vec::new();
        for _ in 0..workers {
            started.push(quick(setup).start().await);
        }
        let traffic = Some(Traffic::start(&world, Batch::USUAL));
        Self { job, world, workers: started, traffic }
    }

    pub async fn new(job: &'static str, workers: usize) -> Self {
        let world = World::with_partitions(2).await;
        let setup = world.worker();
        Self::with(job, world, &setup, workers).await
    }

    /// What Prometheus scrapes.
    pub fn targets(&self) -> impl Iterator<Item = (String, String)> {
        let address = |worker: &Worker| worker.url("").trim_start_matches("http://").to_owned();
        self.workers.iter().map(move |worker| (self.job.to_owned(), address(worker)))
    }

    /// Waits until each of these alerts fires, and makes sure that no other has fired since the drill began.
    pub async fn raises(&self, prometheus: &Prometheus, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        let so_far = async || fired(prometheus, self.job).await;
        wait_until(&format!("{}: {expected:?} fire", self.job), EVENTUALLY, async || {
            let fired = so_far().await;
            if fired.is_superset(&expected) { Ok(()) } else { Err(format!("{fired:?}")) }
        })
        .await;
        let fired = so_far().await;
        assert_eq!(fired, expected, "{}\n{}", self.job, self.workers[0].log());
        println!("drill {}: {expected:?} and no other", self.job);
    }
}

/// So that a drill waits for the clocks of the alerts and not for those of the worker.
fn quick(setup: &WorkerSetup) -> WorkerSetup {
    setup.clone().with("HERALD_BREAKER__MAX_WAIT", "1s").with("HERALD_RETRY__INITIAL_BACKOFF", "50ms")
}

/// The alerts of this job that have fired at any time.
pub async fn fired(prometheus: &Prometheus, job: &str) -> BTreeSet<String> {
    let query = format!("group by (alertname) (max_over_time(ALERTS{{alertstate=\"firing\",job=\"{job}\"}}[1h]))");
    let series = prometheus.at_once(&query).await;
    series.iter().map(|one| one.labels["alertname"].as_str().unwrap().to_owned()).collect()
}
