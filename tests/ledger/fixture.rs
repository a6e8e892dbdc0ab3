//! A database for each test, and batches that are quick to write.

use std::time::Duration;

use bytes::Bytes;
use herald::config::{Database, Secret};
use herald::core::effect::{Claim, DeadLetter, Parking, Serial, Settlement};
use herald::core::event::{Fingerprint, Identity};
use herald::core::failure::Reason;
use herald::core::input::{Holder, LedgerRow, LedgerState, RowAddress, Ticket};
use herald::core::key::LaneKey;
use herald::core::record::{Coordinates, Epoch, Header, Offset, Partition, Record, Timestamp};
use herald::postgres::Postgres;
use sqlx::PgPool;

use crate::support;
use crate::support::wait::{SOON, equal, wait_until};

pub(crate) const TOPIC: &str = "order_events";
pub(crate) const GROUP: &str = "notification_service_group";

/// A database of its own, migrated, gone when dropped.
pub(crate) struct TestDatabase {
    pub(crate) postgres: Postgres,
    /// To look at the tables and to prepare what no statement of ours writes.
    pub(crate) tables: PgPool,
    database: support::postgres::Database,
}

pub(crate) async fn test_database() -> TestDatabase {
    let database = support::postgres::database().await;
    let postgres = Postgres::open(&settings(&database.url), GROUP, TOPIC).unwrap();
    TestDatabase { postgres, tables: database.pool.clone(), database }
}

impl TestDatabase {
    pub(crate) fn own_url(&self) -> String {
        self.database.url.clone()
    }

    pub(crate) fn another_group(&self, group: &str, topic: &str) -> Postgres {
        Postgres::open(&settings(&self.own_url()), group, topic).unwrap()
    }

    /// As it is behind PgBouncer.
    pub(crate) fn without_prepared_statements(&self) -> Postgres {
        let mut settings = settings(&self.own_url());
        settings.prepared_statements = false;
        Postgres::open(&settings, GROUP, TOPIC).unwrap()
    }

    /// The first column of the first row, as text.
    pub(crate) async fn look(&self, query: &'static str) -> String {
        let value: Option<String> = sqlx::query_scalar(query).fetch_one(&self.tables).await.unwrap();
        value.unwrap_or_default()
    }

    /// Waits until so many statements wait for a lock.
    pub(crate) async fn until_blocked(&self, statements: u32) {
        let blocked = "SELECT count(*)::text FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait_until("statements wait for a lock", SOON, async || {
            equal(self.look(blocked).await, &statements.to_string())
        })
        .await;
    }

    pub(crate) async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(&self.tables).await.unwrap();
    }

    /// As a new installation finds it.
    pub(crate) async fn forget_migrations(&self) {
        self.database.forget_migrations().await;
    }

    /// The state, coordinates and epoch of an order: `c 0/7 e1`.
    pub(crate) async fn ledger(&self, order_id: &str) -> String {
        sqlx::query_scalar(
            "SELECT format('%s %s/%s e%s', state, kpartition, koffset, epoch) FROM processed_orders WHERE order_id = $1",
        )
        .bind(order_id)
        .fetch_optional(&self.tables)
        .await
        .unwrap()
        .unwrap_or_else(|| "none".to_owned())
    }

    pub(crate) async fn raise(&self, partition: i32) -> Epoch {
        let raised = self.postgres.raise(&[(Partition(partition), Offset(0))], "worker").await;
        raised.unwrap()[0].1.epoch
    }

    pub(crate) async fn claim_one(&self, claim: Claim) -> Option<LedgerRow> {
        let mut found = self.postgres.claim(&[claim]).await.unwrap();
        found.pop().map(|(_, row)| wherever_it_is(row))
    }

    /// Claims; gives the settlement that goes to the row's address.
    pub(crate) async fn claim_to_settle(&self, claim: Claim) -> Settlement {
        let success = settlement(&claim.identity.order_id, claim.coordinates, claim.epoch);
        let found = self.postgres.claim(&[claim]).await.unwrap();
        Settlement { address: found[0].1.address, ..success }
    }
}

pub(crate) fn settings(url: &str) -> Database {
    Database {
        url: Secret::new(url),
        migrate: true,
        max_connections: 4,
        prepared_statements: true,
        statement_timeout: Duration::from_secs(10),
    }
}

pub(crate) fn at(partition: i32, offset: i64) -> Coordinates {
    Coordinates { partition: Partition(partition), offset: Offset(offset) }
}

/// Of the first owner of its partition.
pub(crate) fn holder(coordinates: Coordinates) -> Holder {
    Holder { topic: TOPIC.into(), coordinates, epoch: Epoch(1), serial: Serial::default() }
}

pub(crate) fn identity(order_id: &str) -> Identity {
    Identity { order_id: order_id.into(), event_type: "ORDER_CREATED".into() }
}

pub(crate) const CONTENT: Fingerprint = Fingerprint([7; 32]);
pub(crate) const OTHER_CONTENT: Fingerprint = Fingerprint([8; 32]);

pub(crate) fn claim(order_id: &str, coordinates: Coordinates, epoch: Epoch) -> Claim {
    Claim {
        ticket: Ticket(coordinates.offset.0.unsigned_abs()),
        identity: identity(order_id),
        fingerprint: CONTENT,
        coordinates,
        epoch,
        serial: Serial::default(),
        seize_from: None,
    }
}

pub(crate) fn settlement(order_id: &str, coordinates: Coordinates, epoch: Epoch) -> Settlement {
    Settlement {
        ticket: Ticket(coordinates.offset.0.unsigned_abs()),
        identity: identity(order_id),
        fingerprint: CONTENT,
        coordinates,
        epoch,
        serial: Serial::default(),
        address: RowAddress::default(),
        was_parked: false,
    }
}

pub(crate) fn dead_letter(order_id: &str, coordinates: Coordinates, epoch: Epoch) -> DeadLetter {
    DeadLetter {
        settlement: settlement(order_id, coordinates, epoch),
        reason: Reason::Permanent,
        class: "permanent",
        error: "422: quantity must be positive".to_owned(),
        attempts: 1,
        first_failed_ago: Duration::from_mins(1),
        last_failed_ago: Duration::ZERO,
        failures: Vec::new(),
        record: record(coordinates, order_id),
    }
}

pub(crate) const KEY: LaneKey = LaneKey(u64::MAX - 3);

pub(crate) fn parking(order_id: &str, coordinates: Coordinates, epoch: Epoch) -> Parking {
    Parking {
        settlement: settlement(order_id, coordinates, epoch),
        key: KEY,
        attempts: 2,
        wait: Duration::from_mins(1),
        first_failed_ago: Duration::from_mins(5),
        failures: Vec::new(),
        error: Some("500".to_owned()),
        record: record(coordinates, order_id),
    }
}

pub(crate) fn record(coordinates: Coordinates, value: &str) -> Record {
    Record {
        coordinates,
        timestamp: Some(Timestamp(1_700_000_000_123)),
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: vec![Header { name: Bytes::from_static(b"\xfftrace"), value: None }],
    }
}

/// To be compared with a row of which only the content is known.
pub(crate) fn wherever_it_is(row: LedgerRow) -> LedgerRow {
    LedgerRow { address: RowAddress::default(), ..row }
}

pub(crate) fn row(state: LedgerState, coordinates: Coordinates, inserted: bool) -> LedgerRow {
    let address = RowAddress::default();
    LedgerRow { state, holder: holder(coordinates), fingerprint: CONTENT, inserted, starts: 0, address }
}
