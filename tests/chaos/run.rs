//! A run: parts, faults, calm, recovery, verdict.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use herald::core::record::{Offset, Partition};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use crate::Arguments;
use crate::chronicle::Chronicle;
use crate::crew::{Crew, Orders, Running};
use crate::faults::Track;
use crate::judge::clock::Clock;
use crate::judge::{self, Evidence, Verdict};
use crate::load::Load;
use crate::lookout::Lookout;
use crate::report;
use crate::stage::{DLQ_TOPIC, GROUP, Stage, TOPIC, WORKERS};
use crate::support::repository;
use crate::support::wait::blocking;

/// How long all that is left may take once nothing is broken.
const RECOVERY_LIMIT: Duration = Duration::from_mins(4);

/// From here on a run has to show everything.
const LONG: Duration = Duration::from_mins(3);

pub async fn run(arguments: &Arguments) -> Verdict {
    let chronicle = Chronicle::new(arguments.json);
    chronicle.say(&report::heading(arguments));
    let logs = logs(arguments);
    let mut stage = Stage::set(arguments).await;
    chronicle.tell("everything runs");

    let mut rng = Rng::with_seed(arguments.seed());
    let (calm, seen) = watch::channel(false);
    let setups = stage.setups.clone();
    let until = Instant::now() + arguments.time();
    let gateway = Arc::new(stage.gateway);
    let orders = Orders {
        lookout: Lookout { gateway: Arc::clone(&gateway), database: stage.database.clone() },
        calm: seen.clone(),
        until,
        logs: logs.clone(),
        rng: rng.fork(),
    };
    let crew = Crew::new(&setups, &chronicle, orders);
    let load = Load::start(&stage.kafka, TOPIC, Arc::clone(&gateway), rng.fork(), arguments.rate);

    let mut track = || Track { chronicle: &chronicle, calm: seen.clone(), until, rng: rng.fork() };
    let tracks = [track(), track(), track(), track(), track(), track()];
    let [on_brokers, on_database, on_database_ways, on_kafka_ways, on_gateway, on_dlq_topic] = tracks;
    let mut of_worker: Vec<Rng> = (0..=WORKERS).map(|_| rng.fork()).collect();
    let of_visitors = of_worker.pop().expect("one more than workers");
    let workers = of_worker.into_iter().enumerate().map(|(slot, rng)| crew.keep(slot, rng));
    let (brokers, routes) = stage.cluster.parts();
    let ending = async {
        sleep_until(until.into()).await;
        calm.send_replace(true);
        chronicle.tell("nothing is broken any more");
        load.only_healthy();
    };
    let ((), workers, (), (), (), (), (), (), kept) = tokio::join!(
        ending,
        futures_util::future::join_all(workers),
        crew.visitors(of_visitors),
        on_brokers.brokers(brokers),
        on_database.database(&mut stage.postgres, &stage.database),
        on_database_ways.database_ways(&stage.database_ways),
        on_kafka_ways.kafka_ways(routes),
        on_gateway.gateway(&gateway),
        on_dlq_topic.dlq_topic(&stage.kafka),
    );
    let calm_since = Instant::now();
    let looked_at = Looked { kafka: &stage.kafka, database: &stage.database };
    let backlog = stage.kafka.end_offsets(TOPIC).await;
    let recovering = Recovering { crew: &crew, workers: &workers, until: calm_since + RECOVERY_LIMIT };
    let mut left = recovering.wait(async || looked_at.backlog(&backlog).await).await;
    let sent = blocking(move || load.finish()).await;
    if left.is_ok() {
        left = recovering.wait(async || looked_at.left().await).await;
    }
    let recovered_in = calm_since.elapsed();
    chronicle.tell(&left.as_ref().map_or_else(|left| format!("not recovered: {left}"), |()| "recovered".to_owned()));
    for running in &workers {
        crew.look(running).await;
        crew.keep_metrics(running).await;
        crew.keep_log(running);
    }
    let clock = Clock::read(&stage.database).await;
    let verdict = judge::judge(&Evidence {
        sent,
        log: stage.kafka.records(TOPIC).await,
        requests: gateway.requests(),
        ledger: judge::ledger(&stage.database, &clock).await,
        letters: judge::letters::read(&stage.database).await,
        published: [kept, stage.kafka.records(DLQ_TOPIC).await].concat(),
        parking: judge::parking::read(&stage.database, &clock).await,
        takings: judge::parking::takings(&stage.database, &clock).await,
        entries: chronicle.entries(),
        crew: crew.record(),
        ordering: arguments.ordering(),
        semantics: arguments.semantics,
        is_long: arguments.time() >= LONG,
        left: left.err(),
        recovered_in,
    });
    if verdict.is_clean() {
        let _ = fs::remove_dir_all(&logs);
    } else {
        chronicle.say(&format!("\nlogs of the workers: {}", logs.display()));
    }
    verdict
}

/// Where the logs of the workers of a run with findings stay.
fn logs(arguments: &Arguments) -> PathBuf {
    let logs = repository().join("target").join(format!("chaos-{}", arguments.seed()));
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs).unwrap();
    logs
}

/// What is looked at to know how much is left.
struct Looked<'a> {
    kafka: &'a crate::support::kafka::Kafka,
    database: &'a sqlx::PgPool,
}

/// Waits with the workers that are there and no other.
struct Recovering<'a> {
    crew: &'a Crew<'a>,
    workers: &'a [Running],
    until: Instant,
}

impl Recovering<'_> {
    async fn wait(&self, mut left: impl AsyncFnMut() -> Result<(), String>) -> Result<(), String> {
        loop {
            let ended = self.workers.iter().find_map(|running| Some((running, running.worker.exit_status()?)));
            if let Some((running, code)) = ended {
                self.crew.note_end(running, code);
                return Err(format!("{} ended with {code}", running.life));
            }
            let left = left().await;
            if left.is_ok() || Instant::now() > self.until {
                return left;
            }
            sleep(Duration::from_millis(250)).await;
        }
    }
}

impl Looked<'_> {
    /// Of what was in the topic up to these offsets; what came later goes on.
    async fn backlog(&self, ends: &BTreeMap<Partition, Offset>) -> Result<(), String> {
        let committed = self.kafka.committed_offsets(GROUP, TOPIC).await;
        let behind =
            ends.iter().filter(|(partition, end)| committed.get(partition).unwrap_or(&Offset(0)) < end).count();
        let (partitions, offsets): (Vec<i32>, Vec<i64>) =
            ends.iter().map(|(partition, end)| (partition.0, end.0)).unzip();
        let statement = "SELECT count(*) FROM processed_orders
            JOIN unnest($1::integer[], $2::bigint[]) AS backlog (kpartition, until) USING (kpartition)
            WHERE state IN ('c', 'p') AND koffset < until";
        let unsettled: i64 = sqlx::query_scalar(statement)
            .bind(partitions)
            .bind(offsets)
            .fetch_one(self.database)
            .await
            .map_err(|error| error.to_string())?;
        if behind == 0 && unsettled == 0 {
            return Ok(());
        }
        Err(format!("{behind} partitions behind, {unsettled} records of the backlog unsettled"))
    }

    async fn left(&self) -> Result<(), String> {
        let ends = self.kafka.end_offsets(TOPIC).await;
        let committed = self.kafka.committed_offsets(GROUP, TOPIC).await;
        let lag: i64 = ends
            .iter()
            .map(|(partition, end)| end.0 - committed.get(partition).map_or(0, |committed| committed.0))
            .sum();
        let statement = "SELECT (SELECT count(*) FROM parked_events),
                                (SELECT count(*) FROM processed_orders WHERE state IN ('c', 'p')),
                                (SELECT count(*) FROM dead_letters WHERE published_at IS NULL)";
        let (parked, unsettled, unpublished): (i64, i64, i64) =
            sqlx::query_as(statement).fetch_one(self.database).await.map_err(|error| error.to_string())?;
        if lag + parked + unsettled + unpublished == 0 {
            return Ok(());
        }
        Err(format!(
            "lag {lag}, {parked} parked, {unsettled} unsettled in the ledger, {unpublished} letters unpublished"
        ))
    }
}
