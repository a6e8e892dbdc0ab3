//! Records that could wedge all others: each ends as a dead letter of its own, and its neighbours are notified.

use std::collections::BTreeSet;

use bytes::Bytes;
use herald::core::record::Header;
use serde_json::{Value, json};

use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::letters::{letter_of, text};
use crate::support::{World, orders};

fn with_order_id(order_id: &Value) -> Value {
    let mut event = orders::created(0);
    event["order"]["order_id"] = order_id.clone();
    event
}

fn text_of(bytes: usize) -> String {
    let mut random = fastrand::Rng::with_seed(5);
    (0..bytes).map(|_| random.alphanumeric()).collect()
}

#[tokio::test]
async fn records_that_postgres_could_not_store_are_dead_letters_and_their_neighbours_are_notified() {
    let mut world = World::with_partitions(1).await;
    let nul_in_type = json!({"event_type": "ORDER\0CREATED", "order": orders::created(1)["order"]});
    let long_type = json!({"event_type": "T".repeat(129), "order": orders::created(1)["order"]});
    let lone_surrogate = br#"{"event_type":"ORDER_CREATED","order":{"order_id":"\ud800","user_id":1,"product_id":1,"quantity":1,"status":"CREATED"}}"#;
    let deep = format!(
        r#"{{"event_type":"ORDER_CREATED","order":{{"order_id":1,"user_id":1,"product_id":1,"quantity":1,"status":"CREATED","deep":{}{}}}}}"#,
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    let odd = [
        (orders::record(&with_order_id(&json!("nul\0inside"))), "invalid"),
        (orders::record(&with_order_id(&json!("x".repeat(256)))), "invalid"),
        (orders::record(&with_order_id(&json!("y".repeat(500_000)))), "invalid"),
        (orders::record(&with_order_id(&json!(""))), "invalid"),
        (orders::record(&with_order_id(&json!(1.5))), "invalid"),
        (orders::record(&with_order_id(&json!(null))), "invalid"),
        (orders::record(&nul_in_type), "invalid"),
        (orders::record(&long_type), "invalid"),
        (NewRecord::of(Bytes::from_static(lone_surrogate)), "undecodable"),
        (NewRecord::of(deep), "undecodable"),
    ];
    let mut places = Vec::new();
    for (index, (record, _)) in (0..).zip(&odd) {
        world.produce(&[orders::created(2 * index), orders::created(2 * index + 1)]).await;
        places.extend(world.kafka.produce(&world.topic, vec![record.clone()]).await);
    }
    let worker = world.worker().start().await;
    world.all_committed().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}");
    let letters = world.published(odd.len()).await;
    assert_eq!(letters.len(), odd.len());
    for ((record, reason), place) in odd.iter().zip(places) {
        let letter = letter_of(&letters, place);
        assert_eq!(letter.value, record.value);
        assert_eq!(text(letter, "herald-reason"), *reason, "{}", text(letter, "herald-error"));
    }
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn odd_ids_headers_and_fields_that_harm_nobody_are_notified() {
    let mut world = World::with_partitions(1).await;
    let mut extra = orders::created(3);
    extra["order"]["note"] = json!("nul \0 and \u{202e} and \"quotes\"");
    extra["request_id"] = json!("line\r\nbreak \0");
    let events = [
        with_order_id(&json!("x".repeat(255))),
        with_order_id(&json!("Bestellung №7\n\u{1f980} ' \" \\ {}")),
        with_order_id(&json!(u64::MAX)),
        with_order_id(&json!(-1)),
        extra,
    ];
    let header = |name: &'static [u8], value: &'static [u8]| Header {
        name: Bytes::from_static(name),
        value: Some(Bytes::from_static(value)),
    };
    let headers = vec![
        header(b"\xff\xfe", b"a name that is no text"),
        header(b"traceparent", b"\xff\r\nx-injected: 1"),
        header(b"", b"no name"),
    ];
    for event in &events {
        let record = NewRecord { headers: headers.clone(), ..orders::record(event) };
        let place = world.kafka.produce(&world.topic, vec![record]).await[0];
        world.produced.push(orders::produced(event, place));
    }
    let worker = world.worker().start().await;
    world.all_committed().await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}");
    assert!(world.gateway.requests().iter().all(|request| request.header("x-injected").is_none()));
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], 5.0).await;
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn records_as_large_as_the_broker_takes_are_notified_or_dead_letters() {
    let mut world = World::with_partitions(1).await;
    let large = |order_id: u64| {
        let mut event = orders::created(order_id);
        event["order"]["note"] = json!(text_of(1_048_300));
        event
    };
    world.gateway.always_answer_order("2", Answer::status(413));
    world.produce(&[orders::created(10), large(1), orders::created(11)]).await;
    let refused = orders::record(&large(2));
    let unreadable = NewRecord { key: Some(Bytes::from_static(b"key")), ..NewRecord::of(text_of(1_048_450)) };
    let places = world.kafka.produce(&world.topic, vec![refused, unreadable.clone()]).await;
    world.produce(&[orders::created(12)]).await;
    let worker = world.worker().start().await;
    world.all_committed().await;
    let mut requests = world.gateway.requests();
    requests.retain(|request| request.order_id() != "2");
    assert_eq!(requests.len(), 4);
    assert!(requests.iter().all(crate::support::gateway::Request::is_accepted));
    // With our headers they would be larger than the broker takes, unless they can be compressed.
    let letters = world.published(2).await;
    assert_eq!(text(letter_of(&letters, places[0]), "herald-reason"), "permanent");
    assert_eq!(text(letter_of(&letters, places[1]), "herald-reason"), "undecodable");
    assert_eq!(letter_of(&letters, places[1]).key, unreadable.key);
    worker.assert_accounting_closes().await;
}

/// Refuses each of two orders in another way: with a data exception and with an integrity violation.
const REFUSE_TWO_ORDERS: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.order_id = '333' THEN RAISE EXCEPTION 'cannot be stored' USING ERRCODE = '22021'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON processed_orders FOR EACH ROW EXECUTE FUNCTION refuse();
    ALTER TABLE processed_orders ADD CHECK (order_id <> '617');
";

#[tokio::test]
async fn of_a_thousand_orders_only_the_two_that_postgres_refuses_are_dead_letters() {
    let mut world = World::with_partitions(2).await;
    sqlx::raw_sql(REFUSE_TWO_ORDERS).execute(&world.database.pool).await.unwrap();
    world.produce(&(0..1_000).map(orders::created).collect::<Vec<_>>()).await;
    let worker = world.worker().start().await;
    world.all_committed().await;
    let refused = ["333", "617"];
    let verdict = world.verdict();
    let expected = refused.map(|order_id| (order_id.to_owned(), "ORDER_CREATED".to_owned()));
    assert_eq!(verdict.lost, BTreeSet::from(expected));
    assert!(verdict.repeated.is_empty() && verdict.unknown.is_empty(), "{verdict:?}");
    assert_eq!(world.gateway.requests().len(), 998);

    let letters = world.published(2).await;
    assert_eq!(letters.len(), 2);
    for order_id in refused {
        let event = world.produced.iter().find(|event| event.order_id == order_id).unwrap();
        let letter = letter_of(&letters, event.coordinates);
        assert_eq!(letter.value, orders::record(&orders::created(order_id.parse().unwrap())).value);
        assert_eq!(text(letter, "herald-reason"), "invalid");
        assert_eq!(text(letter, "herald-attempts"), "0");
    }
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], 998.0).await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "dead_lettered")], 2.0).await;
    worker.wait_for_metric("herald_ledger_batches_held_total", &[], 0.0).await;
    worker.assert_accounting_closes().await;
}
