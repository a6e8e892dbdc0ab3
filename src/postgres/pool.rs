//! The connections: how they are made, leased for one statement, and given up on.

use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use prometheus::Histogram;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};

use super::failure::classify;
use crate::config::{Database, Settings};
use crate::core::failure::LedgerFailure;

/// The server ends a statement at `database.statement_timeout`; only when that says nothing either is the wait given up.
const GRACE: Duration = Duration::from_secs(2);

/// A connection that idled for longer is asked whether it still lives before a statement is trusted to it.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// A client prepares a statement and executes it in two messages, which PgBouncer in transaction mode may send to two servers
/// unless a transaction holds one. sqlx names what it prepares even where it remembers nothing, and another client may
/// have left the same name on that server.
const BEGIN_UNPREPARED: &str = "BEGIN; DEALLOCATE ALL";

/// Postgres for one consumer group and one source topic. Cloning shares the connections.
#[derive(Clone)]
pub struct Postgres {
    pub(super) group: Arc<str>,
    pub(super) topic: Arc<str>,
    pub(super) migrate_at_start: bool,
    /// The page of `processed_orders` at which pruning goes on.
    pub(super) prune_page: Arc<AtomicU32>,
    /// Unpublished letters that this version cannot read.
    pub(super) unreadable_letters: Arc<Mutex<Vec<i64>>>,
    waits: Arc<OnceLock<Histogram>>,
    pool: PgPool,
    prepared_statements: bool,
    options: PgConnectOptions,
    deadline: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "database.url is not the address of a PostgreSQL database ({reason}); expected postgres://user:password@host:5432/database"
    )]
    Url { reason: String },
}

/// For `herald_postgres_pool_connections{state}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFacts {
    pub idle: usize,
    pub in_use: usize,
}

impl Postgres {
    /// Prepares the pool; connections are made when they are needed, and made again after they broke. To be called inside
    /// a tokio runtime.
    pub fn connect(settings: &Settings) -> Result<Self, ConnectError> {
        Self::open(&settings.database, &settings.kafka.group, &settings.kafka.topic)
    }

    /// As [`Postgres::connect`], from what it needs of the settings.
    pub fn open(database: &Database, group: &str, topic: &str) -> Result<Self, ConnectError> {
        let options = connect_options(database)?;
        let pool = PgPoolOptions::new()
            .max_connections(database.max_connections)
            .acquire_timeout(database.statement_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(with_session_settings(&options, database));
        Ok(Self {
            group: group.into(),
            topic: topic.into(),
            migrate_at_start: database.migrate,
            prune_page: Arc::default(),
            unreadable_letters: Arc::default(),
            waits: Arc::default(),
            prepared_statements: database.prepared_statements,
            pool,
            options,
            deadline: database.statement_timeout.saturating_add(GRACE),
        })
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), LedgerFailure> {
        let mut lease = self.lease().await?;
        let answer = self.answer(lease.ping()).await;
        lease.end(answer).await
    }

    /// From here on, shows how long statements wait for a connection.
    pub fn observe_waits(&self, waits: Histogram) {
        // The first one stays: there is one registry in a process.
        let _ = self.waits.set(waits);
    }

    #[must_use]
    pub fn pool_facts(&self) -> PoolFacts {
        let idle = self.pool.num_idle();
        let size = usize::try_from(self.pool.size()).unwrap_or(usize::MAX);
        PoolFacts { idle, in_use: size.saturating_sub(idle) }
    }

    /// Waits for the statements under way and closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// `host:port/database`, without user and password.
    pub(super) fn address(&self) -> String {
        let database = self.options.get_database().unwrap_or_default();
        format!("{}:{}/{database}", self.options.get_host(), self.options.get_port())
    }

    /// A connection of its own, that remembers nothing it prepared.
    pub(super) async fn connect_to_migrate(&self) -> Result<PgConnection, sqlx::Error> {
        self.answer(self.options.clone().statement_cache_capacity(0).connect()).await
    }

    /// A connection for one statement.
    pub(super) async fn lease(&self) -> Result<Lease, LedgerFailure> {
        let asked = Instant::now();
        let acquired = self.pool.acquire().await;
        if let Some(waits) = self.waits.get() {
            waits.observe(asked.elapsed().as_secs_f64());
        }
        let connection = acquired.map_err(|e| classify(&e))?;
        let mut lease =
            Lease { connection, in_transaction: !self.prepared_statements, deadline: self.deadline, answered: false };
        if lease.in_transaction {
            let begin = sqlx::raw_sql(BEGIN_UNPREPARED).execute(&mut *lease);
            self.answer(begin).await.map_err(|e| classify(&e))?;
        }
        Ok(lease)
    }

    /// The answer to a statement, or an error when there is none in time.
    pub(super) async fn answer<T>(
        &self,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        within(self.deadline, statement).await
    }
}

/// A connection leased for one statement. It goes back to the pool only through [`Lease::end`] and after an answer: one that
/// was cancelled or timed out has an answer outstanding, and waiting for that would hold its place in the pool.
pub(super) struct Lease {
    connection: PoolConnection<sqlx::Postgres>,
    in_transaction: bool,
    deadline: Duration,
    answered: bool,
}

impl Lease {
    /// Ends the lease with the answer to its statement.
    pub(super) async fn end<T>(mut self, answer: Result<T, sqlx::Error>) -> Result<T, LedgerFailure> {
        if self.in_transaction && answer.is_ok() {
            let deadline = self.deadline;
            let commit = sqlx::raw_sql("COMMIT").execute(&mut *self);
            within(deadline, commit).await.map_err(|e| classify(&e))?;
            self.in_transaction = false;
        }
        let refused = matches!(answer, Err(sqlx::Error::Database(_)));
        self.answered = (answer.is_ok() || refused) && !self.in_transaction;
        answer.map_err(|e| classify(&e))
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The pool asks a connection that comes back whether it lives, and waits for ever for the answer; with it waits the
        // connection's place. Dropped, the future gives the place away and closes the connection at once.
        let back = self.connection.return_to_pool();
        if self.answered
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(GRACE, back));
        }
    }
}

fn connect_options(database: &Database) -> Result<PgConnectOptions, ConnectError> {
    let url = database.url.expose();
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        let reason = "it does not begin with postgres://".to_owned();
        return Err(ConnectError::Url { reason });
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| ConnectError::Url { reason: error.to_string() })?;
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("herald"),
    };
    // PgBouncer refuses this start-up parameter, which only floats sent as text need.
    let options = options.disable_statement_logging().extra_float_digits(None);
    Ok(if database.prepared_statements { options } else { options.statement_cache_capacity(0) })
}

/// PgBouncer refuses start-up options, and what `SET` does there reaches other clients: behind it they are the role's.
fn with_session_settings(options: &PgConnectOptions, database: &Database) -> PgConnectOptions {
    if !database.prepared_statements {
        return options.clone();
    }
    let statement = database.statement_timeout.as_millis().max(2);
    options.clone().options([
        // A prepared statement keeps its plan, and one made while a table was empty would read all of it when it is full. This only
        // makes such plans dear: a statement without an index still runs.
        ("enable_seqscan", "off".to_owned()),
        ("statement_timeout", statement.to_string()),
        ("lock_timeout", (statement / 2).to_string()),
        ("idle_in_transaction_session_timeout", statement.to_string()),
    ])
}

async fn within<T>(
    deadline: Duration,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(deadline, statement).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no answer within {deadline:?}"),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn database(url: &str) -> Database {
        Database {
            url: Secret::new(url),
            migrate: false,
            max_connections: 1,
            prepared_statements: true,
            statement_timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn a_url_that_is_none_is_refused_without_showing_the_password() {
        for url in ["", "localhost/herald", "mysql://u:hunter2@db/x", "postgres://u:hunter2@db:port/x"] {
            let error = connect_options(&database(url)).unwrap_err().to_string();
            assert!(error.contains("database.url"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_address_hides_user_and_password() {
        let postgres = Postgres::open(&database("postgres://u:hunter2@db:6432/herald"), "g", "t").unwrap();
        assert_eq!(postgres.address(), "db:6432/herald");
    }
}
