//! How soon the only worker of a group delivers again: when it left and starts, and when it was killed.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::gateway::{Behaviour, Gateway};
use crate::ledger::Fresh;
use crate::source::{self, Source};
use crate::stage::Stage;
use crate::support::unique;
use crate::support::wait::{EVENTUALLY, SOON, blocking};
use crate::support::worker::{Worker, WorkerSetup};
use crate::table::{Goal, Row, median};
use crate::worker::setup_with_gateway;

/// What a start may take more than a bare consumer's.
const START: Duration = Duration::from_secs(1);
/// Until the broker gives the killed worker's partitions away its session must be over: 10 s.
const KILLED: Duration = Duration::from_secs(12);
const KILLED_WITH_INSTANCE_ID: Duration = Duration::from_secs(3);

/// A group of one worker, whose deliveries are seen one at a time.
struct Scene {
    source: Source,
    ledger: Fresh,
    setup: WorkerSetup,
    gateway: Gateway,
}

pub async fn measure(stage: &Stage) -> Vec<Row> {
    let with_instance_id = |setup: WorkerSetup| setup.with("HERALD_KAFKA__INSTANCE_ID", "bench");
    vec![
        start(stage).await,
        killed(stage, "kill -9 to the next delivery", |setup| setup, KILLED).await,
        killed(stage, "- the same with kafka.instance_id", with_instance_id, KILLED_WITH_INSTANCE_ID).await,
    ]
}

/// Against a bare consumer of the same topic. Both join a group that the broker knows and that has no member.
async fn start(stage: &Stage) -> Row {
    let mut scene = Scene::set(stage, |setup| setup).await;
    let bare_group = unique("bare");
    let (mut worker, mut bare) = (Vec::new(), Vec::new());
    // The first round is for the groups to be known.
    for _ in 0..=stage.amounts.rounds {
        let (running, took) = scene.next_delivery().await;
        leave(running).await;
        worker.push(took.as_secs_f64());
        bare.push(bare_consumer(&scene.source, &bare_group).await.as_secs_f64());
    }
    scene.end(stage).await;
    let (worker, bare) = (median(worker.split_off(1)), median(bare.split_off(1)));
    let bound = bare + START.as_secs_f64();
    Row {
        measure: "start to the first delivery".to_owned(),
        herald: format!("{worker:.2} s"),
        against: format!("{bound:.2} s: a bare consumer {bare:.2}, and 1"),
        ratio: worker / bound,
        goal: Goal::AtMost(1.0),
    }
}

async fn killed(stage: &Stage, measure: &str, with: fn(WorkerSetup) -> WorkerSetup, goal: Duration) -> Row {
    let mut scene = Scene::set(stage, with).await;
    let (mut running, _) = scene.next_delivery().await;
    let mut times = Vec::new();
    for _ in 0..stage.amounts.rounds {
        running.kill9().await;
        let took;
        (running, took) = scene.next_delivery().await;
        times.push(took.as_secs_f64());
    }
    leave(running).await;
    scene.end(stage).await;
    let (took, goal) = (median(times), goal.as_secs_f64());
    Row {
        measure: measure.to_owned(),
        herald: format!("{took:.2} s"),
        against: format!("{goal:.0} s"),
        ratio: took / goal,
        goal: Goal::AtMost(1.0),
    }
}

impl Scene {
    async fn set(stage: &Stage, with: fn(WorkerSetup) -> WorkerSetup) -> Self {
        let gateway = Gateway::start(Behaviour::Remembers);
        let source = Source::empty(&stage.kafka, 1).await;
        let ledger = stage.server.fresh().await;
        let setup = with(setup_with_gateway(&source, &ledger, &unique("bench"), gateway.url()));
        Self { source, ledger, setup, gateway }
    }

    /// Appends an order and starts a worker: until that order reaches the gateway.
    async fn next_delivery(&mut self) -> (Worker, Duration) {
        let order = self.source.orders;
        self.source.append(order..order + 1, |order| source::record(order, order)).await;
        let started = Instant::now();
        let worker = self.setup.spawn();
        let arrived = self.gateway.arrived(u64::from(order), EVENTUALLY).await;
        (worker, arrived - started)
    }

    /// Once nothing works any more.
    async fn end(self, stage: &Stage) {
        stage.server.finish(self.ledger, self.source.orders).await;
    }
}

/// Ends it as a deployment does: it leaves the group, its last offset committed.
async fn leave(mut worker: Worker) {
    worker.sigterm();
    let status = worker.wait_exit(EVENTUALLY).await;
    assert_eq!(status, 0, "{}", worker.log());
}

/// From its creation to its first record.
async fn bare_consumer(source: &Source, group: &str) -> Duration {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", source.kafka.bootstrap_servers())
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest");
    let topic = source.topic.clone();
    blocking(move || {
        let started = Instant::now();
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.subscribe(&[&topic]).unwrap();
        // Errors are told until the group is known to the client.
        while !matches!(consumer.poll(SOON), Some(Ok(_))) {
            assert!(started.elapsed() < EVENTUALLY, "the bare consumer gets no record");
        }
        started.elapsed()
    })
    .await
}
