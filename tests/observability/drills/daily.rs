//! What nobody should be woken for.

use std::collections::BTreeSet;

use crate::drill::{Drill, address};
use crate::prometheus::Prometheus;
use crate::support::World;
use crate::support::gateway::Answer;
use crate::support::orders;
use crate::support::wait::{EVENTUALLY, equal, wait_until};
use crate::support::worker::{Worker, WorkerSetup};
use crate::traffic::{Batch, Traffic};

const JOB: &str = "herald-daily";

/// A Herald that runs before Prometheus does: without any, `HeraldDown` would fire at once.
#[derive(Debug)]
pub struct Daily {
    world: World,
    setup: WorkerSetup,
    worker: Worker,
}

impl Daily {
    pub async fn start() -> Self {
        let world = World::with_partitions(2).await;
        let setup = world.worker();
        let worker = setup.start().await;
        Self { world, setup, worker }
    }

    pub fn target(&self) -> (&'static str, String) {
        (JOB, address(&self.worker))
    }

    /// Some orders fail now and then, each with words of its own, duplicates and foreign event types arrive, an instance comes and
    /// goes.
    pub async fn go_on(self, prometheus: &Prometheus) -> Quiet<'_> {
        let Self { world, setup, worker } = self;
        let mut drill = Drill::of_running(prometheus, JOB, world, setup, vec![worker]).await;
        let series_before = series_of(&drill.workers[0].get("/metrics").await.unwrap().1);
        drill.traffic = Some(Traffic::start(&drill.world, Batch::USUAL));
        let mut events: Vec<_> = (1_000_000..1_002_000).map(orders::created).collect();
        events.extend((1_000_000..1_000_020).map(orders::created));
        events.extend((0..20).map(|order| orders::event(&format!("TYPE_{order}"), order)));
        for order in 1_000_000..1_000_100_u64 {
            let failure = Answer::status(503).with_body(&format!("failure {order}"));
            drill.world.gateway.answer_order(&order.to_string(), [failure]);
        }
        drill.world.produce_evenly(&events).await;
        let mut guest = drill.setup.start().await;
        drill.world.shared_equally(&[&drill.workers[0], &guest]).await;
        guest.sigterm();
        assert_eq!(guest.wait_exit(EVENTUALLY).await, 0);
        Quiet { drill, series_before }
    }
}

/// A day on which nothing happened that matters.
#[derive(Debug)]
pub struct Quiet<'a> {
    drill: Drill<'a>,
    series_before: BTreeSet<String>,
}

impl Quiet<'_> {
    /// Makes sure that nothing fired and that orders, errors and event types have added no series; gives what `/metrics` says.
    pub async fn ends(&self) -> String {
        self.drill.raises(&[]).await;
        wait_until("no series was added", EVENTUALLY, async || {
            let metrics = self.drill.workers[0].get("/metrics").await.unwrap().1;
            equal(series_of(&metrics), &self.series_before).map(|_| metrics)
        })
        .await
    }
}

fn series_of(metrics: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}
