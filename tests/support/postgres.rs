//! PostgreSQL: one server for all tests, one database for each.

use std::env;
use std::path::Path;
use std::str::FromStr as _;

use herald::demo::postgres::PrivatePostgres;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::OnceCell;

use super::{directory, repository, unique};

const SETTINGS: [(&str, &str); 3] = [
    ("fsync", "off"),
    // All tests at once, each with a few workers.
    ("max_connections", "500"),
    ("autovacuum", "off"),
];

/// A database with the project's migrations, that no other test uses.
#[derive(Debug)]
pub struct Database {
    pub url: String,
    /// For looking at rows. Belongs to the test's runtime.
    pub pool: PgPool,
    name: String,
    server: &'static Server,
}

#[derive(Debug)]
struct Server {
    /// Of a database that is there to connect to.
    url: PgConnectOptions,
    /// A migrated database to copy: much faster than to migrate each. A server that is not ours is left as it was found.
    template: Option<String>,
    /// Absent when the server is not ours.
    ours: Option<PrivatePostgres>,
}

/// A new database on the shared server.
pub async fn database() -> Database {
    let server = shared().await;
    let name = unique("test");
    server.create(&name, server.template.as_deref()).await;
    let options = server.url.clone().database(&name);
    if server.template.is_none() {
        migrate(&options).await;
    }
    Database {
        url: options.to_url_lossy().to_string(),
        pool: PgPoolOptions::new().max_connections(4).connect_lazy_with(options),
        name,
        server,
    }
}

/// A server that nobody else uses, for tests that stop it, and the URL of a migrated database on it.
pub async fn private() -> (PrivatePostgres, String) {
    private_with(&SETTINGS).await
}

/// As [`private`], with these settings and no other.
pub async fn private_with(settings: &[(&str, &str)]) -> (PrivatePostgres, String) {
    let server = PrivatePostgres::start_with(&directory("postgres"), settings).await.unwrap();
    let url = server.create_database("herald").await.unwrap();
    migrate(&PgConnectOptions::from_str(&url).unwrap()).await;
    (server, url)
}

async fn shared() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER.get_or_init(Server::start).await
}

impl Database {
    /// Empties it, as a new installation finds it.
    pub async fn forget_migrations(&self) {
        let statement = "DROP SCHEMA public CASCADE; CREATE SCHEMA public";
        sqlx::raw_sql(statement).execute(&self.pool).await.unwrap();
    }
}

impl Server {
    async fn start() -> Self {
        let (url, ours) = if let Ok(url) = env::var("HERALD_TEST_DATABASE_URL") {
            (url, None)
        } else {
            let server = PrivatePostgres::start_with(&directory("postgres"), &SETTINGS).await.unwrap();
            (server.url("postgres"), Some(server))
        };
        let server = Self {
            url: PgConnectOptions::from_str(&url).expect("HERALD_TEST_DATABASE_URL is a URL"),
            template: ours.is_some().then(|| unique("test-template")),
            ours,
        };
        if let Some(template) = &server.template {
            server.create(template, None).await;
            migrate(&server.url.clone().database(template)).await;
        }
        server
    }

    async fn create(&self, name: &str, template: Option<&str>) {
        let copied = template.map_or(String::new(), |name| format!(" TEMPLATE \"{name}\""));
        self.run(format!("CREATE DATABASE \"{name}\"{copied}")).await;
    }

    async fn run(&self, statement: String) {
        let mut connection = PgConnection::connect_with(&self.url).await.expect("the test database server answers");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.server.ours.is_some() {
            return;
        }
        // The test's runtime may be ending, so this needs one of its own.
        let (server, name) = (self.server, self.name.clone());
        let dropped = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                server.run(format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await;
            });
        });
        let _ = dropped.join();
    }
}

async fn migrate(database: &PgConnectOptions) {
    let migrations = repository().join("migrations");
    if !Path::new(&migrations).exists() {
        return;
    }
    let migrator = Migrator::new(migrations).await.unwrap();
    let mut connection = PgConnection::connect_with(database).await.unwrap();
    migrator.run(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
