//! The chapters of the demo, played with a real worker.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Mutex;

use super::accounts::{Accounts, Evidence};
use super::broker::{Broker, DEAD_LETTER_TOPIC, GROUP};
use super::gateway::Gateway;
use super::ledger::Ledger;
use super::pages::ChannelState;
use super::plan::{Chapter, PARTITIONS, Plan};
use super::postgres::PrivatePostgres;
use super::producing::{Pace, Produced, produce};
use super::report::Report;
use super::screen::{Screen, counted, progress};
use super::worker::{Recipe, Worker, http_address};
use crate::cli::table::number;
use crate::core::record::{Offset, Partition};

const TICK: Duration = Duration::from_millis(100);
/// Longer than all attempts of a delivery and the waits between them together.
const OUTAGE: Duration = Duration::from_secs(2);
/// Nothing moves any more: the account tells what is missing.
const STALLED: Duration = Duration::from_secs(20);
const DATABASE: &str = "herald";

#[derive(Clone, Debug)]
pub struct Options {
    pub orders: u64,
    pub seed: u64,
    /// The program that is run as `<program> run`.
    pub worker: PathBuf,
    /// An empty directory; the caller removes it.
    pub directory: PathBuf,
}

/// The parts, in the order in which they are dropped.
pub struct Story {
    worker: Option<Worker>,
    ledger: Mutex<Ledger>,
    postgres: PrivatePostgres,
    gateway: Gateway,
    broker: Broker,
    plan: Arc<Plan>,
    recipe: Recipe,
    seed: u64,
    workers: u32,
    produced: Produced,
    open_at_kill: HashSet<String>,
    recovery: Option<Duration>,
    /// What went wrong and is not seen in the records.
    faults: Vec<String>,
}

impl Story {
    /// Starts everything but the worker.
    pub async fn prepare(options: Options, screen: &Screen) -> anyhow::Result<Self> {
        screen.show("starting", "embedded Kafka, private Postgres, stub gateway");
        let plan = Arc::new(Plan::new(options.orders, options.seed));
        let broker = Broker::start()?;
        let gateway = Gateway::open(Arc::clone(&plan)).await.context("cannot open the stub gateway")?;
        let files = options.directory.join("postgres");
        std::fs::create_dir(&files).with_context(|| format!("cannot make {}", files.display()))?;
        let postgres = PrivatePostgres::start(&files).await?;
        let database_url = postgres.create_database(DATABASE).await?;
        let ledger = Ledger::connect(&database_url).await.context("cannot reach the private Postgres")?;
        let recipe = Recipe {
            program: options.worker,
            bootstrap_servers: broker.bootstrap_servers().to_owned(),
            database_url,
            webhook_url: gateway.url(),
            http_address: http_address().context("no port is free")?,
            directory: options.directory,
        };
        Ok(Self {
            worker: None,
            ledger: Mutex::new(ledger),
            postgres,
            gateway,
            broker,
            plan,
            recipe,
            seed: options.seed,
            workers: 0,
            produced: Vec::new(),
            open_at_kill: HashSet::new(),
            recovery: None,
            faults: Vec::new(),
        })
    }

    /// Tells the whole story. An error is a part that failed; what the worker did wrong is in the report.
    pub async fn play(&mut self, screen: &Screen) -> anyhow::Result<Report> {
        self.start_worker(screen).await?;
        self.healthy_traffic(screen).await?;
        self.trouble(screen).await?;
        self.outage(screen).await?;
        self.crash(screen).await?;
        self.come_to_rest(screen).await?;
        let accounts = self.account(screen).await?;
        Ok(Report {
            accounts,
            elapsed: screen.elapsed(),
            seed: self.seed,
            open_at_kill: u64::try_from(self.open_at_kill.len()).unwrap_or(u64::MAX),
            recovery: self.recovery,
            metrics_url: format!("http://{}/metrics", self.recipe.http_address),
            database_url: self.postgres.url(DATABASE),
            bootstrap_servers: self.recipe.bootstrap_servers.clone(),
        })
    }

    /// Stops the worker first, as an operator would.
    pub async fn end(mut self) -> anyhow::Result<()> {
        if let Some(worker) = self.worker.take() {
            worker.stop().await.context("cannot stop the worker")?;
        }
        Ok(())
    }

    async fn start_worker(&mut self, screen: &Screen) -> anyhow::Result<()> {
        self.launch_worker(screen).await?;
        screen.tell("worker started", &format!("group {GROUP}, {PARTITIONS} partitions"));
        Ok(())
    }

    async fn launch_worker(&mut self, screen: &Screen) -> anyhow::Result<()> {
        self.workers += 1;
        let worker = Worker::start(&self.recipe, self.workers)?;
        let what = || "joins its group".to_owned();
        watch(screen, "worker", what, worker.ready()).await?;
        self.worker = Some(worker);
        Ok(())
    }

    async fn healthy_traffic(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let title = "healthy traffic";
        let text = self.deliver(Chapter::Healthy, title, screen).await?;
        screen.tell(title, &text);
        Ok(())
    }

    async fn trouble(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let title = "flaky orders and poison";
        self.deliver(Chapter::Trouble, title, screen).await?;
        let flaky = counted(u64::try_from(self.plan.flaky()).unwrap_or(u64::MAX), "order");
        screen.tell("flaky gateway", &format!("{flaky} failed once or twice (500, 503), then notified"));
        let letters = self.wait_for_dead_letters(screen).await?;
        screen.tell("poison", &format!("{letters} records in {DEAD_LETTER_TOPIC}, partitions kept moving"));
        Ok(())
    }

    async fn outage(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let (dead, spent) = (self.dead().await?, self.channel_state().await?.attempts_spent);
        self.gateway.close().await?;
        let title = "gateway down";
        let records = self.plan.records(Chapter::Outage);
        let what = || format!("connections are refused, {}", progress(self.gateway.notified(), self.plan.orders()));
        let producing = produce(&self.broker, &self.plan, records, Pace::all_at_once());
        let opening = async { tokio::join!(tokio::time::sleep(OUTAGE), self.channel(|state| state.is_open)).1 };
        let (produced, opened) = watch(screen, title, what, async { tokio::join!(producing, opening) }).await;
        self.produced.extend(produced?);
        let breaker = if opened? { "open" } else { "closed" };
        let spent = self.channel_state().await?.attempts_spent - spent;
        let dead = self.dead().await? - dead;
        if spent > 0 || dead > 0 {
            self.faults.push(format!("the outage cost {spent} attempts and made {dead} dead letters"));
        }
        let waiting = self.plan.orders_until(Chapter::Outage).saturating_sub(self.gateway.notified());
        let waiting_orders = counted(waiting, "order");
        screen
            .tell(title, &format!("breaker {breaker}, {waiting_orders} wait, {spent} attempts spent, {dead} given up"));
        self.recover(waiting, screen).await
    }

    async fn recover(&mut self, waiting: u64, screen: &Screen) -> anyhow::Result<()> {
        let title = "gateway back";
        self.gateway.reopen().await?;
        let start = Instant::now();
        self.wait_for_notifications(Chapter::Outage, title, screen).await?;
        let seconds = start.elapsed().as_secs_f64();
        let left = self.plan.orders_until(Chapter::Outage).saturating_sub(self.gateway.notified());
        let closing = self.channel(|state| !state.is_open);
        let closed = watch(screen, title, || "a probe closes the breaker".to_owned(), closing).await?;
        let breaker = if closed { "closed" } else { "open" };
        let delivered = number(waiting.saturating_sub(left));
        screen.tell(title, &format!("breaker {breaker}, {delivered} of them notified within {seconds:.1} s"));
        Ok(())
    }

    /// Whether the worker says so of its channel in time.
    async fn channel(&self, is_so: impl Fn(ChannelState) -> bool) -> anyhow::Result<bool> {
        let start = Instant::now();
        while start.elapsed() < STALLED {
            if is_so(self.channel_state().await?) {
                return Ok(true);
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(false)
    }

    async fn channel_state(&self) -> anyhow::Result<ChannelState> {
        self.check_worker()?;
        let worker = self.worker.as_ref().context("there is no worker to ask")?;
        worker.channel_state().await.context("the worker's metrics cannot be read")
    }

    async fn crash(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let title = "worker killed (kill -9)";
        let before = self.plan.orders_until(Chapter::Outage);
        let moment = before + (self.plan.orders_until(Chapter::Crash) - before) / 3;
        let worker = self.worker.take().context("there is no worker to kill")?;
        let records = self.plan.records(Chapter::Crash);
        let producing = produce(&self.broker, &self.plan, records, Pace::burst(self.plan.orders(), &self.gateway));
        let killing = async {
            wait_until(STALLED, || self.gateway.notified() >= moment).await;
            let killed_after = self.gateway.requests();
            worker.kill().await.map(|()| (Instant::now(), killed_after))
        };
        let what = || progress(self.gateway.notified(), self.plan.orders());
        let (produced, killed) =
            watch(screen, "traffic goes on", what, async { tokio::join!(producing, killing) }).await;
        self.produced.extend(produced?);
        let (killed_at, requests) = killed?;
        self.open_at_kill = self.ledger.lock().await.open_claims().await?;
        let open = counted(u64::try_from(self.open_at_kill.len()).unwrap_or(u64::MAX), "claim");
        screen.tell(title, &format!("in the middle of its work, {open} of unknown effect"));
        self.restart(screen, killed_at, requests).await
    }

    async fn restart(&mut self, screen: &Screen, killed_at: Instant, requests: u64) -> anyhow::Result<()> {
        self.launch_worker(screen).await?;
        let title = "worker restarted";
        let delivering = wait_until(STALLED, || self.gateway.requests() > requests);
        let came = watch(screen, title, || "waits for the group to let it in".to_owned(), delivering).await;
        self.recovery = came.then(|| killed_at.elapsed());
        let recovery = killed_at.elapsed().as_secs_f64();
        screen.tell(title, &format!("delivers again {recovery:.1} s after the kill"));
        let text = self.wait_for_notifications(Chapter::Crash, "catching up", screen).await?;
        screen.tell("caught up", &text);
        Ok(())
    }

    /// Waits until nothing is under way any more and all offsets are committed, if that comes.
    async fn come_to_rest(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let ends = self.ends();
        let rest = async {
            let start = Instant::now();
            while start.elapsed() < STALLED {
                self.check_worker()?;
                let counts = self.ledger.lock().await.counts().await?;
                if counts.claimed == 0 && counts.unpublished == 0 && self.broker.committed().await? == ends {
                    break;
                }
                tokio::time::sleep(TICK).await;
            }
            anyhow::Ok(())
        };
        watch(screen, "coming to rest", || "the last offsets are committed".to_owned(), rest).await
    }

    async fn account(&mut self, screen: &Screen) -> anyhow::Result<Accounts> {
        screen.show("account", "every record, against the gateway, the topics and the ledger");
        let mut ledger = self.ledger.lock().await;
        let evidence = Evidence {
            produced: self.produced.clone(),
            deliveries: self.gateway.deliveries(),
            dead_topic: self.broker.read(DEAD_LETTER_TOPIC).await?,
            dead_rows: ledger.dead_letters().await?,
            committed: self.broker.committed().await?,
            done: ledger.done().await?,
            open_at_kill: self.open_at_kill.clone(),
        };
        let mut accounts = Accounts::close(&self.plan, &evidence);
        accounts.problems.append(&mut self.faults);
        Ok(accounts)
    }

    /// Produces a chapter at an even pace and waits until its orders are notified. Returns how far the story is.
    async fn deliver(&mut self, chapter: Chapter, title: &str, screen: &Screen) -> anyhow::Result<String> {
        let start = (Instant::now(), self.gateway.notified());
        let pace = Pace::even(self.plan.orders(), &self.gateway);
        let producing = produce(&self.broker, &self.plan, self.plan.records(chapter), pace);
        let produced = watch(screen, title, || self.progress_since(start), producing).await?;
        self.produced.extend(produced);
        self.wait(chapter, title, start, screen).await
    }

    async fn wait_for_notifications(&self, chapter: Chapter, title: &str, screen: &Screen) -> anyhow::Result<String> {
        self.wait(chapter, title, (Instant::now(), self.gateway.notified()), screen).await
    }

    async fn wait(
        &self,
        chapter: Chapter,
        title: &str,
        start: (Instant, u64),
        screen: &Screen,
    ) -> anyhow::Result<String> {
        let orders = self.plan.orders_until(chapter);
        let waiting = async {
            let mut moved = (Instant::now(), 0);
            while self.gateway.notified() < orders && moved.0.elapsed() < STALLED {
                self.check_worker()?;
                if self.gateway.notified() != moved.1 {
                    moved = (Instant::now(), self.gateway.notified());
                }
                tokio::time::sleep(TICK / 10).await;
            }
            anyhow::Ok(())
        };
        watch(screen, title, || self.progress_since(start), waiting).await?;
        Ok(self.progress_since(start))
    }

    async fn wait_for_dead_letters(&self, screen: &Screen) -> anyhow::Result<i64> {
        let expected = i64::try_from(self.plan.dead_letters()).unwrap_or(i64::MAX);
        let waiting = async {
            let start = Instant::now();
            loop {
                self.check_worker()?;
                let found = self.broker.count(DEAD_LETTER_TOPIC).await?;
                if found >= expected || start.elapsed() > STALLED {
                    return anyhow::Ok(found);
                }
                tokio::time::sleep(TICK).await;
            }
        };
        watch(screen, "poison", || format!("waiting for {expected} dead letters"), waiting).await
    }

    fn progress_since(&self, (start, before): (Instant, u64)) -> String {
        let notified = self.gateway.notified();
        let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = notified.saturating_sub(before) * 1_000 / millis;
        format!("{}   {}/s", progress(notified, self.plan.orders()), number(rate))
    }

    async fn dead(&self) -> anyhow::Result<i64> {
        Ok(self.ledger.lock().await.counts().await?.dead)
    }

    fn check_worker(&self) -> anyhow::Result<()> {
        Ok(self.worker.as_ref().map_or(Ok(()), Worker::check)?)
    }

    /// The offsets that are committed when everything is done.
    fn ends(&self) -> BTreeMap<Partition, Offset> {
        let mut ends = BTreeMap::new();
        for (coordinates, _) in &self.produced {
            let end = ends.entry(coordinates.partition).or_insert(Offset(0));
            *end = (*end).max(coordinates.offset.next());
        }
        ends
    }
}

/// Does the work and tells, meanwhile, how it is getting on.
async fn watch<T>(screen: &Screen, title: &str, what: impl Fn() -> String, work: impl Future<Output = T>) -> T {
    let mut ticks = tokio::time::interval(TICK);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = ticks.tick() => screen.show(title, &what()),
        }
    }
}

/// Whether it came true in time.
async fn wait_until(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}
