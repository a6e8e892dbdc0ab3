//! The kit itself, on real parts: what the other tests rely on.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use herald::core::record::{Coordinates, Header, Offset, Partition, Record};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::gateway::{Answer, Gateway};
use crate::support::kafka::{self, Broker, NewRecord};
use crate::support::order_service::OrderService;
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::{SOON, wait_until};
use crate::support::worker::http_client;
use crate::support::{World, orders, ports, postgres, unique};

#[tokio::test]
async fn a_gateway_comes_up_again_once_a_child_that_was_being_forked_lets_go_of_its_port() {
    let gateway = Gateway::start().await;
    let address: SocketAddr = gateway.url().replace("http://", "").replace("/notify", "").parse().unwrap();
    gateway.down().await;
    let held = ports::listen(address.port()).await;
    let up = gateway.up();
    tokio::pin!(up);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut up).await.is_err());
    drop(held);
    up.await;
    assert!(TcpStream::connect(address).await.is_ok());
}

#[tokio::test]
async fn records_come_back_byte_for_byte() {
    let kafka = kafka::shared().await;
    let topic = unique("bytes");
    kafka.create_topic_with(&topic, 2, &[("retention.ms", "3600000")]).await;
    let header = |name: &'static [u8], value: Option<&'static [u8]>| Header {
        name: Bytes::from_static(name),
        value: value.map(Bytes::from_static),
    };
    let strange = NewRecord {
        partition: Some(1),
        key: Some(Bytes::from_static(b"\0key\xff")),
        value: Some(Bytes::from_static(b"\xff\0not text")),
        headers: vec![
            header(b"twice", Some(b"1")),
            header(b"twice", Some(b"\xff\0")),
            header(b"\xff\xfe", None),
            header(b"empty", Some(b"")),
        ],
        timestamp: Some(1_700_000_000_000),
    };
    let tombstone = NewRecord::default().in_partition(1);
    let empty = NewRecord { key: Some(Bytes::new()), ..NewRecord::of("").in_partition(0) };
    let produced = [strange, tombstone, empty];
    let places = kafka.produce(&topic, produced.to_vec()).await;
    let read = kafka.records(&topic).await;
    assert_eq!(read.len(), produced.len());
    for (sent, place) in produced.iter().zip(places) {
        let found = read.iter().find(|record| record.coordinates == place).unwrap();
        assert_eq!(found.key, sent.key);
        assert_eq!(found.value, sent.value);
        assert_eq!(found.headers, sent.headers);
        if let Some(timestamp) = sent.timestamp {
            assert_eq!(found.timestamp.map(|found| found.0), Some(timestamp));
        }
    }
    let ends = kafka.end_offsets(&topic).await;
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), [(Partition(0), Offset(1)), (Partition(1), Offset(2))]);
    assert!(kafka.committed_offsets(&unique("group"), &topic).await.is_empty());
    kafka.alter_topic(&topic, &[("max.message.bytes", "1000")]).await;
    kafka.delete_topic(&topic).await;
}

/// Somebody produces all the time; what he is told to be there is what is read, and nothing is there later.
#[tokio::test]
async fn a_sealed_topic_gives_all_that_it_ever_acknowledged() {
    let kafka = kafka::shared().await;
    let topic = unique("sealed");
    kafka.create_topic(&topic, 2).await;
    let (producing, told) = (kafka.clone(), topic.clone());
    let producer = tokio::spawn(async move {
        let mut acknowledged = BTreeSet::new();
        loop {
            let record = |number: i32| NewRecord::of(vec![b'x'; 500]).in_partition(number % 2);
            let places = producing.try_produce(&told, (0..20).map(record).collect()).await;
            acknowledged.extend(places.values().copied());
            if places.len() < 20 {
                return acknowledged;
            }
        }
    });
    wait_until("there are records", SOON, async || {
        let count = kafka.records(&topic).await.len();
        if count > 5 { Ok(()) } else { Err(format!("{count} records")) }
    })
    .await;
    let sealed = wait_until("it is sealed", SOON, async || kafka.sealed(&topic, 300).await).await;
    let read: BTreeSet<Coordinates> = sealed.iter().map(|record| record.coordinates).collect();
    assert_eq!(read, producer.await.unwrap());
    let large = |record: &Record| record.value.as_ref().is_some_and(|value| value.len() == 500);
    assert_eq!(kafka.records(&topic).await.iter().filter(|record| large(record)).count(), read.len());
    kafka.delete_topic(&topic).await;
}

#[tokio::test]
async fn each_world_has_a_database_of_its_own() {
    let (one, other) = tokio::join!(World::with_partitions(1), World::with_partitions(1));
    let make = "CREATE TABLE mine (n int); INSERT INTO mine VALUES (1)";
    sqlx::raw_sql(make).execute(&one.database.pool).await.unwrap();
    sqlx::raw_sql(make).execute(&other.database.pool).await.unwrap();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM mine").fetch_one(&one.database.pool).await.unwrap();
    assert_eq!(count, 1);
    let names = BTreeSet::from([&one.topic, &one.dlq_topic, &one.group, &other.topic, &other.dlq_topic, &other.group]);
    assert_eq!(names.len(), 6);
}

#[tokio::test]
async fn the_order_service_produces_what_the_design_says() {
    let world = World::with_partitions(3).await;
    let service = OrderService::start(&world.kafka, &world.topic).await;
    let order = json!({"user_id": 7, "product_id": 3, "quantity": 2});
    let (status, bare) = service.post(&order, &[]).await;
    assert_eq!(status, 201, "{bare}");
    let headers = [("x-request-id", "b6f1"), ("x-timestamp", "2026-11-23T10:00:00Z")];
    let (_, full) = service.post(&order, &headers).await;
    assert_eq!(service.post(&json!({"quantity": 0}), &[]).await.0, 422);

    let records = world.kafka.records(&world.topic).await;
    assert!(records.iter().all(|record| record.key.is_none() && record.headers.is_empty()));
    let mut events: Vec<Value> =
        records.iter().map(|record| serde_json::from_slice(record.value.as_ref().unwrap()).unwrap()).collect();
    events.sort_by_key(|event| event["order"]["order_id"].as_i64());
    let expected = |order: Value, timestamp: &str, request_id: &str| json!({"event_type": "ORDER_CREATED", "order": order, "timestamp": timestamp, "request_id": request_id});
    assert_eq!(bare, json!({"order_id": 1, "user_id": 7, "product_id": 3, "quantity": 2, "status": "CREATED"}));
    assert_eq!(events, [expected(bare, "N/A", "N/A"), expected(full, "2026-11-23T10:00:00Z", "b6f1")]);
}

#[tokio::test]
async fn a_broker_keeps_its_records_through_a_kill_and_a_restart() {
    let mut broker = Broker::private().await;
    broker.create_topic("kept", 1).await;
    broker.produce("kept", vec![NewRecord::of("1")]).await;
    broker.kill().await;
    broker.restart().await;
    broker.produce("kept", vec![NewRecord::of("2")]).await;
    assert_eq!(broker.records("kept").await.len(), 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_private_database_server_can_be_stopped_and_started() {
    let (mut server, url) = postgres::private().await;
    server.crash().unwrap();
    assert!(PgConnection::connect(&url).await.is_err());
    server.restart().await.unwrap();
    assert!(PgConnection::connect(&url).await.is_ok());
}

async fn notify(gateway: &Gateway, order_id: u64) -> Result<u16, reqwest::Error> {
    let body = json!({"type": "ORDER_CREATED", "order": {"order_id": order_id}});
    let answer = http_client()
        .post(gateway.url())
        .header("idempotency-key", format!("key-{order_id}"))
        .timeout(Duration::from_millis(500))
        .body(body.to_string())
        .send()
        .await?;
    Ok(answer.status().as_u16())
}

#[tokio::test]
async fn the_gateway_answers_as_it_is_told() {
    let gateway = Gateway::start().await;
    let busy = Answer::status(503).retry_after("2");
    gateway.answer_order("1", [busy, Answer::Reset, Answer::Hang]);
    gateway.always_answer_order("2", Answer::status(422).with_body("no"));
    assert_eq!(notify(&gateway, 1).await.unwrap(), 503);
    assert!(notify(&gateway, 1).await.unwrap_err().is_request());
    assert!(notify(&gateway, 1).await.unwrap_err().is_timeout());
    assert_eq!(notify(&gateway, 1).await.unwrap(), 200);
    assert_eq!(notify(&gateway, 2).await.unwrap(), 422);
    gateway.down().await;
    assert!(notify(&gateway, 3).await.unwrap_err().is_connect());
    gateway.up().await;
    gateway.answer(Answer::ok().after(Duration::from_millis(20)));
    assert_eq!(notify(&gateway, 3).await.unwrap(), 200);

    let statuses: Vec<_> = gateway.requests_for("1").iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(503), None, None, Some(200)]);
    assert_eq!(gateway.requests_for("1")[3].sequence, 3);
    assert_eq!(gateway.requests_for("2")[0].idempotency_key(), Some("key-2"));
    assert_eq!(gateway.accepted(), 2);
}

#[tokio::test]
async fn the_verdict_on_a_world_compares_what_was_produced_with_what_arrived() {
    let mut world = World::with_partitions(2).await;
    world.produce(&[orders::created(1), orders::created(2)]).await;
    notify(&world.gateway, 1).await.unwrap();
    let verdict = world.verdict();
    assert_eq!(verdict.lost, BTreeSet::from([("2".to_owned(), "ORDER_CREATED".to_owned())]));
    assert!(verdict.repeated.is_empty() && verdict.unknown.is_empty());
}

#[tokio::test]
async fn a_proxy_passes_holds_back_answers_and_cuts() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = Proxy::start(server.local_addr().unwrap()).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut accepted, _) = server.accept().await.unwrap();
    let (mut asked, mut answered) = ([0; 3], [0; 3]);
    client.write_all(b"one").await.unwrap();
    accepted.read_exact(&mut asked).await.unwrap();
    accepted.write_all(b"ONE").await.unwrap();
    client.read_exact(&mut answered).await.unwrap();
    assert_eq!((&asked, &answered), (b"one", b"ONE"));

    proxy.set(Mode::Mute);
    client.write_all(b"two").await.unwrap();
    accepted.read_exact(&mut asked).await.unwrap();
    accepted.write_all(b"TWO").await.unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(200), client.read_exact(&mut answered)).await;
    assert!(silence.is_err(), "the answer came through");
    proxy.set(Mode::Pass);
    client.read_exact(&mut answered).await.unwrap();
    assert_eq!((&asked, &answered), (b"two", b"TWO"));

    proxy.set(Mode::Cut);
    assert!(client.read_exact(&mut answered).await.is_err(), "the connection is still open");
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(refused.read_exact(&mut answered).await.is_err(), "a new connection was let through");
}
