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

const START_LIMIT: Duration = Duration::from_mins(2);
const START_TRIES: u32 = 5;

/// A broker of our own; [`Kafka`] is what can be done with it.
#[derive(Debug)]
pub struct Broker {
    kafka: Kafka,
    directory: PathBuf,
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
    BROKER.get_or_init(Broker::private).await
}

impl Broker {
    /// A broker that nobody else uses, for tests that kill it.
    pub async fn private() -> Self {
        blocking(Self::start).await
    }

    fn start() -> Self {
        let mut tries = 1;
        loop {
            let directory = directory("kafka");
            let (listener, controller) = (ports::reserve(), ports::reserve());
            let kafka = Kafka::at(&ports::local(listener.port()).to_string());
            write_properties(&directory, [&listener, &controller]);
            format(&directory);
            drop((listener, controller));
            match launch(&kafka, &directory) {
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
        if let Some(mut process) = self.process.take() {
            blocking(move || {
                process.signal(Signal::Kill).unwrap();
                process.stop_keeping_files().unwrap();
            })
            .await;
        }
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
        if let Some(process) = self.process.take() {
            blocking(move || process.stop_keeping_files().unwrap()).await;
        }
    }

    /// Starts a broker that was killed or stopped, on the same port with the same data.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "the broker is still running");
        let (kafka, directory) = (self.kafka.clone(), self.directory.clone());
        match blocking(move || launch(&kafka, &directory)).await {
            Ok(process) => self.process = Some(process),
            Err(log) => panic!("Kafka did not start again:\n{log}"),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.process.take());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Starts the broker and waits until it answers; the end of its log when it does not.
fn launch(kafka: &Kafka, directory: &Path) -> Result<Supervised, String> {
    let log = directory.join("kafka.log");
    let mut command = java("384m");
    command.args(["kafka.Kafka", "server.properties"]).current_dir(directory);
    let options = Options {
        cleanup: Some(directory.to_owned()),
        grace: Duration::from_secs(10),
        ..Options::logging_to(File::create(&log).unwrap())
    };
    let process = Supervised::spawn(&command, options).unwrap();
    let start = Instant::now();
    while !kafka.answers() {
        if process.exit_status().is_some() || start.elapsed() > START_LIMIT {
            return Err(tail(&log));
        }
    }
    Ok(process)
}

fn java(memory: &str) -> Command {
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

fn write_properties(directory: &Path, [listener, controller]: [&Reserved; 2]) {
    let (listener, controller) = (ports::local(listener.port()), ports::local(controller.port()));
    let data = directory.join("data");
    let properties = format!(
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
    fs::write(directory.join("server.properties"), properties).unwrap();
}

fn format(directory: &Path) {
    let output = java("64m")
        .args(["kafka.tools.StorageTool", "format", "--config", "server.properties"])
        // Any 16 bytes in URL-safe base64.
        .args(["--cluster-id", "aGVyYWxkLXRlc3QtMDAwMQ"])
        .current_dir(directory)
        .output()
        .expect("java is missing: run scripts/setup");
    assert!(output.status.success(), "cannot format the broker's storage: {}", String::from_utf8_lossy(&output.stderr));
}
