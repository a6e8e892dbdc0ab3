//! The broker process: formatted, started, killed, started again.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use herald::supervised::{Options, Signal, Supervised};
use tokio::sync::OnceCell;

use super::client::Kafka;
use crate::support::ports::{self, Reserved};
use crate::support::wait::blocking;
use crate::support::{cache, directory, tail};

pub(super) const START_LIMIT: Duration = Duration::from_mins(2);
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(10);
const START_TRIES: u32 = 5;

/// A killed broker may register again only when its old session has timed out, after 9 s by default. The shared broker keeps
/// that, so that a busy machine does not fence it.
const SOON_RESTARTED: Recipe = Recipe {
    settings: &[("broker.session.timeout.ms", "2000"), ("broker.heartbeat.interval.ms", "500")],
    ..Recipe::USUAL
};

/// What is special about a broker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipe {
    pub(super) settings: &'static [(&'static str, &'static str)],
    /// Listeners besides the open one: each is called like its protocol.
    pub(super) listeners: &'static [&'static str],
    /// SCRAM credentials, as `StorageTool` takes them.
    pub(super) users: &'static [&'static str],
    /// Makes the files that the settings name, in the broker's directory.
    pub(super) prepare: fn(&Path),
}

impl Recipe {
    pub(super) const USUAL: Self = Self { settings: &[], listeners: &[], users: &[], prepare: |_| {} };
}

/// A broker of our own; [`Kafka`] is what can be done with it.
#[derive(Debug)]
pub struct Broker {
    kafka: Kafka,
    /// By the name of the protocol.
    listeners: BTreeMap<&'static str, SocketAddr>,
    directory: PathBuf,
    /// Taken only for the moment in which it is stopped or replaced on another thread. When it has ended, it still guards the
    /// directory.
    process: Option<Supervised>,
}

impl Deref for Broker {
    type Target = Kafka;

    fn deref(&self) -> &Kafka {
        &self.kafka
    }
}

/// The broker of all tests, started by the first one that asks. It ends with the process.
pub async fn shared() -> &'static Kafka {
    static EXISTING: OnceCell<Kafka> = OnceCell::const_new();
    match existing() {
        Some(servers) => EXISTING.get_or_init(async || Kafka::at(&servers)).await,
        None => ours().await,
    }
}

/// As [`shared`], but always with our own settings: a topic that is deleted stays away, and sessions may be short.
pub async fn ours() -> &'static Kafka {
    static BROKER: OnceCell<Broker> = OnceCell::const_new();
    BROKER.get_or_init(async || blocking(|| Broker::start(Recipe::USUAL)).await).await
}

/// The bootstrap servers of a cluster that is not ours.
pub fn existing() -> Option<String> {
    env::var("HERALD_TEST_KAFKA").ok()
}

/// What [`shared`] is, in a few words.
pub fn description() -> String {
    match existing() {
        Some(servers) => format!("the one at {servers}"),
        None => format!("{}, one broker on this machine", kafka_version()),
    }
}

impl Broker {
    /// A broker that nobody else uses, for tests that kill it.
    pub async fn private() -> Self {
        blocking(|| Self::start(SOON_RESTARTED)).await
    }

    pub(super) fn start(recipe: Recipe) -> Self {
        let mut tries = 1;
        loop {
            let directory = directory("kafka");
            let (open, controller) = (ports::reserve(), ports::reserve());
            let others: Vec<_> = recipe.listeners.iter().map(|name| (*name, ports::reserve())).collect();
            let listeners: BTreeMap<_, _> = others.iter().map(|(name, port)| (*name, address(port))).collect();
            let kafka = Kafka::at(&address(&open).to_string());
            (recipe.prepare)(&directory);
            write_properties(&directory, [&open, &controller].map(address), &listeners, recipe.settings);
            let guard = format(&directory, recipe.users);
            drop((open, controller, others));
            match launch(&kafka, &directory, guard) {
                Ok(process) => {
                    return Self { kafka, listeners, directory, process: Some(process) };
                }
                Err(log) if log.contains("Address already in use") && tries < START_TRIES => {}
                Err(log) => panic!("Kafka did not start:\n{log}"),
            }
            tries += 1;
        }
    }

    /// The address of a further listener.
    pub(super) fn listener(&self, name: &str) -> SocketAddr {
        self.listeners[name]
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Kills the broker (`kill -9`). Its data and its port stay.
    pub async fn kill(&mut self) {
        self.end_with(Signal::Kill).await;
    }

    /// Freezes the broker: connections stay open and nothing answers.
    pub fn freeze(&mut self) {
        self.process.as_mut().unwrap().signal(Signal::Stop).unwrap();
    }

    pub fn thaw(&mut self) {
        self.process.as_mut().unwrap().signal(Signal::Continue).unwrap();
    }

    /// Stops the broker in good order. Its data and its port stay.
    pub async fn stop(&mut self) {
        self.end_with(Signal::Terminate).await;
    }

    /// Starts a broker that was killed or stopped, on the same port with the same data.
    pub async fn restart(&mut self) {
        let guard = self.process.take().unwrap();
        assert!(guard.exit_status().is_some(), "the broker is still running");
        let (kafka, directory) = (self.kafka.clone(), self.directory.clone());
        match blocking(move || launch(&kafka, &directory, guard)).await {
            Ok(process) => self.process = Some(process),
            Err(log) => panic!("Kafka did not start again:\n{log}"),
        }
    }

    async fn end_with(&mut self, signal: Signal) {
        let mut process = self.process.take().unwrap();
        let ended = blocking(move || {
            process.end_with(signal, STOP_LIMIT).unwrap();
            process
        });
        self.process = Some(ended.await);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.process.take());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Starts the broker and waits until it answers; the end of its log when it does not. The guard kept the directory so far.
fn launch(kafka: &Kafka, directory: &Path, guard: Supervised) -> Result<Supervised, String> {
    let mut command = java("384m");
    command.args(["kafka.Kafka", "server.properties"]);
    let process = run_in(directory, command);
    guard.stop_keeping_files().unwrap();
    let start = Instant::now();
    while !kafka.answers() {
        if process.exit_status().is_some() || start.elapsed() > START_LIMIT {
            return Err(tail(&log_in(directory)));
        }
    }
    Ok(process)
}

/// Starts a program whose supervisor removes the directory in the end.
pub(super) fn run_in(directory: &Path, mut command: Command) -> Supervised {
    command.current_dir(directory);
    let options = Options {
        cleanup: Some(directory.to_owned()),
        grace: STOP_LIMIT,
        ..Options::logging_to(File::create(log_in(directory)).unwrap())
    };
    Supervised::spawn(&command, options).unwrap()
}

pub(super) fn log_in(directory: &Path) -> PathBuf {
    directory.join("kafka.log")
}

pub(super) fn java(memory: &str) -> Command {
    let version = kafka_version();
    let jars = cache(&format!("kafka-{version}")).join("*");
    let mut command = Command::new("java");
    // A small heap, and no time spent on optimising a process that lives for a minute.
    command
        .args([&format!("-Xmx{memory}"), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(jars);
    command
}

/// The version is written once, in the pom.
fn kafka_version() -> &'static str {
    let pom = include_str!("pom.xml");
    let (_, rest) = pom.split_once("<kafka.version>").unwrap();
    rest.split_once("</kafka.version>").unwrap().0
}

fn address(port: &Reserved) -> SocketAddr {
    ports::local(port.port())
}

fn write_properties(
    directory: &Path,
    [open, controller]: [SocketAddr; 2],
    others: &BTreeMap<&str, SocketAddr>,
    settings: &[(&str, &str)],
) {
    let data = directory.join("data");
    let mut advertised = format!("PLAINTEXT://{open}");
    let mut protocols = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned();
    for (name, address) in others {
        advertised.extend([",", name, "://", &address.to_string()]);
        protocols.extend([",", name, ":", name]);
    }
    let mut properties = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
listeners={advertised},CONTROLLER://{controller}
advertised.listeners={advertised}
listener.security.protocol.map={protocols}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=200
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.cleaner.dedupe.buffer.size=8388608
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=1000
",
        data = data.display(),
    );
    for (name, value) in settings {
        properties.extend([name, "=", value, "\n"]);
    }
    fs::write(directory.join("server.properties"), properties).unwrap();
}

pub(super) fn format(directory: &Path, users: &[&str]) -> Supervised {
    let mut command = java("64m");
    command
        .args(["kafka.tools.StorageTool", "format", "--config", "server.properties"])
        // Any 16 bytes in URL-safe base64.
        .args(["--cluster-id", "aGVyYWxkLXRlc3QtMDAwMQ"])
        .args(users.iter().flat_map(|user| ["--add-scram", user]));
    let process = run_in(directory, command);
    let status = process.wait(START_LIMIT);
    assert!(
        status == Some(0),
        "cannot format the broker's storage (run scripts/setup if java is missing):\n{}",
        tail(&log_in(directory))
    );
    process
}
