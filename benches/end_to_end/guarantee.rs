//! How much of Postgres's own speed is left when everything that is promised is kept.

use std::time::Duration;

use crate::bare;
use crate::ledger::Server;
use crate::process::processor_seconds;
use crate::source::Source;
use crate::stage::Stage;
use crate::support::unique;
use crate::table::{Goal, Row, median, per_second};
use crate::worker::{Watch, setup};

const GOAL: f64 = 0.5;

/// What one measurement took: of the clock, and of the processors.
#[derive(Clone, Copy)]
pub struct Took {
    pub time: Duration,
    client_seconds: f64,
    postgres_seconds: f64,
}

/// Processor time used so far by the client of the database, and by the database.
pub struct Used {
    client: u32,
    client_seconds: f64,
    postgres_seconds: f64,
}

pub async fn measure(stage: &Stage) -> Vec<Row> {
    let amounts = stage.amounts;
    let source = Source::of_orders(&stage.kafka, amounts.partitions, amounts.orders).await;
    let (mut bare, mut worker) = (Vec::new(), Vec::new());
    for _ in 0..amounts.rounds {
        bare.push(bare::measure(&stage.server, amounts.orders, amounts.partitions).await);
        worker.push(worker_alone(stage, &source).await);
    }
    let medians = |of: &dyn Fn(&Took) -> f64| (median(worker.iter().map(of)), median(bare.iter().map(of)));
    let orders = f64::from(amounts.orders);
    let (speed, bare_speed) = medians(&|took| orders / took.time.as_secs_f64());
    let speeds = Row {
        measure: "full guarantee, a channel that does nothing".to_owned(),
        herald: per_second(speed),
        against: format!("{} bare claim and settle", per_second(bare_speed)),
        ratio: speed / bare_speed,
        goal: Goal::AtLeast(GOAL),
    };
    // What else the machine does changes times, and these hardly.
    let processor = |of: &str, (worker, bare): (f64, f64)| Row {
        measure: format!("- processor time of a million: {of}"),
        herald: format!("{:.1} s", worker / orders * 1e6),
        against: format!("{:.1} s", bare / orders * 1e6),
        ratio: worker / bare,
        goal: Goal::None,
    };
    vec![
        speeds,
        processor("client", medians(&|took| took.client_seconds)),
        processor("Postgres", medians(&|took| took.postgres_seconds)),
    ]
}

/// One worker, from the first record polled to the last order settled; its offsets are committed before it is stopped.
pub async fn worker_alone(stage: &Stage, source: &Source) -> Took {
    let ledger = stage.server.fresh().await;
    let group = unique("bench");
    let watch = Watch::spawn(&setup(source, &ledger, &group));
    let started = watch.first_polled().await;
    let before = Used::so_far(watch.pid(), &stage.server);
    watch.all_ended(source.orders).await;
    let took = before.until_now(started.elapsed(), &stage.server);
    watch.all_committed(source, &group).await;
    drop(watch);
    stage.server.finish(ledger, source.orders).await;
    took
}

impl Used {
    pub fn so_far(client: u32, server: &Server) -> Self {
        let (client_seconds, postgres_seconds) = (processor_seconds(client), processor_seconds(server.pid()));
        Self { client, client_seconds, postgres_seconds }
    }

    pub fn until_now(&self, time: Duration, server: &Server) -> Took {
        let now = Self::so_far(self.client, server);
        Took {
            time,
            client_seconds: now.client_seconds - self.client_seconds,
            postgres_seconds: now.postgres_seconds - self.postgres_seconds,
        }
    }
}
