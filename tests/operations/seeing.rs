//! Groups, lists, and one dead letter whole.

use bytes::Bytes;
use herald::core::failure::Reason;
use herald::core::record::Header;
use herald::operations::Selection;
use herald::postgres::DeadLetterState;
use serde_json::json;

use super::{Office, herald, herald_json};
use crate::ledger::fixture::at;
use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::{World, orders};

fn header(name: &'static [u8], value: Option<&'static [u8]>) -> Header {
    Header { name: Bytes::from_static(name), value: value.map(Bytes::from_static) }
}

#[tokio::test]
async fn the_operator_sees_groups_lists_and_every_attempt_with_its_error() {
    let mut world = World::with_partitions(1).await;
    world.gateway.always_answer_order("1", Answer::status(422).with_body("quantity 400 must be below 100"));
    world.gateway.always_answer_order("2", Answer::status(422).with_body("quantity 700 must be below 100"));
    world
        .gateway
        .answer_order("3", [Answer::status(500), Answer::status(503), Answer::status(422).with_body("no such user")]);
    let exact = r#"{"event_type":"ORDER_CREATED","order":{"order_id":1,"user_id":7,"product_id":3,"quantity":400,"status":"CREATED","exact":12345678901234567890123,"price":1.10}}"#;
    let mut record = NewRecord::of(exact).in_partition(0);
    record.key = Some(Bytes::from_static(b"key-1"));
    let traceparent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    record.headers = vec![
        header(b"twice", Some(b"1")),
        header(b"flags", Some(b"\x00\xff")),
        header(b"twice", None),
        header(b"traceparent", Some(traceparent)),
    ];
    world.kafka.produce(&world.topic, vec![record, NewRecord::of("not json").in_partition(0)]).await;
    world.produce_in(0, &[orders::created(2), orders::created(3)]).await;
    let setup = world.worker().with("HERALD_RETRY__INITIAL_BACKOFF", "10ms");
    let _worker = setup.start().await;
    world.buried(4).await;

    let groups = herald_json(&setup, &["dlq", "groups", "--json"]).await;
    let same_bug = groups.iter().find(|group| group["count"] == 2).unwrap();
    assert_eq!((groups.len(), &same_bug["reason"]), (3, &json!("permanent")));
    assert_eq!(same_bug["trend"].as_array().unwrap().iter().filter_map(serde_json::Value::as_u64).sum::<u64>(), 2);
    let table = herald(&setup, &["dlq", "groups"]).await;
    assert!(table.contains("4 in 3 groups") && table.contains("none expires within 24h"), "{table}");

    let name = same_bug["group"].as_str().unwrap();
    let found = herald_json(&setup, &["dlq", "list", "--json", "--fingerprint", &name[..6]]).await;
    assert_eq!(found.len(), 2);

    let found = herald_json(&setup, &["dlq", "list", "--json", "--key", "key-1"]).await;
    assert_eq!((found.len(), &found[0]["order_id"]), (1, &json!("1")));
    let id = found[0]["id"].to_string();
    let shown = herald(&setup, &["dlq", "show", &id, "--json"]).await;
    assert!(shown.contains(&format!(r#""payload":{exact}"#)), "{shown}");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let headers = json!([
        {"name": "twice", "value": "1"},
        {"name": "flags", "value": {"hex": "00ff"}},
        {"name": "twice", "value": null},
        {"name": "traceparent", "value": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    ]);
    assert_eq!(shown["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((&shown["headers"], &shown["key"]), (&headers, &json!("key-1")));
    let text = herald(&setup, &["dlq", "show", &id]).await;
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    // A long value goes on below itself, whole.
    let unfolded = text.replace(&format!("\n{}", " ".repeat(10)), "");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let error = "quantity 400 must be below 100";
    for expected in [exact, "0x00ff (2 bytes)", "(2 alike)", error, "ORDER_CREATED is dead since 20", trace] {
        assert!(unfolded.contains(expected), "{expected} in {text}");
    }

    let third = herald_json(&setup, &["dlq", "list", "--json", "--order", "3"]).await;
    let shown = herald_json(&setup, &["dlq", "show", &third[0]["id"].to_string(), "--json"]).await;
    let errors: Vec<String> =
        shown[0]["history"].as_array().unwrap().iter().map(|attempt| attempt["error"].to_string()).collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    for (error, expected) in errors.iter().zip(["500", "503", "no such user"]) {
        assert!(error.contains(expected), "{error}");
    }

    let poison = herald_json(&setup, &["dlq", "list", "--json", "--reason", "undecodable"]).await;
    let shown = herald_json(&setup, &["dlq", "show", &poison[0]["id"].to_string(), "--json"]).await;
    assert_eq!(shown[0]["payload_hex"], "6e6f74206a736f6e");
}

#[tokio::test]
async fn every_filter_selects_what_it_says_and_the_count_is_exact() {
    let office = Office::with_letters(4).await;
    office.bury("other", at(3, 40)).await;
    office.database.execute("UPDATE dead_letters SET reason = 'exhausted', error = 'HTTP 500 Internal', bug = 'abc123', replays = 2, record_key = 'k-40', last_failed_at = '2026-01-01Z' WHERE order_id = 'other'").await;
    office.database.execute("UPDATE dead_letters SET state = 'discarded' WHERE order_id = '4'").await;
    let operations = office.operator("ana");
    let none = Selection::default;
    let text = |text: &str| Some(text.to_owned());
    for (what, selection, expected) in [
        ("everything", none(), 5),
        ("open", none().or_in_states(&[DeadLetterState::Open]), 4),
        ("reason", none().with_reasons(&[Reason::Exhausted]), 1),
        ("group", Selection { group: text("abc"), ..none() }, 1),
        ("event type", Selection { event_type: text("ORDER_CREATED"), ..none() }, 5),
        ("another event type", Selection { event_type: text("ORDER_PAID"), ..none() }, 0),
        ("order", Selection { order_id: text("2"), ..none() }, 1),
        ("key", Selection { key: text("k-40"), ..none() }, 1),
        ("partition", Selection { partition: Some(0), ..none() }, 4),
        ("offsets", Selection { partition: Some(0), first_offset: Some(2), last_offset: Some(3), ..none() }, 2),
        ("since", Selection { since_ms: Some(1_767_225_600_001), ..none() }, 4),
        ("until", Selection { until_ms: Some(1_767_225_600_001), ..none() }, 1),
        ("replays", Selection { min_replays: Some(1), max_replays: Some(2), ..none() }, 1),
        ("text of the error", Selection { text: text("internal"), ..none() }, 1),
        ("text of the payload", Selection { text: text("other"), ..none() }, 1),
        ("ids", Selection::of_ids(vec![1, 3, 99]), 2),
    ] {
        let page = operations.page(&selection, None, 2).await.unwrap();
        assert_eq!(page.total, expected, "{what}");
        assert_eq!(page.letters.len(), usize::try_from(expected.min(2)).unwrap(), "{what}");
    }
}

#[tokio::test]
async fn pages_are_stable_while_dead_letters_come_in_and_fail_again() {
    let office = Office::with_letters(7).await;
    let operations = office.operator("ana");
    let selection = Selection::default();
    let mut seen = Vec::new();
    let mut before = None;
    for number in 0.. {
        let page = operations.page(&selection, before, 3).await.unwrap();
        seen.extend(page.letters.iter().map(|letter| letter.order_id.clone()));
        office.bury(&format!("late-{number}"), at(1, number + 1)).await;
        office
            .database
            .execute("UPDATE dead_letters SET last_failed_at = now(), failures = failures + 1 WHERE order_id = '5'")
            .await;
        before = page.next_before;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["7", "6", "5", "4", "3", "2", "1"]);
}
