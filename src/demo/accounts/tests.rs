use super::*;
use crate::demo::plan::Poison;

/// Everything as it must be.
fn good(plan: &Plan) -> Evidence {
    let mut evidence = Evidence::default();
    let mut next: BTreeMap<Partition, Offset> = BTreeMap::new();
    for record in plan.all_records() {
        let offset = next.entry(Partition(record.partition)).or_insert(Offset(0));
        let coordinates = Coordinates { partition: Partition(record.partition), offset: *offset };
        *offset = offset.next();
        evidence.produced.push((coordinates, *record));
        match record.content {
            Content::Order(order) => {
                let keys = HashSet::from([format!("key {order}")]);
                evidence.deliveries.insert(order, Deliveries { requests: 1, accepted: 1, keys, altered: 0 });
                evidence.done.insert(order.to_string());
            }
            Content::Poison(poison) => {
                evidence.dead_rows.push(DeadRow { coordinates, reason: poison.reason().to_string() });
                evidence.dead_topic.push(letter(plan, coordinates, poison));
            }
            Content::Duplicate(_) | Content::Ignored(_) => {}
        }
    }
    evidence.committed = next;
    evidence
}

fn letter(plan: &Plan, origin: Coordinates, poison: Poison) -> StoredRecord {
    let mut headers: Vec<_> =
        POISON_HEADERS.iter().map(|(name, value)| ((*name).to_owned(), Some(value.to_vec()))).collect();
    for (name, value) in [
        ("__dlq.errors.partition", origin.partition.to_string()),
        ("__dlq.errors.offset", origin.offset.to_string()),
        ("herald-reason", poison.reason().to_string()),
    ] {
        headers.push((name.to_owned(), Some(value.into_bytes())));
    }
    StoredRecord { coordinates: origin, key: None, value: plan.value(Content::Poison(poison)), headers }
}

#[test]
fn an_account_of_a_good_run_balances() {
    let plan = Plan::new(1_000, 7);
    let accounts = Accounts::close(&plan, &good(&plan));
    assert!(accounts.balance(), "{accounts:?}");
    assert_eq!(accounts.notified, 1_000);
    let dead: Vec<_> = accounts.dead_letters.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    assert_eq!(dead, [("undecodable", 5), ("invalid", 4), ("conflict", 1), ("permanent", 2), ("exhausted", 2)]);
    assert_eq!(
        accounts.produced,
        accounts.notified + accounts.duplicates + accounts.ignored + accounts.dead_letter_count()
    );
}

#[test]
fn a_repetition_is_excused_once_and_only_for_a_delivery_that_was_open_at_the_kill() {
    // Accepted, different keys, open at the kill: notified twice, redelivered.
    for (accepted, keys, open, twice, redelivered) in [
        (1, 1, false, 0, 0),
        (1, 1, true, 0, 0),
        (2, 1, true, 0, 1),
        (2, 1, false, 1, 0),
        (2, 2, true, 1, 0),
        (3, 1, true, 1, 1),
        (3, 2, true, 1, 1),
    ] {
        let plan = Plan::new(100, 7);
        let mut evidence = good(&plan);
        let deliveries = evidence.deliveries.get_mut(&5).unwrap();
        deliveries.accepted = accepted;
        deliveries.keys = (0..keys).map(|key: u32| key.to_string()).collect();
        if open {
            evidence.open_at_kill.insert("5".to_owned());
        }
        let accounts = Accounts::close(&plan, &evidence);
        assert_eq!((accounts.notified_twice, accounts.redelivered), (twice, redelivered), "{accepted} {keys} {open}");
        assert_eq!(accounts.balance(), twice == 0);
    }
}

#[test]
fn each_deviation_is_found() {
    type Deviation = fn(&mut Evidence);
    let deviations: [(&str, Deviation); 9] = [
        ("an order is never notified", |evidence| {
            evidence.deliveries.remove(&3);
            evidence.done.remove("3");
        }),
        ("an order is notified and not settled", |evidence| {
            evidence.done.remove("3");
        }),
        ("an order is settled and not notified", |evidence| {
            evidence.done.insert("101".to_owned());
        }),
        ("a refused order is notified", |evidence| {
            let accepted = Deliveries { accepted: 1, ..evidence.deliveries[&3].clone() };
            evidence.deliveries.insert(101, accepted);
        }),
        ("another content is notified", |evidence| {
            evidence.deliveries.get_mut(&3).unwrap().altered = 1;
        }),
        ("a dead letter is missing in the topic", |evidence| {
            evidence.dead_topic.pop();
        }),
        ("a dead letter is missing in the table", |evidence| {
            evidence.dead_rows.pop();
        }),
        ("a dead letter has other bytes", |evidence| {
            evidence.dead_topic.last_mut().unwrap().value = Some(b"x".to_vec());
        }),
        ("an offset is not committed", |evidence| {
            evidence.committed.insert(Partition(0), Offset(0));
        }),
    ];
    for (name, deviation) in deviations {
        let plan = Plan::new(100, 7);
        let mut evidence = good(&plan);
        deviation(&mut evidence);
        assert!(!Accounts::close(&plan, &evidence).balance(), "{name}");
    }
}

#[test]
fn a_record_without_any_trace_is_lost_and_one_that_was_not_passed_waits() {
    let plan = Plan::new(100, 7);
    let mut evidence = good(&plan);
    evidence.dead_topic.clear();
    evidence.dead_rows.clear();
    assert_eq!(Accounts::close(&plan, &evidence).lost, 14);
    evidence.committed.clear();
    let accounts = Accounts::close(&plan, &evidence);
    assert_eq!((accounts.lost, accounts.waiting), (0, accounts.produced));
}
