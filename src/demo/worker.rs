//! The worker of the demo: this very program, as a process of its own, so that it can be killed as a worker is.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::broker::GROUP;
use super::pages::{self, ChannelState};
use crate::supervised::{Options, Signal, Supervised};

const START_LIMIT: Duration = Duration::from_secs(20);
const END_LIMIT: Duration = Duration::from_secs(5);
const USUAL_PORT: u16 = 9464;
const LOG_LINES: usize = 12;

/// The embedded broker gives the partitions of a killed member away only when its session has ended.
const SESSION_TIMEOUT: &str = "3s";

/// How to run a worker against the parts of the demo.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub program: PathBuf,
    pub bootstrap_servers: String,
    pub database_url: String,
    pub webhook_url: String,
    pub http_address: SocketAddr,
    /// Where it runs and where its log is.
    pub directory: PathBuf,
}

#[derive(Debug)]
pub struct Worker {
    process: Supervised,
    log: PathBuf,
    http_address: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start the worker: {0}")]
    Start(#[from] io::Error),
    #[error("the worker ended by itself (exit {status})\n  log   {}\n{}", .log.display(), tail(.log))]
    Ended { status: i32, log: PathBuf },
    #[error("the worker was not ready within {START_LIMIT:?}\n  log   {}\n{}", .log.display(), tail(.log))]
    NotReady { log: PathBuf },
}

impl Recipe {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("run").current_dir(&self.directory);
        // A worker's configuration in the surroundings is none of the demo's business.
        for name in inherited_settings() {
            command.env_remove(name);
        }
        command
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.bootstrap_servers)
            .env("DATABASE_URL", &self.database_url)
            .env("HERALD_DATABASE__MIGRATE", "true")
            .env("HERALD_KAFKA__GROUP", GROUP)
            .env("HERALD_KAFKA__SESSION_TIMEOUT", SESSION_TIMEOUT)
            .env("HERALD_NOTIFICATION__CHANNEL", "webhook")
            .env("HERALD_WEBHOOK__URL", &self.webhook_url)
            .env("HERALD_HTTP__ADDRESS", self.http_address.to_string())
            // All attempts together take less time than the outage of the gateway: it would show if that spent any.
            .env("HERALD_RETRY__MAX_ATTEMPTS", "4")
            .env("HERALD_RETRY__INITIAL_BACKOFF", "100ms")
            .env("HERALD_RETRY__MAX_BACKOFF", "500ms")
            // As patient as the outage is long.
            .env("HERALD_BREAKER__INITIAL_WAIT", "200ms")
            .env("HERALD_BREAKER__MAX_WAIT", "500ms");
        command
    }
}

impl Worker {
    /// `number` counts the workers of one demo, and names the log.
    pub fn start(recipe: &Recipe, number: u32) -> Result<Self, Error> {
        let log = recipe.directory.join(format!("worker-{number}.log"));
        let process = Supervised::spawn(&recipe.command(), Options::logging_to(File::create(&log)?))?;
        Ok(Self { process, log, http_address: recipe.http_address })
    }

    /// Waits until the worker has partitions and says that it is ready.
    pub async fn ready(&self) -> Result<(), Error> {
        let start = Instant::now();
        while start.elapsed() < START_LIMIT {
            self.check()?;
            if pages::is_ready(self.http_address).await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Error::NotReady { log: self.log.clone() })
    }

    pub(super) async fn channel_state(&self) -> io::Result<ChannelState> {
        pages::channel_state(self.http_address).await
    }

    /// An error if the worker has ended by itself.
    pub fn check(&self) -> Result<(), Error> {
        match self.process.exit_status() {
            Some(status) => Err(Error::Ended { status, log: self.log.clone() }),
            None => Ok(()),
        }
    }

    /// Kills it with no chance to do anything, and waits for its end.
    pub async fn kill(mut self) -> io::Result<()> {
        self.process.signal(Signal::Kill)?;
        tokio::task::spawn_blocking(move || {
            self.process.wait(END_LIMIT);
            self.process.stop()
        })
        .await?
    }

    /// Asks it to end, and waits for that.
    pub async fn stop(self) -> io::Result<()> {
        tokio::task::spawn_blocking(move || self.process.stop()).await?
    }
}

/// The usual port if nobody has it, else any.
pub fn http_address() -> io::Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bind(USUAL_PORT).or_else(|_| bind(0))?.local_addr()
}

fn inherited_settings() -> impl Iterator<Item = OsString> {
    let is_setting = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with("HERALD_"));
    std::env::vars_os().map(|(name, _)| name).filter(is_setting)
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LOG_LINES));
    last.map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn recipe(directory: &TempDir, program: &str) -> Recipe {
        Recipe {
            program: program.into(),
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            database_url: "postgres://127.0.0.1:1/herald".to_owned(),
            webhook_url: "http://127.0.0.1:1".to_owned(),
            http_address: http_address().unwrap(),
            directory: directory.path().to_owned(),
        }
    }

    #[tokio::test]
    async fn a_worker_that_cannot_start_is_told_with_the_end_of_its_log() {
        let directory = TempDir::new().unwrap();
        let program = directory.path().join("worker");
        fs::write(&program, "#!/bin/sh\necho \"error: $1 with $HERALD_KAFKA__SESSION_TIMEOUT\" >&2\nexit 3\n").unwrap();
        Command::new("chmod").arg("+x").arg(&program).status().unwrap();
        let worker = Worker::start(&recipe(&directory, program.to_str().unwrap()), 1).unwrap();
        let error = worker.ready().await.unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("error: run with 3s"), "{error}");
        worker.stop().await.unwrap();
    }

    #[test]
    fn another_port_is_taken_where_the_usual_one_is_not_free() {
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, USUAL_PORT));
        assert_ne!(http_address().unwrap().port(), USUAL_PORT);
    }
}
