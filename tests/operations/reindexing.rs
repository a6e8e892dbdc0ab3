//! The table of dead letters, rebuilt from a topic.

use bytes::Bytes;
use herald::core::record::Header;

use super::{herald, herald_json, refused};
use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::{World, orders};

fn header(name: &'static str, value: &[u8]) -> Header {
    Header { name: Bytes::from_static(name.as_bytes()), value: Some(Bytes::copy_from_slice(value)) }
}

/// All that does not change when a row is written again.
async fn rows(world: &World) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT concat_ws('|', kpartition, koffset, order_id, event_type, reason, class, error, bug, attempts, state,
                encode(digest, 'hex'), date_trunc('milliseconds', first_failed_at), date_trunc('milliseconds', last_failed_at))
           FROM dead_letters ORDER BY kpartition, koffset",
    )
    .fetch_all(&world.database.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_lost_table_comes_back_from_the_topic_as_it_was() {
    let mut world = World::with_partitions(2).await;
    world.gateway.always_answer_order("1", Answer::status(422).with_body("refused"));
    world.gateway.answer_order("2", [Answer::status(500), Answer::status(422)]);
    world.produce_in(0, &[orders::created(1)]).await;
    world.produce_in(1, &[orders::created(2)]).await;
    let mut poison = NewRecord::of("not json").in_partition(1);
    poison.headers = vec![Header { name: Bytes::from_static(b"\xff"), value: None }, header("x", b"\x00")];
    poison.timestamp = Some(1_790_000_000_123);
    world.kafka.produce(&world.topic, vec![poison, NewRecord::default().in_partition(0)]).await;
    let setup = world.worker().with("HERALD_RETRY__INITIAL_BACKOFF", "10ms");
    let worker = setup.start().await;
    world.published(4).await;
    drop(worker);

    let before = rows(&world).await;
    assert_eq!(herald(&setup, &["dlq", "reindex"]).await, "4 records read, 0 dead letters added\n");
    assert_eq!(rows(&world).await, before, "what is there stays");
    sqlx::query("TRUNCATE dead_letters").execute(&world.database.pool).await.unwrap();
    assert_eq!(herald(&setup, &["dlq", "reindex"]).await, "4 records read, 4 dead letters added\n");
    assert_eq!(rows(&world).await, before);
    let unpublished = "SELECT count(*) FROM dead_letters WHERE published_at IS NULL";
    let unpublished: i64 = sqlx::query_scalar(unpublished).fetch_one(&world.database.pool).await.unwrap();
    assert_eq!(unpublished, 0, "they are in the topic already");
}

#[tokio::test]
async fn letters_of_spring_kafka_kafka_connect_kafka_streams_and_share_groups_are_taken_in() {
    let world = World::with_partitions(1).await;
    let foreign = format!("{}.foreign", world.topic);
    world.kafka.create_topic(&foreign, 3).await;
    let topic = world.topic.as_bytes();
    let value = |order_id: u64| Bytes::from(orders::created(order_id).to_string());
    let record = |order_id: u64, headers: Vec<Header>| NewRecord { headers, ..NewRecord::of(value(order_id)) };
    let spring = |group: &[u8]| {
        vec![
            header("tenant", b"acme"),
            header("kafka_dlt-original-topic", topic),
            header("kafka_dlt-original-partition", &0_i32.to_be_bytes()),
            header("kafka_dlt-original-offset", &11_i64.to_be_bytes()),
            header("kafka_dlt-original-timestamp", &1_790_000_000_123_i64.to_be_bytes()),
            header("kafka_dlt-original-consumer-group", group),
            header("kafka_dlt-exception-fqcn", b"java.lang.IllegalStateException"),
            header("kafka_dlt-exception-message", b"no such user"),
        ]
    };
    let named = |prefix: &'static str, message: &'static str, offset: &'static [u8]| {
        let name = |rest: &str| Bytes::from(format!("{prefix}{rest}"));
        let header = |rest: &str, value: &[u8]| Header { name: name(rest), value: Some(Bytes::copy_from_slice(value)) };
        vec![header("topic", topic), header("partition", b"0"), header("offset", offset), header(message, b"boom")]
    };
    let retried = vec![
        header("kafka_original-topic", topic),
        header("kafka_original-partition", &0_i32.to_be_bytes()),
        header("kafka_original-offset", &15_i64.to_be_bytes()),
        header("kafka_original-consumer-group", world.group.as_bytes()),
        header("kafka_exception-message", b"boom"),
        header("retry_topic-attempts", &3_i32.to_be_bytes()),
    ];
    let not_copied = NewRecord { headers: named("__dlq.errors.", "message", b"16"), ..NewRecord::default() };
    let elsewhere = vec![
        header("__connect.errors.topic", b"another"),
        header("__connect.errors.partition", b"0"),
        header("__connect.errors.offset", b"1"),
    ];
    world
        .kafka
        .produce(
            &foreign,
            vec![
                record(1, spring(world.group.as_bytes())),
                record(2, spring(b"another-group")),
                record(3, named("__connect.errors.", "exception.message", b"12")),
                record(4, named("__streams.errors.", "message", b"13")),
                record(5, named("__dlq.errors.", "message", b"14")),
                record(6, elsewhere),
                record(7, Vec::new()),
                record(8, retried),
                not_copied,
            ],
        )
        .await;
    let setup = world.worker();
    let told = herald_json(&setup, &["dlq", "reindex", "--of-topic", &foreign, "--json"]).await;
    let counts =
        ["read", "added", "of_others", "unreadable", "without_value"].map(|name| told[0][name].as_u64().unwrap());
    assert_eq!(counts, [9, 5, 2, 1, 1]);
    let listed = herald_json(&setup, &["dlq", "list", "--json"]).await;
    let mut found: Vec<String> = listed
        .iter()
        .map(|letter| {
            format!("{} {} {} {}", letter["order_id"], letter["offset"], letter["reason"], letter["error"])
                .replace('"', "")
        })
        .collect();
    found.sort();
    let expected = [
        "1 11 exhausted java.lang.IllegalStateException: no such user",
        "3 12 exhausted boom",
        "4 13 exhausted boom",
        "5 14 exhausted boom",
        "8 15 exhausted boom",
    ];
    assert_eq!(found, expected);
    let spring = listed.iter().find(|letter| letter["order_id"] == "1").unwrap()["id"].to_string();
    let shown = herald_json(&setup, &["dlq", "show", &spring, "--json"]).await;
    assert_eq!(shown[0]["headers"], serde_json::json!([{"name": "tenant", "value": "acme"}]));
    assert_eq!(shown[0]["timestamp"], "2026-09-21T14:13:20.123Z");
    assert!(world.orders_in_state("x").await.len() == 5, "young ones can be replayed");
    herald(&setup, &["dlq", "reindex", "--of-topic", &foreign, "--any-group"]).await;
    assert_eq!(herald_json(&setup, &["dlq", "list", "--json"]).await.len(), 6);

    let missing = setup.run_command(&["dlq", "reindex", "--of-topic", "no-such-topic"]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    let read_only = setup.with("HERALD_DEAD_LETTERS__READ_ONLY", "true");
    assert!(refused(&read_only, &["dlq", "reindex"]).await.contains("read_only"));
}
