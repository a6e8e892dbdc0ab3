//! A PostgreSQL server of our own, from the binaries that are installed: in a directory that goes with it, on a free port of
//! 127.0.0.1, gone when this process is gone.

mod binaries;

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::supervised::{Options, Signal, Supervised};

const START_LIMIT: Duration = Duration::from_secs(30);
const PORT_TRIES: u32 = 5;
/// `nobody`. PostgreSQL refuses to run as root.
const UNPRIVILEGED: u32 = 65534;
const SUPERUSER: &str = "postgres";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no PostgreSQL server binaries found (initdb, postgres)\n  looked in   {looked_in}\n  \
         remedy      install them (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; \
         macOS: brew install postgresql@17), or set HERALD_POSTGRES_BIN to their directory"
    )]
    NotInstalled { looked_in: String },
    #[error(
        "PostgreSQL cannot run as root, and user {UNPRIVILEGED} may not enter {}: set TMPDIR to a directory open to all, like /tmp",
        .0.display()
    )]
    ClosedDirectory(PathBuf),
    #[error("{program} failed: {output}")]
    Failed { program: &'static str, output: String },
    #[error("cannot prepare {}: {source}", .path.display())]
    Files { path: PathBuf, source: io::Error },
    #[error("cannot run {program}: {source}")]
    Run { program: &'static str, source: io::Error },
    #[error("private PostgreSQL: {0}")]
    Database(String),
}

#[derive(Debug)]
pub struct PrivatePostgres {
    binaries: PathBuf,
    directory: PathBuf,
    run_as: Option<u32>,
    settings: Vec<(String, String)>,
    port: u16,
    server: Option<Supervised>,
}

impl PrivatePostgres {
    /// Makes a database cluster in `directory`, which must exist and be empty and is removed in the end, and starts a server
    /// on it. `fsync` is off: the data is not meant to survive the machine.
    pub async fn start(directory: &Path) -> Result<Self, Error> {
        Self::start_with(directory, &[("fsync", "off")]).await
    }

    /// As [`start`](Self::start), with these server settings (`postgres -c name=value`) and no other.
    pub async fn start_with(directory: &Path, settings: &[(&str, &str)]) -> Result<Self, Error> {
        let mut postgres = Self {
            binaries: binaries::find()?,
            directory: directory.to_owned(),
            run_as: hand_over(directory)?,
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            port: 0,
            server: None,
        };
        postgres.make_cluster().await?;
        let mut tries = 1;
        loop {
            // The port is free when asked and may be taken when the server starts; then another is tried.
            postgres.port = free_port()?;
            match postgres.launch().await {
                Ok(()) => return Ok(postgres),
                Err(Error::Failed { output, .. }) if output.contains("could not bind") && tries < PORT_TRIES => {}
                Err(error) => return Err(error),
            }
            tries += 1;
        }
    }

    /// The connection URL of one of its databases; `postgres` is always there.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@{}:{}/{database}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// Makes an empty database and returns its URL.
    pub async fn create_database(&self, name: &str) -> Result<String, Error> {
        let statement = format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""));
        let created = async {
            let mut connection = PgConnection::connect(&self.url("postgres")).await?;
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
            connection.close().await
        };
        created.await.map_err(|error: sqlx::Error| Error::Database(error.to_string()))?;
        Ok(self.url(name))
    }

    /// The process id of the server; `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Supervised::pid)
    }

    /// Stops the server as a crash would, without a checkpoint; its data stays. Blocks until it has ended.
    pub fn crash(&mut self) -> Result<(), Error> {
        match self.server.take() {
            Some(server) => server.stop_keeping_files().map_err(|source| Error::Run { program: "postgres", source }),
            None => Ok(()),
        }
    }

    /// Starts a stopped server again, on the same data and the same port.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.crash()?;
        self.launch().await
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("postgres.log")
    }

    async fn make_cluster(&self) -> Result<(), Error> {
        let mut command = Command::new(self.binaries.join("initdb"));
        command
            .args(["--no-sync", "--auth=trust", "--locale=C", "--encoding=UTF8"])
            .args(["--username", SUPERUSER, "--pgdata"])
            .arg(self.data())
            .current_dir(&self.directory);
        if let Some(id) = self.run_as {
            use std::os::unix::process::CommandExt as _;
            command.uid(id).gid(id);
        }
        let output = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| Error::Run { program: "initdb", source })?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Failed { program: "initdb", output: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
    }

    async fn launch(&mut self) -> Result<(), Error> {
        let mut command = Command::new(self.binaries.join("postgres"));
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            // No Unix socket: its usual directory may be missing or belong to another server.
            .args(["-c", "unix_socket_directories="])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .current_dir(&self.directory);
        for (name, value) in &self.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        let log = File::create(self.log()).map_err(at(&self.log()))?;
        let options = Options {
            cleanup: Some(self.directory.clone()),
            stop_signal: Signal::Quit,
            run_as: self.run_as,
            ..Options::logging_to(log)
        };
        let server =
            Supervised::spawn(&command, options).map_err(|source| Error::Run { program: "postgres", source })?;
        match self.wait_until_ready(&server).await {
            Ok(()) => {
                self.server = Some(server);
                Ok(())
            }
            Err(error) => {
                // Another port may be tried in the same directory.
                let _ = server.stop_keeping_files();
                Err(error)
            }
        }
    }

    async fn wait_until_ready(&self, server: &Supervised) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let ended = server.exit_status().is_some();
            if ended || start.elapsed() > START_LIMIT {
                return Err(Error::Failed {
                    program: "postgres",
                    output: fs::read_to_string(self.log()).unwrap_or_default(),
                });
            }
            if let Ok(connection) = PgConnection::connect(&self.url("postgres")).await {
                let _ = connection.close().await;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        drop(self.server.take());
        // The supervisor has done it, unless the server was stopped or an unprivileged user could not remove the directory.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// As root, gives the directory to the unprivileged user that the server will run as, and says who that is.
fn hand_over(directory: &Path) -> Result<Option<u32>, Error> {
    // The owner of a file that we make is the user we run as.
    let probe = directory.join("postgres.log");
    File::create(&probe).map_err(at(&probe))?;
    let user = fs::metadata(&probe).map_err(at(&probe))?.uid();
    if user != 0 {
        return Ok(None);
    }
    for path in [directory, &probe] {
        chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).map_err(at(path))?;
    }
    let absolute = directory.canonicalize().map_err(at(directory))?;
    for parent in absolute.ancestors().skip(1) {
        let mode = fs::metadata(parent).map_err(at(parent))?.permissions().mode();
        if mode & 0o001 == 0 {
            return Err(Error::ClosedDirectory(parent.to_owned()));
        }
    }
    Ok(Some(UNPRIVILEGED))
}

fn free_port() -> Result<u16, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| Error::Run { program: "postgres", source })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Files { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> PathBuf {
        tempfile::Builder::new().prefix("herald-postgres-").tempdir().unwrap().keep()
    }

    async fn one(url: &str, query: &'static str) -> i64 {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
    }

    #[tokio::test]
    async fn a_private_server_survives_its_own_crash_and_leaves_nothing_behind() {
        let directory = directory();
        let mut postgres = PrivatePostgres::start(&directory).await.unwrap();
        let url = postgres.create_database("orders \"1\"").await;
        assert!(url.is_ok(), "{url:?}");
        let url = postgres.create_database("orders").await.unwrap();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("CREATE TABLE kept (n bigint); INSERT INTO kept VALUES (7)")
            .execute(&mut connection)
            .await
            .unwrap();
        postgres.crash().unwrap();
        assert!(PgConnection::connect(&url).await.is_err());
        postgres.restart().await.unwrap();
        assert_eq!(one(&url, "SELECT n FROM kept").await, 7);
        drop(postgres);
        assert!(!directory.exists());
    }

    #[tokio::test]
    async fn a_setting_that_the_server_refuses_is_told_in_its_own_words() {
        let directory = directory();
        let error = PrivatePostgres::start_with(&directory, &[("no_such_setting", "1")]).await.unwrap_err();
        assert!(error.to_string().contains("no_such_setting"), "{error}");
        assert!(!directory.exists());
    }
}
