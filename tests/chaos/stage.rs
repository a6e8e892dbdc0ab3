//! The parts of a run: three brokers, a database server, a gateway, and ways to them that can be broken for each worker.

use std::str::FromStr as _;
use std::time::Duration;

use herald::demo::postgres::PrivatePostgres;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::Arguments;
use crate::chronicle::Life;
use crate::judge;
use crate::support::gateway::{Answer, Gateway};
use crate::support::kafka::{Cluster, Kafka};
use crate::support::postgres;
use crate::support::proxy::Proxy;
use crate::support::worker::WorkerSetup;

pub const WORKERS: usize = 3;
pub const PARTITIONS: i32 = 6;
pub const TOPIC: &str = "order_events";
pub const DLQ_TOPIC: &str = "order_events.dlq";
pub const GROUP: &str = "chaos";
pub const EVENT_TYPES: [&str; 3] = ["ORDER_CREATED", "ORDER_PAID", "ORDER_SHIPPED"];
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Stage {
    pub cluster: Cluster,
    pub postgres: PrivatePostgres,
    pub gateway: Gateway,
    /// One for each worker.
    pub database_ways: Vec<Proxy>,
    /// Around all that is broken on purpose.
    pub database: PgPool,
    pub kafka: Kafka,
    pub setups: Setups,
}

/// How workers are started. Those that only come and go have whole ways to everything.
#[derive(Clone, Debug)]
pub struct Setups {
    /// With the way to Postgres of each.
    workers: Vec<(WorkerSetup, PgConnectOptions)>,
    visitor: (WorkerSetup, PgConnectOptions),
    gateway: String,
}

impl Stage {
    pub async fn set(arguments: &Arguments) -> Self {
        let (cluster, (postgres, url), gateway) = tokio::join!(
            Cluster::start(WORKERS),
            // Commits survive a crash, or the ledger is worth nothing.
            postgres::private_with(&[("max_connections", "100"), ("deadlock_timeout", "200ms")]),
            Gateway::start(),
        );
        gateway.answer(fair_weather());
        let kafka = cluster.kafka().clone();
        kafka.create_topic(TOPIC, PARTITIONS).await;
        kafka.create_topic(DLQ_TOPIC, PARTITIONS).await;
        let direct = PgConnectOptions::from_str(&url).unwrap();
        let mut database_ways = Vec::new();
        for _ in 0..WORKERS {
            let target = format!("{}:{}", direct.get_host(), direct.get_port());
            database_ways.push(Proxy::start(target.parse().unwrap()).await);
        }
        let setups = Setups::new(arguments, &cluster, &database_ways, &direct, &gateway);
        let database = PgPoolOptions::new().max_connections(4).connect_lazy_with(direct);
        judge::parking::note(&database).await;
        Self { cluster, postgres, gateway, database_ways, database, kafka, setups }
    }
}

/// What a gateway in good health answers.
pub fn fair_weather() -> Answer {
    Answer::ok().after(Duration::from_millis(20))
}

impl Setups {
    fn new(
        arguments: &Arguments,
        cluster: &Cluster,
        ways: &[Proxy],
        direct: &PgConnectOptions,
        gateway: &Gateway,
    ) -> Self {
        let visitor = common(arguments).with("KAFKA_BOOTSTRAP_SERVERS", cluster.kafka().bootstrap_servers());
        let mut workers = Vec::new();
        for (slot, (route, way)) in cluster.routes().iter().zip(ways).enumerate() {
            let setup = visitor.clone().with("KAFKA_BOOTSTRAP_SERVERS", &route.bootstrap_servers());
            // One with a name that stays, which resumes after a restart, and two without.
            let setup = if slot == 0 { setup.with("HERALD_KAFKA__INSTANCE_ID", "worker-0") } else { setup };
            workers.push((setup, direct.clone().port(way.address().port())));
        }
        Self { workers, visitor: (visitor, direct.clone()), gateway: gateway.url() }
    }

    /// Each process calls the gateway by an address of its own, and Postgres by a name of its own: so it is known whose request it
    /// was, and whose statement.
    pub fn of(&self, life: Life) -> WorkerSetup {
        let (setup, database) = match life.slot {
            Some(slot) => &self.workers[slot],
            None => &self.visitor,
        };
        let mut url = database.to_url_lossy();
        url.query_pairs_mut().append_pair("application_name", &life.name());
        setup
            .clone()
            .with("DATABASE_URL", url.as_str())
            .with("HERALD_WEBHOOK__URL", &format!("{}?{}", self.gateway, life.query()))
    }
}

/// Short times, so that a few minutes hold what takes hours elsewhere.
fn common(arguments: &Arguments) -> WorkerSetup {
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    let (session_timeout, webhook_timeout) = (seconds(SESSION_TIMEOUT), seconds(WEBHOOK_TIMEOUT));
    let parked_records = arguments.parked_records().to_string();
    [
        ("HERALD_KAFKA__TOPIC", TOPIC),
        ("HERALD_KAFKA__GROUP", GROUP),
        ("HERALD_KAFKA__GROUP_PROTOCOL", arguments.protocol().as_str()),
        ("HERALD_KAFKA__SESSION_TIMEOUT", &session_timeout),
        ("HERALD_DATABASE__MAX_CONNECTIONS", "6"),
        ("HERALD_DATABASE__STATEMENT_TIMEOUT", "3s"),
        ("HERALD_DEAD_LETTERS__TOPIC", DLQ_TOPIC),
        ("HERALD_NOTIFICATION__CHANNEL", "webhook"),
        ("HERALD_NOTIFICATION__EVENT_TYPES", &EVENT_TYPES.join(",")),
        ("HERALD_WEBHOOK__TIMEOUT", &webhook_timeout),
        ("HERALD_DELIVERY__MAX_CONCURRENT", "32"),
        ("HERALD_DELIVERY__DRAIN_TIMEOUT", "4s"),
        ("HERALD_ORDERING__KEY", arguments.ordering().as_str()),
        ("HERALD_RETRY__MAX_ATTEMPTS", "20"),
        ("HERALD_RETRY__INITIAL_BACKOFF", "100ms"),
        ("HERALD_RETRY__MAX_BACKOFF", "3s"),
        ("HERALD_RETRY__PARK_AFTER", "1s"),
        ("HERALD_BREAKER__INITIAL_WAIT", "200ms"),
        ("HERALD_BREAKER__MAX_WAIT", "2s"),
        ("HERALD_LIMITS__RECORDS", "500"),
        ("HERALD_LIMITS__PARKED_RECORDS", &parked_records),
        ("HERALD_NOTIFICATION__SEMANTICS", arguments.semantics.as_str()),
    ]
    .into_iter()
    .fold(WorkerSetup::empty(), |setup, (name, value)| setup.with(name, value))
}
