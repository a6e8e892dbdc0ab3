//! The broker process: formatted, started, killed, started again.

use std::env;
use std::fs::{self, File};
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
const SOON_RESTARTED: [(&str, &str); 2] =
    [("broker.session.timeout.ms", "2000"), ("broker.heartbeat.interval.ms", "500")];

/// A broker of our own; [`Kafka`] is what can be done with it.
#[derive(Debug)]
pub struct Broker {
    kafka: Kafka,
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
    static BROKER: OnceCell<Broker> = OnceCell::const_new();
    static EXISTING: OnceCell<Kafka> = OnceCell::const_new();
    if let Ok(servers) = env::var("HERALD_TEST_KAFKA") {
        return EXISTING.get_or_init(async || Kafka::at(&servers)).await;
    }
    let started = BROKER.get_or_init(async || blocking(|| Broker::start(&[])).await);
    started.await
}

/// What [`shared`] is, in a few words.
pub fn description() -> String {
    match env::var("HERALD_TEST_KAFKA") {
        Ok(servers) => format!("the one at {servers}"),
        Err(_) => format!("{}, one broker on this machine", kafka_version()),
    }
}

impl Broker {
    /// A broker that nobody else uses, for tests that kill it.
    pub async fn private() -> Self {
        blocking(|| Self::start(&SOON_RESTARTED)).await
    }

    fn start(settings: &[(&str, &str)]) -> Self {
        let mut tries = 1;
        loop {
            let directory = directory("kafka");
            let (listener, controller) = (ports::reserve(), ports::reserve());
            let kafka = Kafka::at(&ports::local(listener.port()).to_string());
            write_properties(&directory, [&listener, &controller], settings);
            let guard = format(&directory);
            drop((listener, controller));
            match launch(&kafka, &directory, guard) {
                Ok(process) => {
                    return Self { kafka, directory, process: Some(process) };
                }
                Err(log) if log.contains("Address already in use") && tries < START_TRIES => {}
                Err(log) => panic!("Kafka did not start:\n{log}"),
            }
            tries += 1;
        }
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

fn write_properties(directory: &Path, [listener, controller]: [&Reserved; 2], settings: &[(&str, &str)]) {
    let (listener, controller) = (ports::local(listener.port()), ports::local(controller.port()));
    let data = directory.join("data");
    let mut properties = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
listeners=PLAINTEXT://{listener},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{listener}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
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

pub(super) fn format(directory: &Path) -> Supervised {
    let mut command = java("64m");
    command
        .args(["kafka.tools.StorageTool", "format", "--config", "server.properties"])
        // Any 16 bytes in URL-safe base64.
        .args(["--cluster-id", "aGVyYWxkLXRlc3QtMDAwMQ"]);
    let process = run_in(directory, command);
    let status = process.wait(START_LIMIT);
    assert!(
        status == Some(0),
        "cannot format the broker's storage (run scripts/setup if java is missing):\n{}",
        tail(&log_in(directory))
    );
    process
}
