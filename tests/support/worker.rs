//! The real binary, `herald run`, as a process of its own.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use herald::supervised::{Options, Signal, Supervised};
use serde_json::Value;

use super::ports;
use super::wait::{EVENTUALLY, SOON, blocking, equal, wait_until};
use super::{World, directory, tail};

/// How a worker is to be started: `herald run` in an empty directory, configured by the environment alone.
#[derive(Clone, Debug)]
pub struct WorkerSetup {
    program: PathBuf,
    environment: BTreeMap<String, String>,
}

/// Dropping it kills the process.
#[derive(Debug)]
pub struct Worker {
    http: String,
    log: PathBuf,
    process: Option<Supervised>,
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// What `/metrics` says, by series: `name{label="value"}`.
#[derive(Clone, Debug, Default)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl WorkerSetup {
    /// A worker with nothing configured.
    pub fn empty() -> Self {
        Self { program: env!("CARGO_BIN_EXE_herald").into(), environment: BTreeMap::new() }
    }

    /// A worker of this world: its topics, group, database and gateway.
    pub fn in_world(world: &World) -> Self {
        let mut setup = Self::empty();
        for (name, value) in [
            ("KAFKA_BOOTSTRAP_SERVERS", world.kafka.bootstrap_servers()),
            ("DATABASE_URL", &world.database.url),
            ("HERALD_KAFKA__TOPIC", &world.topic),
            ("HERALD_KAFKA__GROUP", &world.group),
            ("HERALD_DEAD_LETTERS__TOPIC", &world.dlq_topic),
            ("HERALD_NOTIFICATION__CHANNEL", "webhook"),
            ("HERALD_WEBHOOK__URL", &world.gateway.url()),
        ] {
            setup = setup.with(name, value);
        }
        setup
    }

    /// Another program that takes the same configuration.
    #[must_use]
    pub fn of_program(self, program: PathBuf) -> Self {
        Self { program, ..self }
    }

    /// Sets a variable, such as `HERALD_RETRY__MAX_ATTEMPTS`.
    #[must_use]
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.environment.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// Starts the process; it is not ready yet.
    pub fn spawn(&self) -> Worker {
        let port = ports::reserve();
        let http = ports::local(port.port()).to_string();
        let directory = directory("worker");
        let log = directory.join("worker.log");
        let mut command = self.command(&["run"]);
        command.current_dir(&directory);
        if !self.environment.contains_key("HERALD_HTTP__ADDRESS") {
            command.env("HERALD_HTTP__ADDRESS", &http);
        }
        let options = Options {
            cleanup: Some(directory),
            // Tests that want a drain ask for it. This is the end of the test.
            stop_signal: Signal::Kill,
            ..Options::logging_to(File::create(&log).unwrap())
        };
        port.release();
        Worker { http: format!("http://{http}"), process: Some(Supervised::spawn(&command, options).unwrap()), log }
    }

    /// Runs another command with the same configuration to its end.
    pub async fn run_command(&self, arguments: &[&str]) -> Ended {
        let directory = tempfile::tempdir().unwrap();
        let mut command = self.command(arguments);
        command.current_dir(directory.path());
        let output = blocking(move || command.output().unwrap()).await;
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs another command on a terminal of its own to its end; somebody types this when asked. What it shows is one stream.
    pub async fn run_on_terminal(&self, arguments: &[&str], typed: &str) -> Ended {
        let directory = tempfile::tempdir().unwrap();
        let words = [self.program.to_str().unwrap()].into_iter().chain(arguments.iter().copied());
        let line: Vec<String> = words.map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        let arguments = ["--quiet", "--return", "--command", &line.join(" "), "/dev/null"];
        let mut command = self.command_of(Path::new("script"), &arguments);
        command.env("SHELL", "/bin/sh").current_dir(directory.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("script, of util-linux");
        let typed = typed.to_owned();
        blocking(move || {
            // Kept open: a terminal does not end when nobody types.
            let mut keyboard = child.stdin.take().unwrap();
            let mut screen = child.stdout.take().unwrap();
            let (mut shown, mut part, mut typed) = (Vec::new(), [0; 4_096], Some(typed));
            while let Ok(size @ 1..) = screen.read(&mut part) {
                shown.extend_from_slice(&part[..size]);
                if String::from_utf8_lossy(&shown).contains("to go on: ")
                    && let Some(typed) = typed.take()
                {
                    keyboard.write_all(typed.as_bytes()).unwrap();
                }
            }
            let output = child.wait_with_output().unwrap();
            Ended {
                code: output.status.code(),
                stdout: String::from_utf8(shown).unwrap(),
                stderr: String::from_utf8(output.stderr).unwrap(),
            }
        })
        .await
    }

    /// Starts another command with the same configuration, for tests that end it.
    pub fn spawn_command(&self, arguments: &[&str]) -> std::process::Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&self.program, arguments)
    }

    fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments);
        // What is meant for this run of the tests is no configuration of the worker.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("HERALD_") {
                command.env_remove(name);
            }
        }
        command.envs(&self.environment);
        command
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&self) -> Worker {
        let worker = self.spawn();
        worker.wait_ready().await;
        worker
    }
}

impl Worker {
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// The log so far: a line for each noteworthy event.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub async fn wait_ready(&self) {
        wait_until("the worker is ready", EVENTUALLY, async || {
            if let Some(status) = self.exit_status() {
                panic!("the worker ended with status {status}:\n{}", tail(&self.log));
            }
            match self.get("/readyz").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("{status} {body}\n{}", tail(&self.log))),
                Err(error) => Err(format!("{error}\n{}", tail(&self.log))),
            }
        })
        .await;
    }

    /// The address of one of the worker's own pages.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.http)
    }

    /// Status and body of one of the worker's own pages.
    pub async fn get(&self, path: &str) -> Result<(u16, String), reqwest::Error> {
        let answer = http_client().get(self.url(path)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    pub async fn metrics(&self) -> Metrics {
        let (status, text) = self.get("/metrics").await.unwrap();
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    /// Waits until the sum of the series of this metric with these labels is the expected one.
    pub async fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], expected: f64) {
        wait_until(&format!("{name}{labels:?} is {expected}"), EVENTUALLY, async || {
            let metrics = self.get("/metrics").await.map_err(|error| error.to_string())?;
            equal(Metrics::parse(&metrics.1).sum(name, labels), &expected)
                .map_err(|difference| format!("{difference}\n{}", tail(&self.log)))
        })
        .await;
    }

    /// Waits until the worker says that it is not ready for this reason, perhaps among others. It is alive all the same.
    pub async fn wait_unready(&self, expected: &str) {
        wait_until(&format!("the worker is not ready: {expected}"), EVENTUALLY, async || {
            let (status, body) = self.get("/readyz").await.map_err(|error| error.to_string())?;
            let answer: Value = serde_json::from_str(&body).unwrap();
            let mut reasons = answer["reasons"].as_array().unwrap().iter();
            let is_expected = status == 503 && reasons.any(|reason| reason["reason"] == expected);
            if is_expected { Ok(()) } else { Err(format!("{status} {body}")) }
        })
        .await;
        let (status, body) = self.get("/livez").await.unwrap();
        assert_eq!(status, 200, "{body}");
    }

    /// I7: every polled record has ended one way or is in flight.
    pub async fn assert_accounting_closes(&self) {
        wait_until("the accounting closes", SOON, async || self.metrics().await.accounting()).await;
        let metrics = self.metrics().await;
        assert!(metrics.sum("herald_invariant_violations_total", &[]) < 1.0, "{}", self.log());
    }

    /// The same of whoever is alive at the end of its test, and answers: one that was frozen or killed does not.
    fn assert_sums_close_at_the_end(&self) {
        let limit = Instant::now() + Duration::from_secs(10);
        while let Some(metrics) = self.last_metrics() {
            assert!(metrics.sum("herald_invariant_violations_total", &[]) < 1.0, "{}", self.log());
            let Err(difference) = metrics.accounting() else { return };
            assert!(Instant::now() < limit, "the accounting does not close: {difference}\n{}", tail(&self.log));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Without the runtime of the test, which may be ending.
    fn last_metrics(&self) -> Option<Metrics> {
        const PATIENCE: Option<Duration> = Some(Duration::from_secs(2));
        self.process.as_ref().filter(|process| process.exit_status().is_none())?;
        let address = self.http.strip_prefix("http://")?;
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(PATIENCE).ok()?;
        write!(stream, "GET /metrics HTTP/1.0\r\nhost: {address}\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| Metrics::parse(body))
    }

    /// Asks for a graceful end.
    pub fn sigterm(&mut self) {
        self.signal(Signal::Terminate);
    }

    pub fn sigstop(&mut self) {
        self.signal(Signal::Stop);
    }

    pub fn sigcont(&mut self) {
        self.signal(Signal::Continue);
    }

    /// Ends the process with no chance to do anything, and waits for its end.
    pub async fn kill9(&mut self) {
        self.signal(Signal::Kill);
        self.wait_exit(EVENTUALLY).await;
    }

    /// The exit status; 128 plus the number of a signal that ended it.
    pub async fn wait_exit(&self, limit: Duration) -> i32 {
        wait_until("the worker ends", limit, async || {
            self.exit_status().ok_or_else(|| format!("it runs\n{}", tail(&self.log)))
        })
        .await
    }

    pub fn exit_status(&self) -> Option<i32> {
        self.process().exit_status()
    }

    fn signal(&mut self, signal: Signal) {
        self.process.as_mut().unwrap().signal(signal).unwrap();
    }

    fn process(&self) -> &Supervised {
        self.process.as_ref().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of the worker's log ---\n{}", tail(&self.log));
        } else {
            self.assert_sums_close_at_the_end();
        }
    }
}

impl Metrics {
    /// I7, of one look: series are not read at the same moment.
    fn accounting(&self) -> Result<f64, String> {
        let sum = |name| self.sum(name, &[]);
        let ended = sum("herald_records_total") + sum("herald_records_handed_back_total");
        equal(ended + sum("herald_records_in_flight"), &sum("herald_records_polled_total"))
    }

    pub fn parse(text: &str) -> Self {
        let series = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(series, value)| (series.to_owned(), value.parse().expect("a number")));
        Self(series.collect())
    }

    /// The sum of all series of this metric that have these labels; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        self.0
            .iter()
            .filter(|(series, _)| {
                let (found, labels) = series.split_once('{').unwrap_or((series, ""));
                found == name && wanted.iter().all(|label| has_label(labels, label))
            })
            .map(|(_, value)| value)
            .sum()
    }
}

fn has_label(labels: &str, wanted: &str) -> bool {
    labels.match_indices(wanted).any(|(at, _)| at == 0 || labels[..at].ends_with(','))
}

pub fn http_client() -> reqwest::Client {
    static TLS: Once = Once::new();
    // Already there when code under test has set it.
    TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap()
}

#[test]
fn metrics_are_summed_over_the_labels_that_are_not_named() {
    let metrics = Metrics::parse(
        "# HELP a x\na_total{outcome=\"ok\",topic=\"t\"} 2\na_total{outcome=\"ok\",topic=\"u\"} 3\n\
         a_total{outcome=\"no\",topic=\"t\"} 5\nb 7\n",
    );
    for (name, labels, expected) in [
        ("a_total", &[][..], 10.0),
        ("a_total", &[("outcome", "ok")][..], 5.0),
        ("a_total", &[("outcome", "ok"), ("topic", "u")][..], 3.0),
        ("a_total", &[("come", "ok")][..], 0.0),
        ("b", &[][..], 7.0),
        ("c", &[][..], 0.0),
    ] {
        assert!((metrics.sum(name, labels) - expected).abs() < f64::EPSILON, "{name} {labels:?}");
    }
}
