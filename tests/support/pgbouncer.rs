//! PgBouncer in transaction mode: each transaction of a client gets any server connection, and leaves there what it set.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use herald::supervised::{Options, Supervised};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpStream;

use super::wait::{EVENTUALLY, wait_until};
use super::worker::WorkerSetup;
use super::{directory, ports, repository, tail};

/// As root it would refuse to run.
const UNPRIVILEGED: u32 = 65_534;

/// Ends when it is dropped.
#[derive(Debug)]
pub struct PgBouncer {
    url: String,
    _process: Supervised,
}

impl PgBouncer {
    /// Before the server of this database, with fewer connections to it than a worker has.
    pub async fn start(url: &str) -> Self {
        let behind: PgConnectOptions = url.parse().unwrap();
        let directory = directory("pgbouncer");
        let port = ports::reserve();
        let settings = format!(
            "[databases]
             * = host={} port={} user={}{}
             [pgbouncer]
             listen_addr = 127.0.0.1
             listen_port = {}
             unix_socket_dir =
             auth_type = any
             pool_mode = transaction
             default_pool_size = 3
             max_client_conn = 200\n",
            behind.get_host(),
            behind.get_port(),
            behind.get_username(),
            password(url),
            port.port(),
        );
        fs::write(directory.join("pgbouncer.ini"), settings.replace("\n             ", "\n")).unwrap();
        let log = directory.join("pgbouncer.log");
        // Whoever it runs as may not be let into the repository. Copied by a child: a file that is open for writing here is so in what
        // other threads fork, and cannot be run meanwhile.
        let copy = directory.join("pgbouncer");
        assert!(Command::new("cp").arg(program()).arg(&copy).status().unwrap().success());
        let mut command = Command::new(copy);
        command.arg("pgbouncer.ini").current_dir(&directory);
        let mut options = Options::logging_to(File::create(&log).unwrap());
        options.run_as = hand_over(&directory);
        options.cleanup = Some(directory);
        let address = ports::local(port.release());
        let process = Supervised::spawn(&command, options).unwrap();
        wait_until("PgBouncer listens", EVENTUALLY, async || {
            assert!(process.exit_status().is_none(), "it ended:\n{}", tail(&log));
            TcpStream::connect(address).await.map(drop)
        })
        .await;
        let url = format!("postgres://{}@{address}/{}", behind.get_username(), behind.get_database().unwrap());
        Self { url, _process: process }
    }

    /// Of the database it was started for.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A worker that reaches its database through it, and is told so.
    pub fn before(&self, setup: WorkerSetup) -> WorkerSetup {
        setup.with("DATABASE_URL", &self.url).with("HERALD_DATABASE__PREPARED_STATEMENTS", "false")
    }
}

/// An empty one would be an error.
fn password(url: &str) -> String {
    url::Url::parse(url).unwrap().password().map(|password| format!(" password={password}")).unwrap_or_default()
}

/// Where `scripts/setup` puts it, or packages.
fn program() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|directory| directory.join("pgbouncer"));
    let cached = repository().join(".cache/pgbouncer/bin/pgbouncer");
    let mut places = on_path.chain([cached, "/usr/sbin/pgbouncer".into()]);
    places.find(|place| place.exists()).expect("scripts/setup installs PgBouncer")
}

/// As root, gives the directory to the user that it will run as.
fn hand_over(directory: &Path) -> Option<u32> {
    let is_root = fs::metadata(directory).unwrap().uid() == 0;
    is_root.then(|| {
        chown(directory, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        UNPRIVILEGED
    })
}
