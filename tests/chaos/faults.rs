//! What is broken beside the workers. Each part has a track of its own: one fault after another, with pauses between them in which
//! it is whole. The tracks run side by side, so faults of different parts meet.

use std::time::Duration;

use fastrand::Rng;
use herald::demo::postgres::PrivatePostgres;
use herald::supervised::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::chronicle::{Chronicle, Fault, Weather};
use crate::stage::{DLQ_TOPIC, fair_weather};
use crate::support::gateway::{Answer, Gateway};
use crate::support::kafka::{BrokerHandle, Kafka, Route};
use crate::support::proxy::{Mode, Proxy};

const TABLES: [&str; 4] = ["processed_orders", "parked_events", "dead_letters", "partition_epochs"];

/// When to go on, and whom to tell.
#[derive(Clone, Debug)]
pub struct Track<'a> {
    pub chronicle: &'a Chronicle,
    /// True once nothing may be broken any more.
    pub calm: watch::Receiver<bool>,
    pub rng: Rng,
}

impl Track<'_> {
    /// Waits for a random time of whole parts. False when the run is over.
    async fn pause(&mut self, seconds: std::ops::Range<u64>) -> bool {
        let time = self.seconds(seconds);
        !self.lasts(time).await
    }

    /// Waits this long, or until the run is over: which is what it says.
    async fn lasts(&mut self, time: Duration) -> bool {
        timeout(time, self.calm.wait_for(|calm| *calm)).await.is_ok()
    }

    fn seconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range.start * 1_000..range.end * 1_000))
    }

    /// Mostly one broker at a time, which leaves two in sync; now and then two, which stops producing and committing.
    pub async fn brokers(mut self, mut brokers: Vec<BrokerHandle<'_>>) {
        while self.pause(8..40).await {
            let first = self.rng.usize(..brokers.len());
            let second = (first + self.rng.usize(1..brokers.len())) % brokers.len();
            let (time, together) = (self.seconds(1..12), self.seconds(1..4));
            let (is_killed, are_two) = (self.rng.u32(..4) > 0, self.rng.u32(..4) == 0);
            let fault =
                |broker| if is_killed { Fault::BrokerKilled { broker } } else { Fault::BrokerStopped { broker } };
            let signal = if is_killed { Signal::Kill } else { Signal::Terminate };
            let down = self.chronicle.begin(fault(first), Some(time));
            brokers[first].end_with(signal).await;
            self.lasts(time).await;
            if are_two {
                let both = self.chronicle.begin(fault(second), Some(together));
                brokers[second].end_with(signal).await;
                self.lasts(together).await;
                // Neither has a quorum without the other: both start at once.
                let (one, other) = pair(&mut brokers, first, second);
                tokio::join!(one.restart(), other.restart());
                self.chronicle.end(both);
            } else {
                brokers[first].restart().await;
            }
            self.chronicle.end(down);
        }
    }

    /// The server ends as in a crash and comes back, or one of its tables is locked for a while.
    pub async fn database(mut self, server: &mut PrivatePostgres, pool: &PgPool) {
        while self.pause(10..45).await {
            let table = TABLES[self.rng.usize(..TABLES.len())];
            let (down, locked) = (self.seconds(0..6), self.seconds(1..8));
            if self.rng.bool() {
                let mark = self.chronicle.begin(Fault::PostgresCrashed, Some(down));
                tokio::task::block_in_place(|| server.crash()).unwrap();
                self.lasts(down).await;
                server.restart().await.unwrap();
                self.chronicle.end(mark);
            } else {
                let mark = self.chronicle.begin(Fault::Locked { table }, Some(locked));
                self.lock(pool, table, locked).await;
                self.chronicle.end(mark);
            }
        }
    }

    async fn lock(&mut self, pool: &PgPool, table: &str, time: Duration) {
        let options = pool.connect_options();
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        let statement = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        self.lasts(time).await;
        connection.close().await.unwrap();
    }

    /// The way of one worker to Postgres.
    pub async fn database_ways(mut self, ways: &[Proxy]) {
        while self.pause(8..30).await {
            let slot = self.rng.usize(..ways.len());
            let (mode, time) = (self.mode(), self.seconds(0..9));
            let mark = self.chronicle.begin(Fault::DatabasePath { slot, mode }, Some(time));
            ways[slot].set(mode);
            self.lasts(time).await;
            // Half of the time what was held back never arrives.
            if self.rng.bool() {
                ways[slot].set(Mode::Cut);
                sleep(Duration::from_millis(50)).await;
            }
            ways[slot].set(Mode::Pass);
            self.chronicle.end(mark);
        }
    }

    /// The way of one worker to all brokers, often for longer than its session lasts.
    pub async fn kafka_ways(mut self, routes: &[Route]) {
        while self.pause(10..40).await {
            let slot = self.rng.usize(..routes.len());
            let (mode, time) = (self.mode(), self.seconds(0..14));
            let mark = self.chronicle.begin(Fault::KafkaPath { slot, mode }, Some(time));
            routes[slot].set(mode);
            self.lasts(time).await;
            routes[slot].set(Mode::Pass);
            self.chronicle.end(mark);
        }
    }

    fn mode(&mut self) -> Mode {
        match self.rng.u32(..4) {
            0 => Mode::Cut,
            1 => Mode::Silent,
            2 => Mode::Mute,
            _ => Mode::Slow(Duration::from_millis(self.rng.u64(50..800))),
        }
    }

    pub async fn gateway(mut self, gateway: &Gateway) {
        while self.pause(6..25).await {
            let (weather, time) = (self.weather(), self.seconds(1..13));
            let mark = self.chronicle.begin(Fault::Gateway(weather), Some(time));
            match weather {
                Weather::Down => gateway.down().await,
                Weather::Status(code) => gateway.answer(Answer::status(code).retry_after("1")),
                Weather::Slow(delay) => gateway.answer(Answer::ok().after(delay)),
                Weather::Hangs => gateway.answer(Answer::Hang),
                Weather::Resets => gateway.answer(Answer::Reset),
                Weather::Flickers => self.flicker(gateway, time).await,
            }
            if weather != Weather::Flickers {
                self.lasts(time).await;
            }
            gateway.up().await;
            gateway.answer(self.fair_weather());
            self.chronicle.end(mark);
        }
        gateway.answer(fair_weather());
    }

    /// In good health, but not always as quick.
    fn fair_weather(&mut self) -> Answer {
        Answer::ok().after(Duration::from_millis([1, 20, 100, 500][self.rng.usize(..4)]))
    }

    fn weather(&mut self) -> Weather {
        match self.rng.u32(..8) {
            0 | 1 => Weather::Down,
            2 => Weather::Status(503),
            3 => Weather::Status([500, 429, 401, 502][self.rng.usize(..4)]),
            // Answers come well before the worker's limit of 3 s, or well after it.
            4 => Weather::Slow(self.seconds(1..2)),
            5 => Weather::Hangs,
            6 => Weather::Resets,
            _ => Weather::Flickers,
        }
    }

    async fn flicker(&mut self, gateway: &Gateway, time: Duration) {
        let flickering = async {
            loop {
                gateway.answer(Answer::status(503));
                sleep(Duration::from_millis(self.rng.u64(10..60))).await;
                gateway.answer(fair_weather());
                sleep(Duration::from_millis(self.rng.u64(60..200))).await;
            }
        };
        let mut calm = self.calm.clone();
        tokio::select! {
            () = flickering => {}
            () = sleep(time) => {}
            _ = calm.wait_for(|calm| *calm) => {}
        }
    }

    /// The topic takes nothing that is as large as a letter.
    pub async fn dlq_topic(mut self, kafka: &Kafka) {
        while self.pause(15..50).await {
            let time = self.seconds(3..20);
            let mark = self.chronicle.begin(Fault::DlqRefuses, Some(time));
            if kafka.try_alter_topic(DLQ_TOPIC, &[("max.message.bytes", "200")]).await {
                self.lasts(time).await;
                // The brokers may not have a quorum just now.
                while !kafka.try_alter_topic(DLQ_TOPIC, &[]).await {
                    sleep(Duration::from_millis(500)).await;
                }
            }
            self.chronicle.end(mark);
        }
    }
}

/// Two of them at once.
fn pair<'a, 'b>(
    brokers: &'a mut [BrokerHandle<'b>],
    one: usize,
    other: usize,
) -> (&'a mut BrokerHandle<'b>, &'a mut BrokerHandle<'b>) {
    let (left, right) = brokers.split_at_mut(one.max(other));
    (&mut left[one.min(other)], &mut right[0])
}
