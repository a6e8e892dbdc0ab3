//! What is broken beside the workers. Each part has a track of its own: one fault after another, with pauses between them in which
//! it is whole. The tracks run side by side, so faults of different parts meet.

use std::ops::Range;
use std::time::{Duration, Instant};

use fastrand::Rng;
use herald::core::record::Record;
use herald::demo::postgres::PrivatePostgres;
use herald::supervised::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::bag::Bag;
use crate::chronicle::{Chronicle, Fault, HeldBack, Weather};
use crate::stage::{DLQ_TOPIC, PARTITIONS, fair_weather};
use crate::support::gateway::{Answer, Gateway};
use crate::support::kafka::{BrokerHandle, Kafka, Route};
use crate::support::proxy::{Mode, Proxy};

/// What the brokers did not do.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// In bytes: even a letter that only points to its row is larger.
const SMALLER_THAN_LETTERS: usize = 200;
const TABLES: [&str; 4] = ["processed_orders", "parked_events", "dead_letters", "partition_epochs"];

/// When to go on, and whom to tell.
#[derive(Clone, Debug)]
pub struct Track<'a> {
    pub chronicle: &'a Chronicle,
    /// True once nothing may be broken any more.
    pub calm: watch::Receiver<bool>,
    /// When that will be.
    pub until: Instant,
    pub rng: Rng,
}

/// What is broken next.
struct Next<T> {
    kind: T,
    /// For how long at most, so that there is time for the other kinds.
    limit: Duration,
}

#[derive(Clone, Copy)]
enum OnBrokers {
    Kill,
    Stop,
    KillTwo,
}

#[derive(Clone, Copy)]
enum OnDatabase {
    Crash,
    Lock(&'static str),
}

/// Of a [`Mode`].
#[derive(Clone, Copy)]
enum Way {
    Cut,
    Silent,
    Mute,
    Slow,
}

#[derive(Clone, Copy)]
enum OnDlqTopic {
    Refuse,
    Delete,
}

impl Track<'_> {
    /// Waits for a random time of whole parts; what is broken then. `None` when the run is over.
    async fn next<T: Clone>(&mut self, bag: &mut Bag<T>, pause: Range<u64>) -> Option<Next<T>> {
        let limit = bag.share(self.until) / 5 * 2;
        let pause = self.seconds(pause).min(limit);
        (!self.lasts(pause).await).then(|| Next { kind: bag.draw(&mut self.rng), limit })
    }

    /// Waits this long, or until the run is over: which is what it says.
    async fn lasts(&mut self, time: Duration) -> bool {
        timeout(time, self.calm.wait_for(|calm| *calm)).await.is_ok()
    }

    fn seconds(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range.start * 1_000..range.end * 1_000))
    }

    /// One broker at a time, which leaves two in sync, or two, which stops producing and committing.
    pub async fn brokers(mut self, mut brokers: Vec<BrokerHandle<'_>>) {
        use OnBrokers::{Kill, KillTwo, Stop};
        let mut bag = Bag::of([Kill, Stop, KillTwo]);
        while let Some(Next { kind, limit }) = self.next(&mut bag, 8..40).await {
            let first = self.rng.usize(..brokers.len());
            let second = (first + self.rng.usize(1..brokers.len())) % brokers.len();
            let (time, together) = (self.seconds(1..12).min(limit), self.seconds(1..4));
            let (fault, signal) = match kind {
                Kill | KillTwo => (Fault::BrokerKilled { broker: first }, Signal::Kill),
                Stop => (Fault::BrokerStopped { broker: first }, Signal::Terminate),
            };
            let down = self.chronicle.begin(fault, Some(time));
            brokers[first].end_with(signal).await;
            self.lasts(time).await;
            match kind {
                KillTwo => {
                    let both = self.chronicle.begin(Fault::SecondBrokerDown { broker: second }, Some(together));
                    brokers[second].end_with(signal).await;
                    self.lasts(together).await;
                    // Neither has a quorum without the other: both start at once.
                    let (one, other) = pair(&mut brokers, first, second);
                    tokio::join!(one.restart(), other.restart());
                    self.chronicle.end(both);
                }
                Kill | Stop => brokers[first].restart().await,
            }
            self.chronicle.end(down);
        }
    }

    /// The server ends as in a crash and comes back, or one of its tables is locked for a while.
    pub async fn database(mut self, server: &mut PrivatePostgres, pool: &PgPool) {
        let crashes = [OnDatabase::Crash; 2];
        let mut bag = Bag::of(TABLES.map(OnDatabase::Lock).into_iter().chain(crashes).collect::<Vec<_>>());
        while let Some(Next { kind, limit }) = self.next(&mut bag, 10..45).await {
            match kind {
                OnDatabase::Crash => {
                    let time = self.seconds(0..6).min(limit);
                    let mark = self.chronicle.begin(Fault::PostgresCrashed, Some(time));
                    tokio::task::block_in_place(|| server.crash()).unwrap();
                    self.lasts(time).await;
                    server.restart().await.unwrap();
                    self.chronicle.end(mark);
                }
                OnDatabase::Lock(table) => {
                    let time = self.seconds(1..8).min(limit);
                    let mark = self.chronicle.begin(Fault::Locked { table }, Some(time));
                    self.lock(pool, table, time).await;
                    self.chronicle.end(mark);
                }
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
        let lost = [Way::Silent, Way::Mute, Way::Slow].map(|way| (way, HeldBack::IsLost));
        let arrives = Way::ALL.map(|way| (way, HeldBack::Arrives));
        let mut bag = Bag::of([&lost[..], &arrives[..]].concat());
        while let Some(Next { kind: (way, held_back), limit }) = self.next(&mut bag, 8..30).await {
            let slot = self.rng.usize(..ways.len());
            let (mode, time) = (self.mode(way), self.seconds(0..9).min(limit));
            let mark = self.chronicle.begin(Fault::DatabasePath { slot, mode, held_back }, Some(time));
            ways[slot].set(mode);
            self.lasts(time).await;
            if held_back == HeldBack::IsLost {
                ways[slot].set(Mode::Cut);
                sleep(Duration::from_millis(50)).await;
            }
            ways[slot].set(Mode::Pass);
            self.chronicle.end(mark);
        }
    }

    /// The way of one worker to all brokers, often for longer than its session lasts.
    pub async fn kafka_ways(mut self, routes: &[Route]) {
        let mut bag = Bag::of(Way::ALL);
        while let Some(Next { kind, limit }) = self.next(&mut bag, 10..40).await {
            let slot = self.rng.usize(..routes.len());
            let (mode, time) = (self.mode(kind), self.seconds(0..14).min(limit));
            let mark = self.chronicle.begin(Fault::KafkaPath { slot, mode }, Some(time));
            routes[slot].set(mode);
            self.lasts(time).await;
            routes[slot].set(Mode::Pass);
            self.chronicle.end(mark);
        }
    }

    fn mode(&mut self, way: Way) -> Mode {
        match way {
            Way::Cut => Mode::Cut,
            Way::Silent => Mode::Silent,
            Way::Mute => Mode::Mute,
            Way::Slow => Mode::Slow(Duration::from_millis(self.rng.u64(50..800))),
        }
    }

    pub async fn gateway(mut self, gateway: &Gateway) {
        let failing = [401, 429, 500, 502, 503].map(Weather::Status);
        // Answers come well before the worker's limit, or never.
        let slow = Weather::Slow(self.seconds(1..2));
        let others = [Weather::Down, slow, Weather::Hangs, Weather::Resets, Weather::Flickers];
        let mut bag = Bag::of([&failing[..], &others[..]].concat());
        while let Some(Next { kind: weather, limit }) = self.next(&mut bag, 6..25).await {
            let time = self.seconds(1..13).min(limit);
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

    /// The topic takes nothing that is as large as a letter, or is not there. What it held before it was deleted is kept for the verdict.
    pub async fn dlq_topic(mut self, kafka: &Kafka) -> Vec<Record> {
        let mut bag = Bag::of([OnDlqTopic::Refuse, OnDlqTopic::Delete]);
        let mut kept = Vec::new();
        while let Some(Next { kind, limit }) = self.next(&mut bag, 15..50).await {
            match kind {
                OnDlqTopic::Refuse => {
                    let time = self.seconds(3..20).min(limit);
                    self.refuse(kafka, time).await;
                }
                OnDlqTopic::Delete => {
                    // Meanwhile workers refuse to start.
                    let time = self.seconds(1..8).min(limit);
                    kept.extend(self.delete(kafka, time).await);
                }
            }
        }
        kept
    }

    async fn refuse(&mut self, kafka: &Kafka, time: Duration) {
        // The brokers may not have a quorum just now.
        let mut is_over = false;
        while !is_over && !kafka.try_limit_topic(DLQ_TOPIC, SMALLER_THAN_LETTERS).await {
            is_over = self.lasts(TRY_AGAIN).await;
        }
        let mark = self.chronicle.begin(Fault::DlqRefuses, Some(time));
        self.lasts(time).await;
        self.open(kafka).await;
        self.chronicle.end(mark);
    }

    /// Deletes the topic and creates it again; gives all that it ever acknowledged. It is sealed first: a letter that it took between
    /// the reading and the deletion would be nowhere, though nobody did anything wrong.
    async fn delete(&mut self, kafka: &Kafka, time: Duration) -> Vec<Record> {
        let mark = self.chronicle.begin(Fault::DlqGone, Some(time));
        let held = loop {
            match kafka.sealed(DLQ_TOPIC, SMALLER_THAN_LETTERS).await {
                Ok(held) => break held,
                // The brokers may not have a quorum just now.
                Err(_) => sleep(TRY_AGAIN).await,
            }
        };
        while !kafka.try_delete_topic(DLQ_TOPIC).await {
            sleep(TRY_AGAIN).await;
        }
        self.lasts(time).await;
        while !kafka.try_create_topic(DLQ_TOPIC, PARTITIONS).await {
            sleep(TRY_AGAIN).await;
        }
        // While brokers come and go, one may say that the topic is gone though it is there, and still sealed.
        self.open(kafka).await;
        self.chronicle.end(mark);
        held
    }

    /// It takes letters again.
    async fn open(&self, kafka: &Kafka) {
        while !kafka.try_alter_topic(DLQ_TOPIC, &[]).await {
            sleep(TRY_AGAIN).await;
        }
    }
}

impl Way {
    const ALL: [Self; 4] = [Self::Cut, Self::Silent, Self::Mute, Self::Slow];
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
