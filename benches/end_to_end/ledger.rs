//! The database server of all measures, and a new database for each.

use std::str::FromStr as _;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use herald::config::{Database, Secret};
use herald::demo::postgres::PrivatePostgres;
use herald::postgres::Postgres;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::support::{directory, unique};

/// A private PostgreSQL with the settings it is installed with: commits reach the disk, as in production. And it knows when each was.
#[derive(Debug)]
pub struct Server(PrivatePostgres);

/// What the server says of itself.
#[derive(Debug)]
pub struct Facts {
    pub version: String,
    pub fsync: String,
    pub synchronous_commit: String,
    pub data_directory: String,
}

/// A database that only one measurement uses.
#[derive(Debug)]
pub struct Fresh {
    pub url: String,
    name: String,
}

impl Server {
    pub async fn start() -> Self {
        let commit_times = [("track_commit_timestamp", "on")];
        Self(PrivatePostgres::start_with(&directory("bench-postgres"), &commit_times).await.unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.pid().unwrap()
    }

    pub async fn facts(&self) -> Facts {
        let mut connection = self.connect(&self.0.url("postgres")).await;
        let mut answers = Vec::new();
        for setting in ["server_version", "fsync", "synchronous_commit", "data_directory"] {
            let query = sqlx::query_scalar("SELECT current_setting($1)").bind(setting);
            answers.push(query.fetch_one(&mut connection).await.unwrap());
        }
        let [version, fsync, synchronous_commit, data_directory] = answers.try_into().unwrap();
        Facts { version, fsync, synchronous_commit, data_directory }
    }

    /// An empty ledger. What earlier measurements left to be written is on the disk when this returns.
    pub async fn fresh(&self) -> Fresh {
        let name = unique("bench");
        let url = self.0.create_database(&name).await.unwrap();
        let postgres = Self::open(&url, "group", "topic");
        postgres.migrate().await.unwrap();
        postgres.close().await;
        self.run("CHECKPOINT".to_owned()).await;
        Fresh { url, name }
    }

    pub fn open(url: &str, group: &str, topic: &str) -> Postgres {
        let database = Database {
            url: Secret::new(url),
            migrate: false,
            max_connections: 2,
            prepared_statements: true,
            statement_timeout: Duration::from_mins(1),
        };
        Postgres::open(&database, group, topic).unwrap()
    }

    /// An empty ledger of a peer, as easy to update as ours.
    pub async fn fresh_for_peer(&self) -> Fresh {
        let name = unique("peer");
        let url = self.0.create_database(&name).await.unwrap();
        let mut connection = self.connect(&url).await;
        let table = "CREATE TABLE peer_ledger (order_id bigint, event_type text, state \"char\" NOT NULL DEFAULT 'c',
                     kpartition integer NOT NULL, koffset bigint NOT NULL, claimed_at timestamptz NOT NULL DEFAULT now(),
                     settled_at timestamptz, PRIMARY KEY (order_id, event_type)) WITH (fillfactor = 50)";
        sqlx::raw_sql(table).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        self.run("CHECKPOINT".to_owned()).await;
        Fresh { url, name }
    }

    /// When the last order was settled, as exactly as only the server knows.
    pub async fn last_settled(&self, ledger: &Fresh) -> SystemTime {
        let mut connection = self.connect(&ledger.url).await;
        let query = "SELECT max(pg_xact_commit_timestamp(xmin)) FROM processed_orders WHERE state = 'd'";
        let settled: DateTime<Utc> = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        settled.into()
    }

    /// Ends the measurement: every order must have been settled, or it measured something else.
    pub async fn finish(&self, fresh: Fresh, orders: u32) {
        self.end(fresh, "SELECT count(*) FROM processed_orders WHERE state = 'd'", orders).await;
    }

    pub async fn finish_peer(&self, fresh: Fresh, orders: u32) {
        self.end(fresh, "SELECT count(*) FROM peer_ledger WHERE state = 'd' AND settled_at >= claimed_at", orders)
            .await;
    }

    async fn end(&self, fresh: Fresh, count: &'static str, orders: u32) {
        let mut connection = self.connect(&fresh.url).await;
        let settled: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap();
        assert_eq!(settled, i64::from(orders), "orders that were settled");
        connection.close().await.unwrap();
        self.run(format!("DROP DATABASE \"{}\" WITH (FORCE)", fresh.name)).await;
    }

    async fn run(&self, statement: String) {
        let mut connection = self.connect(&self.0.url("postgres")).await;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    async fn connect(&self, url: &str) -> PgConnection {
        PgConnection::connect_with(&PgConnectOptions::from_str(url).unwrap()).await.unwrap()
    }
}
