//! Records that could wedge all others: each ends as a dead letter of its own, and its neighbours are notified.

use std::collections::BTreeSet;

use bytes::Bytes;
use herald::core::record::Header;
use serde_json::{Value, json};

use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::letters::{is_whole, letter_of, text};
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

/// Texts of JSON in one another, which the reader of JSON would read anew each: together they nest 24,000 levels deep.
fn nested_texts() -> String {
    (0..200).fold("1".to_owned(), |inner, _| {
        let inner = inner.replace('\\', "\\u005c").replace('"', "\\u0022");
        format!(r#"{}{{"$serde_json::private::RawValue":"{inner}"}}{}"#, "[".repeat(120), "]".repeat(120))
    })
}

#[tokio::test]
async fn records_that_postgres_could_not_store_are_dead_letters_and_their_neighbours_are_notified() {
    let mut world = World::with_partitions(1).await;
    let nul_in_type = json!({"event_type": "ORDER\0CREATED", "order": orders::created(1)["order"]});
    let long_type = json!({"event_type": "T".repeat(129), "order": orders::created(1)["order"]});
    let lone_surrogate = |field: &str| {
        let event = orders::created(1).to_string();
        let surrogate = format!(r#""{field}":"\ud800""#);
        NewRecord::of(match field {
            "note" => event.replacen(r#""order":{"#, &format!(r#""order":{{{surrogate},"#), 1),
            "order_id" => event.replacen(r#""order_id":1"#, &surrogate, 1),
            "status" => event.replacen(r#""status":"CREATED""#, &surrogate, 1),
            _ => event.replacen(r#""event_type":"ORDER_CREATED""#, &surrogate, 1),
        })
    };
    let deep = format!(
        r#"{{"event_type":"ORDER_CREATED","order":{{"order_id":1,"user_id":1,"product_id":1,"quantity":1,"status":"CREATED","deep":{}{}}}}}"#,
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    let nested =
        orders::created(1).to_string().replacen(r#""order":{"#, &format!(r#""order":{{"note":{},"#, nested_texts()), 1);
    let odd = [
        (orders::record(&with_order_id(&json!("nul\0inside"))), "invalid"),
        (orders::record(&with_order_id(&json!("x".repeat(256)))), "invalid"),
        (orders::record(&with_order_id(&json!("y".repeat(500_000)))), "invalid"),
        (orders::record(&with_order_id(&json!(""))), "invalid"),
        (orders::record(&with_order_id(&json!(1.5))), "invalid"),
        (orders::record(&with_order_id(&json!(null))), "invalid"),
        (orders::record(&nul_in_type), "invalid"),
        (orders::record(&long_type), "invalid"),
        (lone_surrogate("order_id"), "undecodable"),
        (lone_surrogate("note"), "undecodable"),
        (lone_surrogate("status"), "undecodable"),
        (lone_surrogate("event_type"), "invalid"),
        (NewRecord::of(deep), "undecodable"),
        (NewRecord::of(nested), "undecodable"),
        (orders::record(&with_order_id(&json!({"$serde_json::private::Number": "1"}))), "undecodable"),
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
    let mut deep = orders::created(4);
    deep["order"]["deep"] = (0..100).fold(json!("bottom"), |inner, _| json!([inner]));
    let events = [
        with_order_id(&json!("x".repeat(255))),
        with_order_id(&json!("Bestellung №7\n\u{1f980} ' \" \\ {}")),
        with_order_id(&json!(u64::MAX)),
        with_order_id(&json!(-1)),
        extra,
        deep,
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
    let requests = world.gateway.requests();
    assert!(requests.iter().all(|request| request.header("x-injected").is_none()));
    for event in &events {
        assert!(requests.iter().any(|request| request.body["order"] == event["order"]), "{event} was changed");
    }
    worker.wait_for_metric("herald_records_total", &[("outcome", "notified")], 6.0).await;
    worker.assert_accounting_closes().await;
}

/// No compression makes it smaller.
fn noise(bytes: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(6);
    (0..bytes).map(|_| random.u8(..)).collect()
}

#[tokio::test]
async fn records_as_large_as_the_broker_takes_are_notified_or_dead_letters() {
    let mut world = World::with_partitions(1).await;
    let large = |order_id: u64| {
        let mut event = orders::created(order_id);
        event["order"]["note"] = json!(text_of(1_048_300));
        event
    };
    let small = |order_id| orders::record(&orders::created(order_id));
    let large_key = |record| NewRecord { key: Some(noise(1_000_000)), ..record };
    let large_header = |record| {
        let header = Header { name: Bytes::from_static(b"large"), value: Some(noise(1_000_000)) };
        NewRecord { headers: vec![header], ..record }
    };
    for order_id in ["2", "7"] {
        world.gateway.always_answer_order(order_id, Answer::status(413));
    }
    world.gateway.answer_order("3", [Answer::status(503).retry_after("2")]);
    world.produce(&[orders::created(10), large(1), large(3), orders::created(11)]).await;
    world.kafka.produce(&world.topic, vec![large_key(small(4)), large_header(small(5))]).await;
    let refused = orders::record(&large(2));
    let unreadable = NewRecord { key: Some(Bytes::from_static(b"key")), ..NewRecord::of(text_of(1_048_450)) };
    let dead = [
        (refused, "permanent"),
        (unreadable, "undecodable"),
        (NewRecord::of(noise(1_048_450)), "undecodable"),
        (large_key(NewRecord::of("poison")), "undecodable"),
        (large_header(small(7)), "permanent"),
    ];
    let places = world.kafka.produce(&world.topic, dead.iter().map(|(record, _)| record.clone()).collect()).await;
    world.produce(&[orders::created(12)]).await;
    let worker = world.worker().with("HERALD_RETRY__PARK_AFTER", "1s").start().await;
    world.all_committed().await;
    world.parked_when(0).await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "parked")], 1.0).await;

    for order_id in [1, 3] {
        let asked = world.gateway.requests_for(&order_id.to_string());
        assert_eq!(asked.len(), if order_id == 3 { 2 } else { 1 });
        assert!(asked.iter().all(|request| request.body["order"] == large(order_id)["order"]), "it was changed");
    }
    assert_eq!(world.gateway.accepted(), 7);
    let letters = world.published(dead.len()).await;
    let source = world.kafka.records(&world.topic).await;
    for (index, ((_, reason), place)) in dead.iter().zip(&places).enumerate() {
        let letter = letter_of(&letters, *place);
        assert_eq!(text(letter, "herald-reason"), *reason);
        let original = source.iter().find(|record| record.coordinates == *place).unwrap();
        // With our headers one would be larger than the broker takes, and cannot be compressed.
        assert_eq!(is_whole(letter, original), index != 2, "{reason} at {place:?}");
    }
    world.assert_kept_as_they_came(&places).await;
    worker.assert_accounting_closes().await;
}

/// Where the topic takes more than Kafka's usual megabyte: each of these is larger than all that may be held, and than what is written to
/// Postgres or read from it at once.
#[tokio::test]
async fn records_far_larger_than_what_may_be_held_pass_one_after_another() {
    let mut world = World::with_partitions(1).await;
    world.kafka.alter_topic(&world.topic, &[("max.message.bytes", "16777216")]).await;
    let large = |order_id: u64| {
        let mut event = orders::created(order_id);
        event["order"]["note"] = json!(text_of(12 << 20));
        event
    };
    world.gateway.answer_order("2", [Answer::status(503).retry_after("2")]);
    world.gateway.answer_order("3", [Answer::status(413)]);
    world.produce(&[orders::created(10), large(1), large(2), large(3), orders::created(11)]).await;
    let setup = world.worker().with("HERALD_LIMITS__BYTES", "1MiB").with("HERALD_RETRY__PARK_AFTER", "1s");
    let worker = setup.start().await;
    world.all_committed().await;
    world.parked_when(0).await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "parked")], 1.0).await;
    let refused = world.buried(1).await.remove(0);
    let pointer = world.published(1).await.remove(0);
    assert_eq!((text(&pointer, "herald-reason"), text(&pointer, "herald-payload")), ("permanent", "postgres"));
    world.assert_kept_as_they_came(&[refused.place()]).await;

    let replayed = setup.run_command(&["dlq", "replay", &refused.id.to_string(), "--yes", "--wait"]).await;
    assert_eq!(replayed.code, Some(0), "{}{}", replayed.stdout, replayed.stderr);
    for order_id in [1, 2, 3] {
        let asked = world.gateway.requests_for(&order_id.to_string());
        assert!(asked.last().unwrap().body["order"] == large(order_id)["order"], "{order_id} was changed");
    }
    assert!(world.verdict().is_clean());
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn nul_in_the_answer_of_a_gateway_is_left_out_of_what_is_kept_and_shown() {
    let mut world = World::with_partitions(1).await;
    world.gateway.always_answer_order("1", Answer::status(422).with_body("no\0such user"));
    let busy = Answer::status(503).retry_after("2").with_body("busy\0just now");
    world.gateway.answer_order("2", [busy, Answer::status(422).with_body("\0")]);
    world.produce(&[orders::created(1), orders::created(2), orders::created(3)]).await;
    let setup = world.worker().with("HERALD_RETRY__PARK_AFTER", "1s");
    let worker = setup.start().await;
    let rows = world.buried(2).await;
    world.all_committed().await;
    worker.wait_for_metric("herald_records_total", &[("outcome", "parked")], 1.0).await;
    assert_eq!(world.gateway.accepted(), 1);
    let letters = world.published(2).await;
    for (row, said) in rows.iter().zip(["such user", "just now"]) {
        assert_eq!(row.reason, "permanent");
        let letter = letter_of(&letters, row.place());
        assert_eq!(text(letter, "herald-error"), row.error);
        let shown = setup.run_command(&["dlq", "show", &row.id.to_string()]).await;
        assert_eq!(shown.code, Some(0), "{}", shown.stderr);
        assert!(shown.stdout.contains(said), "{}", shown.stdout);
        assert!(!row.error.contains('\0') && !shown.stdout.contains('\0'), "{:?}", shown.stdout);
    }
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
