//! Whatever a record holds, it ends one way, is kept byte for byte when it is a dead letter, and holds up no other.
//!
//! Here are the inputs of `fuzz/corpus` and a little of what chance makes of them. `make fuzz` looks for more with the same checks, guided
//! by the code that an input reaches, for as long as one likes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{RefUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

use bytes::Bytes;
use herald::config::Settings;
use herald::core::decode::Decoded;
use herald::core::event::{Identity, OrderEvent};
use herald::core::failure::Reason;
use herald::core::record::{Coordinates, Header, Record};
use proptest::prelude::*;
use serde_json::json;

use crate::support::gateway::{Answer, Request};
use crate::support::kafka::NewRecord;
use crate::support::letters::{self, letter_of, rows, text};
use crate::support::records::{self, odd_record_of, records_of};
use crate::support::{World, configured, decoded, kept, orders, repository, undisturbed};

/// Inputs that each test of the corpus makes of each of its files.
const VARIANTS: usize = 20;

fn corpus(target: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = repository().join("fuzz/corpus").join(target);
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let corpus: BTreeMap<_, _> = files.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    assert!(corpus.len() >= 3, "the corpus of {target} is missing");
    corpus
}

/// Cuts, doubles, swaps and overwrites a few times.
fn vary(bytes: &[u8], others: &[&[u8]], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.usize(1..5) {
        let at = random.usize(0..=bytes.len());
        let to = (at + random.usize(0..32)).min(bytes.len());
        match random.u8(0..6) {
            0 => drop(bytes.drain(at..to)),
            1 => bytes.splice(at..at, bytes[at..to].to_vec()).for_each(drop),
            2 => bytes.splice(at..to, (0..random.usize(0..5)).map(|_| random.u8(..))).for_each(drop),
            3 => bytes.insert(at, *random.choice(b"\x1e\x1f\"{}[]\\,:\0e-").unwrap()),
            4 => {
                let other = random.choice(others).unwrap();
                let from = random.usize(0..=other.len());
                let until = (from + random.usize(0..64)).min(other.len());
                bytes.splice(at..to, other[from..until].iter().copied()).for_each(drop);
            }
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.u8(0..8)),
        }
    }
    bytes
}

/// Calls with each input of the corpus and with what chance makes of it, always the same. One that panics is kept.
fn for_all(target: &str, check: impl Fn(&[u8]) + RefUnwindSafe) {
    let corpus = corpus(target);
    let all: Vec<&[u8]> = corpus.values().map(Vec::as_slice).collect();
    let mut random = fastrand::Rng::with_seed(4);
    for bytes in &all {
        try_one(target, bytes, &check);
        for _ in 0..VARIANTS {
            try_one(target, &vary(bytes, &all, &mut random), &check);
        }
    }
}

fn try_one(target: &str, bytes: &[u8], check: &(impl Fn(&[u8]) + RefUnwindSafe)) {
    let Err(panic) = catch_unwind(|| check(bytes)) else { return };
    let path = repository().join(format!(".cache/fuzz/{target}-of-the-tests"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    eprintln!("this input fails: {}; it belongs into fuzz/corpus/{target}", path.display());
    resume_unwind(panic);
}

#[test]
fn no_record_of_the_corpus_and_of_what_is_like_it_is_left_without_an_outcome_or_holds_up_others() {
    for_all("records", |bytes| undisturbed::check(&records_of(bytes)));
}

#[test]
fn each_record_of_the_corpus_and_of_what_is_like_it_decodes_to_what_it_says() {
    for_all("decode", |bytes| decoded::check(&odd_record_of(bytes)));
}

#[test]
fn each_dead_letter_of_the_corpus_and_of_what_is_like_it_is_kept_as_it_came_and_shows_nothing_that_is_masked() {
    for_all("letters", |bytes| kept::check(&odd_record_of(bytes)));
}

#[test]
fn no_text_of_the_corpus_and_of_what_is_like_it_makes_reading_the_configuration_panic() {
    for_all("configuration", configured::check);
}

/// JSON that is nearly an event.
fn any_value() -> impl Strategy<Value = Option<Vec<u8>>> {
    let id = prop_oneof![
        3 => "[0-9]{1,2}",
        1 => "-?[0-9]{0,300}",
        1 => "\"[a-z0-9\\\\]{0,9}\"",
        1 => Just("\"\\ud800\"".to_owned()),
        1 => Just("\"\\u0000\"".to_owned()),
        1 => Just("1e400".to_owned()),
    ];
    let extra = prop_oneof![
        4 => Just(String::new()),
        1 => (0usize..300).prop_map(|depth| format!(",\"deep\":{}{}", "[".repeat(depth), "]".repeat(depth))),
        1 => "[0-9]{1,400}".prop_map(|number| format!(",\"number\":{number}")),
        1 => any::<String>().prop_map(|text| format!(",\"text\":{}", json!(text))),
    ];
    let kind = prop_oneof![4 => Just("ORDER_CREATED"), 2 => Just("ORDER_PAID"), 1 => Just("OTHER")];
    let event = (kind, id.clone(), id, extra).prop_map(|(kind, order, user, extra)| {
        format!(
            r#"{{"event_type":"{kind}","order":{{"order_id":{order},"user_id":{user},"product_id":1,"quantity":1,"status":"x"{extra}}}}}"#
        )
        .into_bytes()
    });
    let cut =
        (event.clone(), any::<prop::sample::Index>()).prop_map(|(event, end)| event[..end.index(event.len())].to_vec());
    prop_oneof![
        8 => event.prop_map(Some),
        1 => cut.prop_map(Some),
        2 => any::<Vec<u8>>().prop_map(Some),
        1 => Just(None),
    ]
}

fn any_records() -> impl Strategy<Value = Vec<Record>> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..12));
    let headers = prop::collection::vec((prop::collection::vec(any::<u8>(), 0..12), bytes()), 0..4);
    let record = (any_value(), prop::option::of("[a-c]?"), headers);
    // Compaction and transactions leave gaps.
    prop::collection::vec((1i64..4, record), 0..24).prop_map(|records| {
        let mut offset = 0;
        let mut all = Vec::new();
        for (gap, (value, key, headers)) in records {
            offset += gap;
            let header =
                |(name, value): (Vec<u8>, Option<Vec<u8>>)| Header { name: name.into(), value: value.map(Bytes::from) };
            let mut record = records::record(offset, value.map(Bytes::from));
            record.key = key.map(Bytes::from);
            record.headers = headers.into_iter().map(header).collect();
            all.push(record);
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_records_hold_each_ends_one_way_and_none_holds_up_others(records in any_records()) {
        undisturbed::check(&records);
    }
}

/// Why each of these records is to be a dead letter, those of other ends left out. Whichever copy of an order was notified decides what
/// the others are.
fn fates(source: &[Record], requests: &[Request]) -> BTreeMap<Coordinates, &'static str> {
    let decoder = Settings::default().decoder();
    let mut dead = BTreeMap::new();
    let mut orders: BTreeMap<Identity, Vec<(Coordinates, OrderEvent)>> = BTreeMap::new();
    for record in source {
        match decoder.decode(record) {
            Decoded::Ignored { .. } => {}
            Decoded::Poison { reason, .. } => drop(dead.insert(record.coordinates, reason.as_str())),
            Decoded::Event { event, .. } => {
                orders.entry(event.identity.clone()).or_default().push((record.coordinates, event));
            }
        }
    }
    for (identity, copies) in &orders {
        // By their bytes: what nests as deep as the worker reads is a level too deep for the gateway.
        let told = copies.iter().filter(|(_, copy)| requests.iter().any(|request| request.raw_order() == copy.order));
        let told: BTreeSet<_> = told.map(|(_, copy)| copy.fingerprint.to_string()).collect();
        assert_eq!(told.len(), 1, "{identity:?} was told as {told:?} of {copies:?}");
        let others = copies.iter().filter(|(_, copy)| !told.contains(&copy.fingerprint.to_string()));
        dead.extend(others.map(|(place, _)| (*place, Reason::Conflict.as_str())));
    }
    assert_eq!(requests.len(), orders.len(), "each is asked for once, and nothing else is");
    dead
}

/// Random bytes and damaged events among whole ones, on a real broker.
#[tokio::test]
async fn of_records_of_any_bytes_each_has_an_outcome_and_the_orders_among_them_are_notified() {
    let mut world = World::with_partitions(2).await;
    let corpus = corpus("records");
    let all: Vec<&[u8]> = corpus.values().map(Vec::as_slice).collect();
    let mut random = fastrand::Rng::with_seed(fastrand::u64(..));
    let seed = random.get_seed();
    let mut odd = Vec::new();
    for bytes in &all {
        for record in (0..8).flat_map(|_| records_of(&vary(bytes, &all, &mut random))) {
            let Record { key, value, headers, .. } = record;
            odd.push(NewRecord { key, value, headers, ..NewRecord::default() });
        }
    }
    let healthy: Vec<_> = (1_000_000..1_000_050).map(orders::created).collect();
    world.produce(&healthy[..25]).await;
    let count = odd.len();
    world.kafka.produce(&world.topic, odd).await;
    world.produce(&healthy[25..]).await;
    let worker = world.worker().start().await;
    world.all_committed().await;
    println!("seed {seed}");
    worker.wait_for_metric("herald_records_total", &[], f64::from(u32::try_from(count + 50).unwrap())).await;
    worker.wait_for_metric("herald_records_in_flight", &[], 0.0).await;
    worker.assert_accounting_closes().await;

    let source = world.kafka.records(&world.topic).await;
    let expected = fates(&source, &world.gateway.requests());
    assert!(expected.len() > count / 10, "{} of {count} are dead letters", expected.len());
    let rows = rows(&world.database.pool).await;
    let dead: BTreeMap<Coordinates, &str> = rows.iter().map(|row| (row.place(), &*row.reason)).collect();
    assert_eq!(dead, expected);
    let letters = world.published(dead.len()).await;
    assert_eq!(letters.len(), dead.len());
    for record in source.iter().filter(|record| dead.contains_key(&record.coordinates)) {
        assert!(letters::is_whole(letter_of(&letters, record.coordinates), record), "none is too large");
    }
    world.assert_kept_as_they_came(&dead.into_keys().collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn ten_thousand_headers_are_kept_by_dead_letters_and_parked_records_alike() {
    let mut world = World::with_partitions(1).await;
    let headers: Vec<Header> = (0..10_000_u32)
        .map(|number| Header {
            name: Bytes::from(format!("h-{}", number % 7_000)),
            value: (number % 3 > 0).then(|| Bytes::copy_from_slice(&number.to_be_bytes())),
        })
        .collect();
    let with_headers = |value: NewRecord| NewRecord { headers: headers.clone(), ..value };
    // One that is notified, one that is parked and then refused for good, and poison.
    world.gateway.answer_order("2", [Answer::status(503).retry_after("2"), Answer::status(422)]);
    let mut places = Vec::new();
    for order_id in [1, 2] {
        let event = orders::created(order_id);
        let record = with_headers(orders::record(&event));
        places.extend(world.kafka.produce(&world.topic, vec![record]).await);
    }
    places.extend(world.kafka.produce(&world.topic, vec![with_headers(NewRecord::of("poison"))]).await);
    world.produce(&[orders::created(3)]).await;
    let worker = world.worker().with("HERALD_RETRY__PARK_AFTER", "1s").start().await;
    let letters = world.published(2).await;
    world.all_committed().await;
    for (place, reason) in [(places[1], "permanent"), (places[2], "undecodable")] {
        let letter = letter_of(&letters, place);
        assert_eq!(text(letter, "herald-reason"), reason);
        assert!(letter.headers[..10_000] == headers, "headers were changed");
    }
    assert_eq!(world.gateway.accepted(), 2);
    worker.wait_for_metric("herald_records_total", &[("outcome", "parked")], 1.0).await;
    worker.assert_accounting_closes().await;
}

#[tokio::test]
async fn numbers_of_any_size_are_passed_on_as_they_are_or_refused_as_ids() {
    let mut world = World::with_partitions(1).await;
    let digits = |count: usize| "9".repeat(count);
    let order = |order_id: &str, more: &str| {
        format!(r#"{{"order_id":{order_id},"user_id":1,"product_id":{more},"quantity":{more},"status":"CREATED"}}"#)
    };
    let of = |order: String| NewRecord::of(format!(r#"{{"event_type":"ORDER_CREATED","order":{order}}}"#));
    let event = |order_id: &str, more: &str| of(order(order_id, more));
    let passed_on = [
        order(&digits(255), &digits(1_000)),
        order("-1", &digits(100_000)),
        order("-0", "0"),
        order("9007199254740993", "18446744073709551617"),
    ];
    let whole = passed_on.clone().map(of);
    let refused = [event(&digits(256), "1"), event("1e400", "1"), event("2", "1e400"), event("3", "0.5")];
    world.kafka.produce(&world.topic, whole.to_vec()).await;
    let places = world.kafka.produce(&world.topic, refused.to_vec()).await;
    world.produce(&[orders::created(1)]).await;
    let worker = world.worker().start().await;
    world.all_committed().await;
    let letters = world.published(refused.len()).await;
    for place in places {
        assert_eq!(text(letter_of(&letters, place), "herald-reason"), "invalid");
    }
    assert_eq!(world.gateway.accepted(), passed_on.len() + 1);
    let requests = world.gateway.requests();
    for order in &passed_on {
        assert!(
            requests.iter().any(|request| request.raw_order() == order.as_bytes()),
            "{order:.200} is not passed on as it was"
        );
    }
    worker.assert_accounting_closes().await;
}
