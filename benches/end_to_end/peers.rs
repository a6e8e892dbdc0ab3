//! The same job on others: real ones, each with a row before and a row after every notification, both before the offset.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use herald::supervised::{Options, Supervised};

use crate::guarantee::worker_alone;
use crate::keys::{self, KEYS, LONGEST_WORK_MILLIS};
use crate::ledger::Fresh;
use crate::process;
use crate::source::Source;
use crate::stage::Stage;
use crate::support::{cache, directory, repository, tail};
use crate::table::{Goal, Row, grouped, median, per_second};

const LIMIT: Duration = Duration::from_mins(5);

/// One that does the same job.
#[derive(Clone, Copy, Debug)]
struct Peer {
    name: &'static str,
    /// As its program knows it.
    argument: &'static str,
    /// A part of the orders is enough of the slow ones.
    part: u32,
    goal: Goal,
}

const WITH_LEDGER: [Peer; 5] = [
    Peer { name: "Spring Kafka, record listener", argument: "spring-records", part: 10, goal: Goal::AtLeast(10.0) },
    Peer { name: "Spring Kafka, batch listener", argument: "spring-batches", part: 1, goal: Goal::AtLeast(1.5) },
    // No peer: it loses what a crash finds between the row and the notification. Yet many are built like that.
    Peer { name: "Spring Kafka, a row before alone", argument: "spring-rows-before", part: 1, goal: Goal::None },
    Peer { name: "Parallel Consumer", argument: "parallel-ledger", part: 10, goal: Goal::AtLeast(10.0) },
    Peer { name: "kafka-python", argument: PYTHON, part: 10, goal: Goal::AtLeast(10.0) },
];

const PYTHON: &str = "python";
const WITHOUT_LEDGER: &str = "parallel";

/// What a peer said: the seconds for each topic, and the most memory it had.
#[derive(Debug)]
struct Told {
    seconds: BTreeMap<String, f64>,
    peak_mebibytes: f64,
}

pub async fn measure(stage: &Stage) -> Vec<Row> {
    let mut rows = throughput(stage).await;
    rows.extend(slept(stage).await);
    rows
}

async fn throughput(stage: &Stage) -> Vec<Row> {
    let amounts = stage.amounts;
    let full = Source::of_orders(&stage.kafka, amounts.partitions, amounts.orders).await;
    let mut herald = Vec::new();
    let mut peers: [Vec<(f64, f64)>; WITH_LEDGER.len()] = Default::default();
    for _ in 0..amounts.rounds {
        herald.push(f64::from(amounts.orders) / worker_alone(stage, &full).await.time.as_secs_f64());
        for (peer, measured) in WITH_LEDGER.iter().zip(&mut peers) {
            // A group of a peer is its topic's: each run has its own.
            let source = Source::of_orders(&stage.kafka, amounts.partitions, amounts.orders / peer.part).await;
            let told = run(stage, peer.argument, &[&source], 0, Rows::ForEachOrder).await;
            let seconds = told.seconds.values().sum::<f64>();
            measured.push((f64::from(source.orders) / seconds, told.peak_mebibytes));
        }
    }
    let herald = median(herald);
    let row = |(peer, measured): (&Peer, Vec<(f64, f64)>)| {
        let speed = median(measured.iter().map(|(speed, _)| *speed));
        let memory = median(measured.iter().map(|(_, memory)| *memory));
        Row {
            measure: format!("no work: {}", peer.name),
            herald: per_second(herald),
            against: format!("{}, {memory:.0} MiB, {} orders", per_second(speed), orders(amounts.orders / peer.part)),
            ratio: herald / speed,
            goal: peer.goal,
        }
    };
    WITH_LEDGER.iter().zip(peers).map(row).collect()
}

/// Parallel Consumer's own scenario: without a ledger, and Herald with its own.
async fn slept(stage: &Stage) -> Vec<Row> {
    let count = stage.amounts.slept;
    let mut herald: [Vec<f64>; KEYS.len()] = Default::default();
    let mut peer: [Vec<f64>; KEYS.len()] = Default::default();
    for _ in 0..stage.amounts.rounds {
        let mut sources = Vec::new();
        for (keys, herald) in KEYS.into_iter().zip(&mut herald) {
            let source = keys::topic(&stage.kafka, count, keys).await;
            herald.push(keys::time(stage, keys).await.as_secs_f64());
            sources.push(source);
        }
        // One process for all: what comes later finds its code compiled.
        let all: Vec<&Source> = sources.iter().collect();
        let told = run(stage, WITHOUT_LEDGER, &all, LONGEST_WORK_MILLIS, Rows::None).await;
        for (source, peer) in sources.iter().zip(&mut peer) {
            peer.push(told.seconds[&source.topic]);
        }
    }
    let medians = herald.into_iter().map(median).zip(peer.into_iter().map(median));
    let row = |(keys, (herald, peer)): (u64, (f64, f64))| Row {
        measure: format!("0-5 ms work, {keys} keys: Parallel Consumer"),
        herald: format!("{herald:.2} s"),
        against: format!("{peer:.2} s without a ledger, {} orders", orders(count)),
        ratio: peer / herald,
        goal: Goal::AtLeast(1.0),
    };
    KEYS.into_iter().zip(medians).map(row).collect()
}

fn orders(count: u32) -> String {
    grouped(f64::from(count))
}

/// Rows that a peer is to leave.
#[derive(Clone, Copy, Debug)]
enum Rows {
    ForEachOrder,
    None,
}

/// Runs the peer over these topics and looks whether it did what it is measured for.
async fn run(stage: &Stage, peer: &str, sources: &[&Source], longest_work_millis: u64, rows: Rows) -> Told {
    let ledger = stage.server.fresh_for_peer().await;
    let mut command = if peer == PYTHON { python() } else { java(peer) };
    for source in sources {
        command.arg(format!("{}:{}", source.topic, source.orders));
    }
    let partitions = sources.iter().map(|source| source.partitions).max().unwrap_or(1);
    command
        .env("BOOTSTRAP_SERVERS", stage.kafka.bootstrap_servers())
        .env("DATABASE_URL", &ledger.url)
        .env("JDBC_URL", jdbc(&ledger))
        .env("PARTITIONS", partitions.to_string())
        .env("LONGEST_WORK_MILLIS", longest_work_millis.to_string());
    let told = tokio::task::spawn_blocking(move || to_its_end(&command)).await.unwrap();
    let expected = match rows {
        Rows::ForEachOrder => sources.iter().map(|source| source.orders).sum(),
        Rows::None => 0,
    };
    stage.server.finish_peer(ledger, expected).await;
    told
}

fn to_its_end(command: &Command) -> Told {
    let log = directory("peer").join("peer.log");
    let options =
        Options { cleanup: log.parent().map(PathBuf::from), ..Options::logging_to(File::create(&log).unwrap()) };
    let process = Supervised::spawn(command, options).unwrap();
    let (started, mut peak_mebibytes) = (Instant::now(), 0_f64);
    let status = loop {
        peak_mebibytes = peak_mebibytes.max(process::peak_mebibytes(process.pid()));
        if let Some(status) = process.wait(Duration::from_millis(100)) {
            break status;
        }
        assert!(started.elapsed() < LIMIT, "the peer does not end:\n{}", tail(&log));
    };
    assert_eq!(status, 0, "the peer failed:\n{}", tail(&log));
    let text = fs::read_to_string(&log).unwrap();
    let seconds = text.lines().filter_map(|line| line.split_once(' '));
    let seconds = seconds.map(|(topic, seconds)| (topic.to_owned(), seconds.parse().expect("seconds"))).collect();
    Told { seconds, peak_mebibytes }
}

fn java(peer: &str) -> Command {
    let built = cache("peers");
    let mut command = Command::new("java");
    command
        .arg("-Xmx512m")
        .arg("-cp")
        .arg(format!("{}:{}", built.join("classes").display(), built.join("libs").join("*").display()))
        .args(["herald.peers.Main", peer]);
    command
}

fn python() -> Command {
    let mut command = Command::new(cache("venv").join("bin/python"));
    command.arg(repository().join("benches/peers/peer.py"));
    command
}

/// `postgres://user@host:port/name` as the driver of Java wants it.
fn jdbc(ledger: &Fresh) -> String {
    let url = reqwest::Url::parse(&ledger.url).unwrap();
    let (host, port) = (url.host_str().unwrap(), url.port().unwrap());
    format!("jdbc:postgresql://{host}:{port}{}?user={}", url.path(), url.username())
}
