use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use herald::core::failure::LedgerFailure;
use herald::core::record::Partition;
use herald::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ledger::fixture::{GROUP, TOPIC, TestDatabase, at, claim, settings, test_database};

/// One connection and little patience.
fn impatient(url: &str) -> Postgres {
    let mut settings = settings(url);
    settings.max_connections = 1;
    settings.statement_timeout = Duration::from_millis(400);
    Postgres::open(&settings, GROUP, TOPIC).unwrap()
}

fn outage<T: std::fmt::Debug>(result: Result<T, LedgerFailure>) -> String {
    match result {
        Err(LedgerFailure::Outage(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lock_that_is_not_given_in_time_is_an_outage() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let postgres = impatient(&database.own_url());
    let mut holding = database.tables.begin().await.unwrap();
    let lock = "LOCK TABLE processed_orders IN ACCESS EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *holding).await.unwrap();
    let message = outage(postgres.claim(&[claim("1", at(0, 5), epoch)]).await);
    assert!(message.contains("55P03"), "{message}");
    holding.rollback().await.unwrap();
    let found = postgres.claim(&[claim("1", at(0, 5), epoch)]).await;
    assert_eq!(found.unwrap().len(), 1);
}

#[tokio::test]
async fn a_connection_that_was_cut_is_replaced() {
    let database = test_database().await;
    let postgres = impatient(&database.own_url());
    postgres.ping().await.unwrap();
    cut_connections(&database).await;
    // A connection that was used a moment ago is trusted, so the first statement may find out.
    let first = postgres.ping().await;
    assert!(matches!(first, Ok(()) | Err(LedgerFailure::Outage(_))), "{first:?}");
    postgres.ping().await.unwrap();
}

async fn cut_connections(database: &TestDatabase) {
    let cut = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'herald'";
    assert_ne!(database.look(cut).await, "0");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_outage() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    // Accepts and says nothing, and then is gone.
    let silent = impatient(&format!("postgres://herald@{address}/herald"));
    outage(silent.ping().await);
    drop(nobody);
    outage(silent.ping().await);
}

#[tokio::test]
async fn a_statement_without_an_answer_gives_its_connection_up() {
    let database = test_database().await;
    database.raise(0).await;
    let frozen = Arc::new(AtomicBool::new(false));
    let url = frozen_at_will(&database.own_url(), Arc::clone(&frozen)).await;
    let postgres = impatient(&url);
    let partitions = [Partition(0)];
    assert_eq!(postgres.read(&partitions).await.unwrap().len(), 1);
    frozen.store(true, Ordering::SeqCst);
    outage(postgres.read(&partitions).await);
    frozen.store(false, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(failure) = postgres.read(&partitions).await {
        assert!(Instant::now() < deadline, "{failure:?}");
    }
}

#[tokio::test]
async fn a_statement_that_was_cancelled_gives_its_connection_up() {
    let database = test_database().await;
    let postgres = impatient(&database.own_url());
    postgres.ping().await.unwrap();
    let mut holding = database.tables.begin().await.unwrap();
    let lock = "LOCK TABLE partition_epochs IN ACCESS EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *holding).await.unwrap();
    let partitions = [Partition(0)];
    let cancelled = tokio::time::timeout(Duration::from_millis(20), postgres.read(&partitions));
    assert!(cancelled.await.is_err());
    postgres.ping().await.unwrap();
}

/// A proxy before the database that passes nothing on while it is frozen, and tells nobody. A connection that saw the
/// frost stays silent for ever, as behind a firewall that has forgotten it.
async fn frozen_at_will(url: &str, frozen: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let authority = url.split("://").nth(1).unwrap().split('/').next().unwrap();
    let server = authority.rsplit('@').next().unwrap().to_owned();
    let proxied = url.replacen(&server, &own, 1);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            tokio::spawn(pass_on(client_read, server_write, Arc::clone(&frozen)));
            tokio::spawn(pass_on(server_read, client_write, Arc::clone(&frozen)));
        }
    });
    proxied
}

async fn pass_on(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, frozen: Arc<AtomicBool>) {
    let mut buffer = vec![0; 16 * 1024];
    let mut silent = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        silent |= frozen.load(Ordering::SeqCst);
        if !silent && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    if silent {
        std::future::pending::<()>().await;
    }
}
