//! The workers: started, killed, frozen, told to end, and started again as an orchestrator would.

mod plans;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::bag::Bag;
use crate::chronicle::{Chronicle, Fault, Life, When};
use crate::lookout::Lookout;
use crate::stage::Setups;
use crate::support::worker::{Metrics, Worker};
use plans::{PLANS, Plan};

/// An orchestrator waits this long before it starts again what ended by itself.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Drain, settlements, the last commit and the flush have deadlines, which add up to less.
const END_LIMIT: Duration = Duration::from_secs(45);
/// Longer than any fault keeps a worker from starting.
const READY_LIMIT: Duration = Duration::from_mins(1);
/// Counters are read one after another while they count: several looks are needed for one that closes.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How many visitors a storm has at a time.
const STORM: usize = 3;
/// The exit code of a worker that refuses to start over what it found.
const REFUSED: i32 = 3;
/// Static members: the protocol `consumer` keeps the name of a member that was killed until its session ends, and with `classic` a
/// join whose answer was lost is another member to the broker, which fences the first. librdkafka gives up for good on both.
const NAME_TAKEN: [&str; 2] =
    ["The instance ID is still used by another member", "Static consumer fenced by other consumer"];

/// All workers of a run, and what was seen of them.
#[derive(Debug)]
pub struct Crew<'a> {
    setups: &'a Setups,
    chronicle: &'a Chronicle,
    lookout: Lookout,
    /// True once nothing is broken any more.
    calm: watch::Receiver<bool>,
    /// When that will be.
    until: Instant,
    logs: PathBuf,
    lives: AtomicUsize,
    plans: Mutex<(Bag<Plan>, Rng)>,
    record: Mutex<Record>,
}

/// What a crew is told at its beginning.
#[derive(Debug)]
pub struct Orders {
    pub lookout: Lookout,
    pub calm: watch::Receiver<bool>,
    pub until: Instant,
    pub logs: PathBuf,
    pub rng: Rng,
}

/// What was seen of the workers.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub started: usize,
    /// Starts refused by preflight, for what was broken then.
    pub refused: usize,
    pub ended_clean: usize,
    /// Told to end, and not all that ran could end in time.
    pub cut_off: BTreeSet<Life>,
    pub looks: usize,
    /// Orders of which a process told that it did not wait for the answer any more.
    pub unanswered: BTreeSet<(Life, String)>,
    /// The last numbers of each process.
    pub counted: BTreeMap<Life, Counted>,
    pub open_accounts: Vec<String>,
    pub violations: Vec<String>,
    /// Ends that nobody asked for, and ends that did not come.
    pub bad_ends: Vec<String>,
}

/// What a process told of parking.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub at: Instant,
    pub parked: usize,
    pub settled: usize,
}

/// One process and who it is.
#[derive(Debug)]
pub struct Running {
    pub life: Life,
    pub worker: Worker,
}

enum Seen {
    Due,
    Calm,
    Ended(i32),
}

impl<'a> Crew<'a> {
    pub fn new(setups: &'a Setups, chronicle: &'a Chronicle, orders: Orders) -> Self {
        let Orders { lookout, calm, until, logs, rng } = orders;
        let (lives, plans) = (AtomicUsize::new(0), Mutex::new((Bag::of(PLANS), rng)));
        Self { setups, chronicle, lookout, calm, until, logs, lives, plans, record: Mutex::default() }
    }

    pub fn record(&self) -> Record {
        self.record.lock().unwrap().clone()
    }

    fn start(&self, slot: Option<usize>) -> Running {
        let life = Life { number: self.lives.fetch_add(1, Ordering::Relaxed), slot };
        self.record.lock().unwrap().started += 1;
        Running { life, worker: self.setups.of(life).spawn() }
    }

    /// One worker through all that is done to it; in the end it runs, and is left alone.
    pub async fn keep(&self, slot: usize, mut rng: Rng) -> Running {
        let mut running = self.start(Some(slot));
        loop {
            let wait = Duration::from_millis(rng.u64(2_000..30_000)).min(self.share());
            let pause = Duration::from_millis(if rng.bool() { 0 } else { rng.u64(..12_000) });
            match self.watch(&running, wait).await {
                Seen::Calm => return self.settle(running).await,
                Seen::Ended(code) => {
                    self.note_end(&running, code);
                    sleep(RESTART_AFTER).await;
                    running = self.start(Some(slot));
                }
                Seen::Due => {
                    let Some(resumed) = self.deal_with(running, &mut rng).await else {
                        let _ = timeout(pause, self.calm.clone().wait_for(|calm| *calm)).await;
                        running = self.start(Some(slot));
                        continue;
                    };
                    running = resumed;
                }
            }
        }
    }

    /// How long a worker may be left alone, so that there is time for each plan.
    fn share(&self) -> Duration {
        self.plans.lock().unwrap().0.share(self.until).saturating_mul(2)
    }

    /// Workers that come and go in quick succession, each for a few seconds, one after another or all at once.
    pub async fn visitors(&self, mut rng: Rng) {
        let mut bag = Bag::of([Fault::Visits, Fault::Storm]);
        loop {
            let pause = Duration::from_millis(rng.u64(15_000..50_000)).min(bag.share(self.until) / 2);
            let mut calm = self.calm.clone();
            if timeout(pause, calm.wait_for(|calm| *calm)).await.is_ok() {
                return;
            }
            let fault = bag.draw(&mut rng);
            let visits = if fault == Fault::Storm { STORM } else { rng.usize(2..5) };
            let each: Vec<Rng> = (0..visits).map(|_| rng.fork()).collect();
            let mark = self.chronicle.begin(fault.clone(), None);
            if fault == Fault::Storm {
                futures_util::future::join_all(each.into_iter().map(|rng| self.visits(rng, 2))).await;
            } else {
                for rng in each {
                    self.visits(rng, 1).await;
                }
            }
            self.chronicle.end(mark);
        }
    }

    async fn visits(&self, mut rng: Rng, count: usize) {
        for _ in 0..count {
            if *self.calm.borrow() {
                return;
            }
            let running = self.start(None);
            let stay = Duration::from_millis(rng.u64(1_500..7_000));
            match self.watch(&running, stay).await {
                Seen::Ended(code) => self.note_end(&running, code),
                Seen::Calm | Seen::Due if rng.bool() => self.kill(running, When::Whenever).await,
                Seen::Calm | Seen::Due => self.end(running).await,
            }
        }
    }

    /// Until the time is over, nothing is broken any more, or the worker has ended by itself.
    async fn watch(&self, running: &Running, time: Duration) -> Seen {
        let mut calm = self.calm.clone();
        let ended = async {
            loop {
                if let Some(code) = running.worker.exit_status() {
                    return code;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        let counting = async {
            loop {
                sleep(COUNT_EVERY).await;
                let _ = timeout(COUNT_EVERY, self.count(running)).await;
            }
        };
        tokio::select! {
            () = sleep(time) => Seen::Due,
            () = counting => Seen::Due,
            _ = calm.wait_for(|calm| *calm) => Seen::Calm,
            code = ended => Seen::Ended(code),
        }
    }

    /// What it says of parking, for the time when it cannot be asked any more.
    pub async fn count(&self, running: &Running) {
        let at = Instant::now();
        if let Ok((200, text)) = running.worker.get("/metrics").await {
            self.note_counts(running.life, at, &Metrics::parse(&text));
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    fn note_counts(&self, life: Life, at: Instant, metrics: &Metrics) {
        let parked = metrics.sum("herald_records_total", &[("outcome", "parked")]) as usize;
        let settled = metrics.sum("herald_parked_settled_total", &[]) as usize;
        self.record.lock().unwrap().counted.insert(life, Counted { at, parked, settled });
    }

    /// Waits until it is ready. What refused to start for a fault that was there then is started again.
    async fn settle(&self, mut running: Running) -> Running {
        let start = Instant::now();
        let mut seen = "no answer".to_owned();
        while start.elapsed() < READY_LIMIT {
            if let Some(code) = running.worker.exit_status() {
                self.note_end(&running, code);
                running = self.start(running.life.slot);
            }
            match running.worker.get("/readyz").await {
                Ok((200, _)) => return running,
                Ok((_, told)) => seen = told,
                Err(error) => seen = error.to_string(),
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.bad_end(&running, &format!("was not ready in time though nothing was broken: {seen}"));
        self.keep_log(&running);
        running
    }

    async fn kill(&self, mut running: Running, when: When) {
        if let Some(code) = running.worker.exit_status() {
            return self.note_end(&running, code);
        }
        self.chronicle.note(Fault::Killed { life: running.life, when });
        running.worker.kill9().await;
        self.keep_log(&running);
    }

    /// Tells it to end, with a look at its numbers before.
    async fn end(&self, mut running: Running) {
        self.look(&running).await;
        if let Some(code) = running.worker.exit_status() {
            return self.note_end(&running, code);
        }
        self.terminate(&mut running).await;
        self.keep_log(&running);
    }

    async fn terminate(&self, running: &mut Running) {
        let mark = self.chronicle.begin(Fault::Terminated(running.life), None);
        running.worker.sigterm();
        let start = Instant::now();
        while running.worker.exit_status().is_none() && start.elapsed() < END_LIMIT {
            sleep(Duration::from_millis(50)).await;
        }
        self.chronicle.end(mark);
        match running.worker.exit_status() {
            Some(0) => self.record.lock().unwrap().ended_clean += 1,
            Some(1) if running.worker.log().contains("stopped before everything had ended") => {
                self.record.lock().unwrap().cut_off.insert(running.life);
            }
            Some(REFUSED) => self.record.lock().unwrap().refused += 1,
            // A signal that comes before the process listens ends it.
            Some(143) => {}
            Some(code) => self.bad_end(running, &format!("was told to end and ended with {code}")),
            None => {
                self.bad_end(running, "was told to end and did not");
                self.chronicle.note(Fault::Killed { life: running.life, when: When::Whenever });
                running.worker.kill9().await;
            }
        }
    }

    /// I7 and the count of violations, as the worker itself tells them.
    pub async fn look(&self, running: &Running) {
        let start = Instant::now();
        let mut seen = "no answer".to_owned();
        while start.elapsed() < LOOK_LIMIT && running.worker.exit_status().is_none() {
            let at = Instant::now();
            if let Ok((200, text)) = running.worker.get("/metrics").await {
                let metrics = Metrics::parse(&text);
                self.note_counts(running.life, at, &metrics);
                let violated = metrics.sum("herald_invariant_violations_total", &[]);
                if violated > 0.0 {
                    let told = format!("{}: {violated} violations", running.life);
                    self.record.lock().unwrap().violations.push(told);
                }
                match account(&metrics) {
                    Ok(()) => {
                        self.record.lock().unwrap().looks += 1;
                        return;
                    }
                    Err(open) => seen = open,
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        let has_started = running.worker.log().contains("worker starts");
        if has_started && running.worker.exit_status().is_none() {
            self.chronicle.tell(&format!("{:<16} account does not close: {seen}", running.life.to_string()));
            self.record.lock().unwrap().open_accounts.push(format!("{}: {seen}", running.life));
        }
    }

    /// An end that nobody asked for.
    pub fn note_end(&self, running: &Running, code: i32) {
        self.keep_log(running);
        let log = running.worker.log();
        let is_name_taken = code == 1 && NAME_TAKEN.iter().any(|told| log.contains(told));
        if code == REFUSED || is_name_taken {
            self.chronicle.tell(&format!("{:<16} refused to start", running.life.to_string()));
            self.record.lock().unwrap().refused += 1;
        } else {
            self.bad_end(running, &format!("ended by itself with {code}"));
        }
    }

    fn bad_end(&self, running: &Running, what: &str) {
        self.chronicle.tell(&format!("{:<16} {what}", running.life.to_string()));
        let log = running.worker.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(5)..].join("\n      ");
        self.record.lock().unwrap().bad_ends.push(format!("{} {what}\n      {end}", running.life));
    }

    /// Its numbers too, while it answers.
    pub async fn keep_metrics(&self, running: &Running) {
        if let Ok((_, text)) = running.worker.get("/metrics").await {
            let _ = fs::write(self.logs.join(format!("worker-{}.metrics", running.life.number)), text);
        }
    }

    pub fn keep_log(&self, running: &Running) {
        let (name, log) = (format!("worker-{}.log", running.life.number), running.worker.log());
        let unanswered = log.lines().filter(|line| line.contains("no answer within")).filter_map(|line| {
            let told: serde_json::Value = serde_json::from_str(line).ok()?;
            Some((running.life, told["order_id"].as_str()?.to_owned()))
        });
        self.record.lock().unwrap().unanswered.extend(unanswered);
        // Only what helps to find a cause: the verdict does not depend on it.
        let _ = fs::write(self.logs.join(name), log);
    }
}

/// I7: every polled record has ended one way, is in flight, or was handed back.
fn account(metrics: &Metrics) -> Result<(), String> {
    let sum = |name| metrics.sum(name, &[]);
    let (polled, ended) = (sum("herald_records_polled_total"), sum("herald_records_total"));
    let (in_flight, handed_back) = (sum("herald_records_in_flight"), sum("herald_records_handed_back_total"));
    if (ended + in_flight + handed_back - polled).abs() < 0.5 {
        return Ok(());
    }
    Err(format!("polled {polled}, ended {ended}, in flight {in_flight}, handed back {handed_back}"))
}
