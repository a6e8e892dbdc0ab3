//! Records that nobody can notify: each arrives in the DLQ topic byte for byte, and no healthy one waits for it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use herald::core::dead_letter::bug_fingerprint;
use herald::core::failure::Reason;
use herald::core::record::{Coordinates, Header, Partition, Record};
use serde_json::json;

use crate::support::gateway::Answer;
use crate::support::kafka::NewRecord;
use crate::support::letters::{Row, headers, letter_of, text};
use crate::support::wait::{EVENTUALLY, wait_until};
use crate::support::{World, orders, unique};

/// A record that nobody can notify, and why.
struct Poison {
    record: NewRecord,
    reason: Reason,
    error: &'static str,
}

fn header(name: &'static [u8], value: Option<&'static [u8]>) -> Header {
    Header { name: Bytes::from_static(name), value: value.map(Bytes::from_static) }
}

fn noise(bytes: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(7);
    (0..bytes).map(|_| random.u8(..)).collect()
}

fn every_kind_of_poison() -> Vec<Poison> {
    use Reason::{Invalid, Undecodable};
    let of = |value: &'static [u8]| NewRecord::of(Bytes::from_static(value));
    let without_status =
        json!({"event_type": "ORDER_CREATED", "order": {"order_id": 5, "user_id": 1, "product_id": 1, "quantity": 1}});
    let mut strange_headers = of(b"not json");
    strange_headers.key = Some(Bytes::from_static(b"\0key\xff"));
    strange_headers.timestamp = Some(1_790_000_000_123);
    strange_headers.headers = vec![
        header(b"twice", Some(b"1")),
        header(b"binary", Some(b"\0\x01\xff")),
        header(b"twice", Some(b"2")),
        header(b"\xff\xfe", Some(b"a name that is no text")),
        header(b"null", None),
        header(b"empty", Some(b"")),
        header(b"traceparent", Some(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
    ];
    let mut tombstone = NewRecord { key: Some(Bytes::from_static(b"order-17")), ..NewRecord::default() };
    tombstone.headers = vec![header(b"why", Some(b"deleted"))];
    let empty = NewRecord { key: Some(Bytes::new()), ..of(b"") };
    let mut letter_again = of(b"[1, 2]");
    letter_again.headers = vec![
        header(b"herald-reason", Some(b"exhausted")),
        header(b"mine", Some(b"kept")),
        header(b"__dlq.errors.offset", Some(b"1")),
    ];
    [
        (NewRecord::default(), Undecodable, "tombstone"),
        (tombstone, Undecodable, "tombstone"),
        (of(b"\xff\0\xfe null key, invalid text"), Undecodable, "not UTF-8"),
        (strange_headers, Undecodable, "the value is no JSON object"),
        (empty, Undecodable, "the value is no JSON object"),
        (letter_again, Undecodable, "the value is no JSON object"),
        (of(br#"{"event_type": "ORDER_CREATED", "#), Undecodable, "EOF"),
        (NewRecord::of(noise(900_000)), Undecodable, "not UTF-8"),
        (of(br#"{"event_type": 1}"#), Invalid, "event_type is not a string"),
        (of(br#"{"event_type": "ORDER_CREATED", "order": []}"#), Invalid, "order is not an object"),
        (orders::record(&without_status), Invalid, "order.status is missing"),
    ]
    .into_iter()
    .map(|(record, reason, error)| Poison { record, reason, error })
    .collect()
}

/// A topic of five partitions whose DLQ topic has three, so that no letter can be where its record was.
async fn world_with_a_smaller_dlq_topic() -> World {
    let mut world = World::with_partitions(5).await;
    world.dlq_topic = unique("smaller-dlq");
    world.kafka.create_topic(&world.dlq_topic, 3).await;
    world
}

fn millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

#[tokio::test]
async fn every_kind_of_poison_arrives_in_the_dlq_topic_byte_for_byte_while_healthy_records_flow() {
    let mut world = world_with_a_smaller_dlq_topic().await;
    let start = millis();
    let poison = every_kind_of_poison();
    let mut places = Vec::new();
    for (index, one) in (0..).zip(&poison) {
        world.produce(&[orders::created(2 * index), orders::created(2 * index + 1)]).await;
        let filler = orders::record(&orders::event("ORDER_SEEN", index)).in_partition(4);
        let sent = world.kafka.produce(&world.topic, vec![filler, one.record.clone().in_partition(4)]).await;
        places.push(sent[1]);
    }
    let mut worker = world.worker().start().await;
    world.all_committed().await;
    let letters = world.published(poison.len()).await;
    assert_eq!(letters.len(), poison.len());
    let rows = world.buried(poison.len()).await;
    for (one, place) in poison.iter().zip(&places) {
        let letter = letter_of(&letters, *place);
        let row = rows.iter().find(|row| row.is_of(*place)).unwrap();
        assert_is_letter_of(letter, &one.record, row, *place, &world);
        assert_eq!(text(letter, "herald-reason"), one.reason.as_str());
        assert!(text(letter, "herald-error").contains(one.error), "{} for {}", row.error, one.error);
        assert_eq!(text(letter, "herald-attempts"), "0");
        assert_ne!(letter.coordinates, *place);
        let failed = chrono::DateTime::parse_from_rfc3339(text(letter, "herald-first-failed-at")).unwrap();
        assert!((start..=millis()).contains(&failed.timestamp_millis()), "{failed}");
    }
    // Headers that are named like ours are among them: here they stay.
    world.assert_kept_as_they_came(&places).await;
    let verdict = world.verdict();
    assert!(verdict.is_clean(), "{verdict:?}");
    let records = |outcome: &'static str| [("outcome", outcome)];
    worker.wait_for_metric("herald_records_total", &records("notified"), 22.0).await;
    worker.wait_for_metric("herald_records_total", &records("ignored"), 11.0).await;
    worker.wait_for_metric("herald_records_total", &records("dead_lettered"), 11.0).await;
    worker.wait_for_metric("herald_dead_letters_total", &[("reason", "undecodable")], 8.0).await;
    worker.wait_for_metric("herald_dead_letters_total", &[("reason", "invalid")], 3.0).await;
    worker.wait_for_metric("herald_dead_letters_published_total", &[], 11.0).await;
    worker.assert_accounting_closes().await;
    worker.sigterm();
    assert_eq!(worker.wait_exit(EVENTUALLY).await, 0, "{}", worker.log());
}

/// Everything that does not depend on the kind: content as it was, and headers that say what the row says.
fn assert_is_letter_of(letter: &Record, original: &NewRecord, row: &Row, place: Coordinates, world: &World) {
    assert_eq!(letter.key, original.key);
    assert_eq!(letter.value, original.value);
    let expected = [
        ("__dlq.errors.topic", world.topic.clone()),
        ("__dlq.errors.partition", place.partition.0.to_string()),
        ("__dlq.errors.offset", place.offset.0.to_string()),
        ("__dlq.errors.group", world.group.clone()),
        ("__dlq.errors.delivery.count", row.attempts.to_string()),
        ("__dlq.errors.message", row.error.clone()),
        ("herald-id", row.id.to_string()),
        ("herald-reason", row.reason.clone()),
        ("herald-class", row.class.clone()),
        ("herald-error", row.error.clone()),
        ("herald-attempts", row.attempts.to_string()),
        ("herald-first-failed-at", row.first_failed_at.clone()),
        ("herald-last-failed-at", row.last_failed_at.clone()),
        ("herald-fingerprint", row.bug.clone()),
        ("herald-replays", "0".to_owned()),
        ("herald-version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    for (name, value) in &expected {
        assert_eq!(text(letter, name), value, "{name}");
    }
    let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == row.reason).unwrap();
    assert_eq!(row.bug, bug_fingerprint(reason, &row.error));
    let timestamp: i64 = text(letter, "herald-timestamp").parse().unwrap();
    match original.timestamp {
        Some(original) => assert_eq!(timestamp, original),
        None => assert!((millis() - timestamp).abs() < 600_000, "{timestamp}"),
    }
    // What came stands first, as it came; ours replaces what had its name.
    let is_ours = |header: &&Header| {
        header.name == b"herald-timestamp".as_slice() || expected.iter().any(|(name, _)| header.name == name.as_bytes())
    };
    let kept: Vec<&Header> = original.headers.iter().filter(|header| !is_ours(header)).collect();
    assert_eq!(letter.headers.iter().take(kept.len()).collect::<Vec<_>>(), kept);
    assert!(letter.headers[kept.len()..].iter().all(|header| is_ours(&header)), "{:?}", letter.headers);
    assert_eq!(letter.headers.len(), kept.len() + expected.len() + 1);
    assert_eq!(letter.coordinates.partition, Partition(place.partition.0 % 3));
}

#[tokio::test]
async fn an_order_that_the_gateway_refuses_for_good_arrives_in_the_dlq_topic_with_its_attempts() {
    let mut world = world_with_a_smaller_dlq_topic().await;
    world.gateway.always_answer_order("1", Answer::status(422).with_body("order 1 has no such user"));
    world.gateway.always_answer_order("2", Answer::status(503));
    let sent = |order_id| NewRecord {
        key: Some(Bytes::from_static(b"\xffkey")),
        headers: vec![header(b"twice", None), header(b"twice", Some(b"\0"))],
        ..orders::record(&orders::created(order_id)).in_partition(3)
    };
    let places = world.kafka.produce(&world.topic, vec![sent(1), sent(2), sent(3)]).await;
    let worker = world
        .worker()
        .with("HERALD_RETRY__MAX_ATTEMPTS", "3")
        .with("HERALD_RETRY__INITIAL_BACKOFF", "50ms")
        .start()
        .await;
    wait_until("order 2 has failed", EVENTUALLY, async || {
        let tries = world.gateway.requests_for("2").len();
        if tries > 1 { Ok(()) } else { Err(format!("{tries} tries")) }
    })
    .await;
    // That the gateway takes another order since is the evidence against this one.
    world.produce_in(0, &[orders::created(4)]).await;
    world.all_committed().await;
    let letters = world.published(2).await;
    let rows = world.buried(2).await;
    for (order_id, place, reason, class, least_attempts, error) in [
        (1, places[0], "permanent", "permanent", 1, "order 1 has no such user"),
        (2, places[1], "exhausted", "transient", 3, "503"),
    ] {
        let letter = letter_of(&letters, place);
        let row = rows.iter().find(|row| row.is_of(place)).unwrap();
        assert_eq!(row.order_id, order_id.to_string());
        assert_is_letter_of(letter, &sent(order_id), row, place, &world);
        assert_eq!(text(letter, "herald-reason"), reason);
        assert_eq!(text(letter, "herald-class"), class);
        let attempts = world.gateway.requests_for(&row.order_id).len();
        assert!(attempts >= least_attempts, "{attempts}");
        assert_eq!(text(letter, "herald-attempts"), attempts.to_string());
        assert!(text(letter, "herald-error").contains(error), "{}", row.error);
        assert_eq!(headers(letter, "twice").len(), 2);
    }
    let exhausted = letter_of(&letters, places[1]);
    assert!(text(exhausted, "herald-first-failed-at") < text(exhausted, "herald-last-failed-at"));
    assert_eq!(world.gateway.accepted(), 2);
    worker.wait_for_metric("herald_dead_letters_total", &[("reason", "permanent")], 1.0).await;
    worker.wait_for_metric("herald_dead_letters_total", &[("reason", "exhausted")], 1.0).await;
    worker.assert_accounting_closes().await;
}
