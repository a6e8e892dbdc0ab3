//! One drill: a Herald of its own under a job of its own, into which something breaks.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use crate::prometheus::Prometheus;
use crate::runbooks::commands;
use crate::support::World;
use crate::support::gateway::Answer;
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::traffic::{Batch, Traffic};

/// Longer than any alert takes by the clock of the drills.
const RAISED_WITHIN: Duration = Duration::from_mins(3);

/// A world with two partitions, its workers, and traffic.
#[derive(Debug)]
pub struct Drill<'a> {
    pub prometheus: &'a Prometheus,
    /// The job under which Prometheus scrapes it.
    pub job: &'static str,
    pub world: World,
    /// How a worker of it is started, and how an operator's command is run.
    pub setup: WorkerSetup,
    pub workers: Vec<Worker>,
    pub traffic: Option<Traffic>,
}

impl<'a> Drill<'a> {
    /// One worker with nothing special about it.
    pub async fn usual(prometheus: &'a Prometheus, job: &'static str) -> Self {
        let world = World::with_partitions(2).await;
        let setup = world.worker();
        Self::with(prometheus, job, world, setup, 1).await
    }

    /// So many workers, of this setup.
    pub async fn with(
        prometheus: &'a Prometheus,
        job: &'static str,
        world: World,
        setup: WorkerSetup,
        workers: usize,
    ) -> Self {
        let traffic = Some(Traffic::start(&world, Batch::USUAL));
        Self { traffic, ..Self::quiet(prometheus, job, world, setup, workers).await }
    }

    /// As [`Drill::with`], without traffic.
    pub async fn quiet(
        prometheus: &'a Prometheus,
        job: &'static str,
        world: World,
        setup: WorkerSetup,
        workers: usize,
    ) -> Self {
        let setup = quick(setup);
        let mut started = Vec::new();
        for _ in 0..workers {
            let worker = setup.start().await;
            prometheus.scrape(job, &address(&worker));
            started.push(worker);
        }
        Self::of_running(prometheus, job, world, setup, started).await
    }

    /// These workers, which are scraped.
    pub async fn of_running(
        prometheus: &'a Prometheus,
        job: &'static str,
        world: World,
        setup: WorkerSetup,
        workers: Vec<Worker>,
    ) -> Self {
        let drill = Self { prometheus, job, world, setup, workers, traffic: None };
        drill.is_watched().await;
        drill
    }

    /// Waits until Prometheus has seen all of it, so that what is counted from here on is an increase.
    async fn is_watched(&self) {
        let job = self.job;
        let query = format!("sum(up{{job=\"{job}\"}}) + 0 * count(herald:operator_actions{{job=\"{job}\"}})");
        self.sees(&query, f64::from(u32::try_from(self.workers.len()).unwrap())).await;
    }

    /// Waits until Prometheus answers this.
    pub async fn sees(&self, query: &str, expected: f64) {
        wait_until(&format!("Prometheus sees {query} at {expected}"), EVENTUALLY, async || {
            let found = self.prometheus.at_once(query).await;
            if found.first().is_some_and(|one| one.values == [expected]) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    /// Waits until each of these alerts fires, and makes sure that no other has fired since the drill began.
    pub async fn raises(&self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        let fired = wait_until(&format!("{}: {expected:?} fire", self.job), RAISED_WITHIN, async || {
            let fired = fired(self.prometheus, self.job).await;
            if fired.is_superset(&expected) { Ok(fired) } else { Err(format!("{fired:?}")) }
        })
        .await;
        assert_eq!(fired, expected, "{}\n{}", self.job, self.workers[0].log());
        let seconds = self.prometheus.age_seconds();
        println!("drill {}: {expected:?} and no other, after {seconds} s", self.job);
    }

    /// Does what the runbook says, every command of it; what its examples are called, is what `names` says. A command may be refused
    /// where the replay is over, or find that some fail again.
    pub async fn follow(&self, runbook: &str, names: &[(&str, &str)]) {
        for words in commands(runbook) {
            let name = |word: &String| {
                names.iter().find(|(name, _)| name == word).map_or(word.clone(), |(_, is)| (*is).to_owned())
            };
            let words: Vec<String> = words.iter().map(name).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let ended = self.setup.run_command(&words).await;
            assert!(matches!(ended.code, Some(0 | 3 | 4)), "{runbook}: herald {words:?}: {ended:?}");
        }
    }

    /// Every request for one of these orders, from now on.
    pub fn gateway_answers(&self, orders: Range<u64>, answer: &Answer) {
        for order in orders {
            self.world.gateway.always_answer_order(&order.to_string(), answer.clone());
        }
    }

    /// The bug that most dead letters are of, as `herald dlq` names it.
    pub async fn group(&self) -> String {
        let bug = "SELECT bug FROM dead_letters GROUP BY bug ORDER BY count(*) DESC LIMIT 1";
        sqlx::query_scalar(bug).fetch_one(&self.world.database.pool).await.unwrap()
    }

    /// An operator's command, and how it has to end.
    pub async fn operator(&self, words: &[&str], code: i32) {
        let ended = self.setup.run_command(words).await;
        assert_eq!(ended.code, Some(code), "{}: herald {words:?}: {ended:?}", self.job);
    }
}

pub fn address(worker: &Worker) -> String {
    worker.url("").trim_start_matches("http://").to_owned()
}

/// So that a drill waits for the clocks of the alerts and not for those of the worker.
fn quick(setup: WorkerSetup) -> WorkerSetup {
    setup.with("HERALD_BREAKER__MAX_WAIT", "1s").with("HERALD_RETRY__INITIAL_BACKOFF", "50ms")
}

/// The alerts of this job that have fired at any time.
pub async fn fired(prometheus: &Prometheus, job: &str) -> BTreeSet<String> {
    fired_in(prometheus, &format!("job=\"{job}\"")).await
}

/// The alerts with these labels that have fired at any time.
pub async fn fired_in(prometheus: &Prometheus, matcher: &str) -> BTreeSet<String> {
    let query = format!("group by (alertname) (max_over_time(ALERTS{{alertstate=\"firing\",{matcher}}}[1h]))");
    let series = prometheus.at_once(&query).await;
    series.iter().map(|one| one.labels["alertname"].as_str().unwrap().to_owned()).collect()
}
