use std::collections::HashSet;

use herald::core::dead_letter::bug_fingerprint;
use herald::core::failure::Reason;
use herald::core::input::{LedgerState, Ticket};
use herald::core::record::{Epoch, Partition};
use herald::postgres::DeadLetterState;

use crate::ledger::fixture::{at, claim, dead_letter, record, settlement, test_database};

const LETTERS: &str =
    "SELECT string_agg(format('%s %s f%s', order_id, state, failures), ', ' ORDER BY id) FROM dead_letters";

#[tokio::test]
async fn a_burial_settles_the_claim_and_keeps_the_record_byte_for_byte() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    let mut dead = dead_letter("1", at(0, 5), epoch);
    dead.error = format!("422: \0{}", "no ".repeat(2_000));
    let buried = database.postgres.bury(&[dead.clone()]).await.unwrap();
    assert_eq!(buried, [Ticket(5)]);
    assert_eq!(database.ledger("1").await, "x 0/5 e1");

    let owned = [(Partition(0), epoch)];
    let letters = database.postgres.unpublished(&owned, 10, 1_000_000).await.unwrap();
    let [letter] = &letters[..] else {
        panic!("{letters:?}");
    };
    assert_eq!(letter.record, dead.record);
    assert_eq!((letter.reason, &*letter.class), (Reason::Permanent, "permanent"));
    assert_eq!((letter.attempts, letter.replays), (1, 0));
    assert_eq!(letter.fingerprint, bug_fingerprint(Reason::Permanent, &dead.error));
    assert!(letter.error.starts_with("422: no no") && letter.error.len() <= 2_000);
    let apart = letter.last_failed_at.0 - letter.first_failed_at.0;
    assert!((59_900..60_100).contains(&apart), "{apart} ms");
}

#[tokio::test]
async fn an_unclaimed_record_can_be_buried() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let mut dead = dead_letter("order_events/0/5", at(0, 5), epoch);
    dead.reason = Reason::Undecodable;
    assert_eq!(database.postgres.bury(&[dead]).await.unwrap(), [Ticket(5)]);
    assert_eq!(database.ledger("order_events/0/5").await, "x 0/5 e1");
}

#[tokio::test]
async fn a_burial_whose_answer_was_lost_is_the_same_failure_when_repeated() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    let dead = [dead_letter("1", at(0, 5), epoch)];
    for _ in 0..3 {
        assert_eq!(database.postgres.bury(&dead).await.unwrap(), [Ticket(5)]);
        assert_eq!(database.look(LETTERS).await, "1 open f1");
    }
    let letters = database.postgres.unpublished(&[(Partition(0), epoch)], 10, 1_000).await.unwrap();
    database.postgres.mark_published(&[&letters[0]]).await.unwrap();
    assert_eq!(database.postgres.bury(&dead).await.unwrap(), [Ticket(5)]);
    assert_eq!(database.postgres.unpublished_facts().await.unwrap().count, 0);
}

#[tokio::test]
async fn burials_repeated_at_the_same_time_are_one_failure() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let dead: Vec<_> = (0..50).map(|n| dead_letter(&n.to_string(), at(0, n), epoch)).collect();
    let bury = || {
        let (postgres, dead) = (database.postgres.clone(), dead.clone());
        tokio::spawn(async move { postgres.bury(&dead).await.unwrap().len() })
    };
    for burial in [bury(), bury(), bury()] {
        assert_eq!(burial.await.unwrap(), 50);
    }
    let counts = "SELECT count(*) || ' letters, ' || sum(failures) || ' failures' FROM dead_letters";
    assert_eq!(database.look(counts).await, "50 letters, 50 failures");
}

#[tokio::test]
async fn the_same_origin_failing_again_is_the_same_letter_and_published_again() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let dead = [dead_letter("1", at(0, 5), epoch)];
    database.postgres.bury(&dead).await.unwrap();
    let owned = [(Partition(0), epoch)];
    let first = database.postgres.unpublished(&owned, 10, 1_000).await.unwrap();
    database.postgres.mark_published(&[&first[0]]).await.unwrap();
    // As a replay does.
    database.execute("UPDATE processed_orders SET state = 'p'").await;
    database.execute("UPDATE dead_letters SET state = 'replaying'").await;
    let mut again = dead[0].clone();
    again.error = "500".to_owned();
    again.reason = Reason::Exhausted;
    again.settlement.was_parked = true;
    database.postgres.bury(&[again]).await.unwrap();
    assert_eq!(database.look(LETTERS).await, "1 open f2");
    let second = database.postgres.unpublished(&owned, 10, 1_000).await.unwrap();
    assert_eq!((second[0].id, second[0].reason), (first[0].id, Reason::Exhausted));
    assert!(second[0].first_failed_at <= first[0].first_failed_at);
    // A publisher that was frozen marks the failure that it published, and not the one since.
    database.postgres.mark_published(&[&first[0]]).await.unwrap();
    assert_eq!(database.postgres.unpublished_facts().await.unwrap().count, 1);
    database.postgres.mark_published(&[&second[0]]).await.unwrap();
    assert_eq!(database.postgres.unpublished_facts().await.unwrap().count, 0);
}

#[tokio::test]
async fn a_recreated_topic_gives_another_letter_at_the_same_coordinates() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.postgres.bury(&[dead_letter("1", at(0, 5), epoch)]).await.unwrap();
    let mut other = dead_letter("2", at(0, 5), epoch);
    other.record = record(at(0, 5), "other content");
    database.postgres.bury(&[other]).await.unwrap();
    assert_eq!(database.look(LETTERS).await, "1 open f1, 2 open f1");
}

#[tokio::test]
async fn a_burial_that_is_fenced_or_settled_otherwise_does_nothing() {
    let database = test_database().await;
    let old = database.raise(0).await;
    let claims: Vec<_> = (1..=3).map(|n| claim(&n.to_string(), at(0, n), old)).collect();
    database.postgres.claim(&claims).await.unwrap();
    database.postgres.done(&[settlement("1", at(0, 1), old)]).await.unwrap();
    // Done, of other coordinates, and one that is its own.
    let dead = [dead_letter("1", at(0, 1), old), dead_letter("2", at(0, 9), old), dead_letter("3", at(0, 3), old)];
    assert_eq!(database.postgres.bury(&dead).await.unwrap(), [Ticket(3)]);
    database.raise(0).await;
    assert_eq!(database.postgres.bury(&dead).await.unwrap(), []);
    assert_eq!(database.look(LETTERS).await, "3 open f1");
    assert_eq!(database.ledger("1").await, "d 0/1 e1");
    assert_eq!(database.ledger("2").await, "c 0/2 e1");
}

#[tokio::test]
async fn a_burial_removes_the_parked_row() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    database.execute("UPDATE processed_orders SET state = 'p'").await;
    database
        .execute(
            "INSERT INTO parked_events (consumer_group, order_id, event_type, topic, kpartition, koffset, key_hash, attempts, due_at,
                    first_failed_at, record)
             SELECT consumer_group, order_id, event_type, topic, kpartition, koffset, 7, 1, now(), now(), '' FROM processed_orders",
        )
        .await;
    let mut dead = dead_letter("1", at(0, 5), epoch);
    dead.settlement.was_parked = true;
    database.postgres.bury(&[dead]).await.unwrap();
    assert_eq!(database.look("SELECT count(*)::text FROM parked_events").await, "0");
}

#[tokio::test]
async fn an_uncertain_order_is_a_dead_letter_that_no_copy_claims() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let mut dead = dead_letter("1", at(0, 5), epoch);
    dead.reason = Reason::Uncertain;
    assert_eq!(database.postgres.bury(&[dead.clone()]).await.unwrap(), [Ticket(5)]);
    assert_eq!(database.postgres.bury(&[dead]).await.unwrap(), [Ticket(5)]);
    assert_eq!(database.look(LETTERS).await, "1 open f1");
    let found = database.claim_one(claim("1", at(0, 9), epoch)).await.unwrap();
    assert_eq!(found.state, LedgerState::Uncertain);
}

#[tokio::test]
async fn only_the_owner_of_a_partition_gets_its_unpublished_letters() {
    let database = test_database().await;
    let old = database.raise(0).await;
    let other = database.raise(1).await;
    let dead = [dead_letter("1", at(0, 5), old), dead_letter("2", at(1, 6), other)];
    database.postgres.bury(&dead).await.unwrap();
    let of = async |owned: &[(i32, Epoch)]| -> HashSet<i64> {
        let owned: Vec<_> = owned.iter().map(|(p, epoch)| (Partition(*p), *epoch)).collect();
        let letters = database.postgres.unpublished(&owned, 10, 1_000_000).await.unwrap();
        letters.iter().map(|letter| letter.record.coordinates.offset.0).collect()
    };
    assert_eq!(of(&[(0, old)]).await, HashSet::from([5]));
    assert_eq!(of(&[(0, old), (1, other)]).await, HashSet::from([5, 6]));
    let new = database.raise(0).await;
    assert_eq!(of(&[(0, old), (1, other)]).await, HashSet::from([6]));
    assert_eq!(of(&[(0, new)]).await, HashSet::from([5]));
    assert_eq!(of(&[]).await, HashSet::new());
}

#[tokio::test]
async fn unpublished_letters_come_oldest_first_and_within_bounds() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.raise(1).await;
    for n in 0..6_i32 {
        let mut dead = dead_letter(&n.to_string(), at(n % 2, n.into()), epoch);
        dead.record = record(at(n % 2, n.into()), &"x".repeat(1_000));
        database.postgres.bury(&[dead]).await.unwrap();
    }
    let owned = [(Partition(1), epoch), (Partition(0), epoch)];
    // A stored record is a little larger than its value.
    let cases = [
        (10, 1_000_000, vec![0, 1, 2, 3, 4, 5]),
        (4, 1_000_000, vec![0, 1, 2, 3]),
        (10, 3_300, vec![0, 1, 2]),
        (10, 1, vec![0]),
    ];
    for (rows, bytes, expected) in cases {
        let letters = database.postgres.unpublished(&owned, rows, bytes).await.unwrap();
        let offsets: Vec<i64> = letters.iter().map(|l| l.record.coordinates.offset.0).collect();
        assert_eq!(offsets, expected, "{rows} rows, {bytes} bytes");
    }
}

#[tokio::test]
async fn unpublished_letters_of_one_partition_leave_room_for_those_of_another() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.raise(1).await;
    let dead: Vec<_> = (0..10).map(|n| dead_letter(&n.to_string(), at(i32::from(n >= 8), n), epoch)).collect();
    for letter in &dead {
        database.postgres.bury(std::slice::from_ref(letter)).await.unwrap();
    }
    let owned = [(Partition(0), epoch), (Partition(1), epoch)];
    for (rows, expected) in [(4, vec![0, 1, 8, 9]), (3, vec![0, 1, 8]), (6, vec![0, 1, 2, 3, 8, 9])] {
        let letters = database.postgres.unpublished(&owned, rows, 1_000_000).await.unwrap();
        let offsets: Vec<i64> = letters.iter().map(|letter| letter.record.coordinates.offset.0).collect();
        assert_eq!(offsets, expected, "{rows} rows");
    }
}

#[tokio::test]
async fn letters_that_cannot_be_read_do_not_hold_up_the_others_however_many_or_large() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    for n in 0..5 {
        database.postgres.bury(&[dead_letter(&n.to_string(), at(0, n), epoch)]).await.unwrap();
    }
    let unreadable = "UPDATE dead_letters SET record = decode(repeat('ff', 1000), 'hex') WHERE order_id <> '4'";
    database.execute(unreadable).await;
    for (rows, bytes) in [(2, 1_000_000), (10, 500)] {
        let letters = database.postgres.unpublished(&[(Partition(0), epoch)], rows, bytes).await.unwrap();
        let offsets: Vec<_> = letters.iter().map(|letter| letter.record.coordinates).collect();
        assert_eq!(offsets, [at(0, 4)]);
    }
}

#[tokio::test]
async fn a_letter_that_cannot_be_read_does_not_hold_up_the_others() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let dead = [dead_letter("1", at(0, 5), epoch), dead_letter("2", at(0, 6), epoch)];
    database.postgres.bury(&dead).await.unwrap();
    database.execute("UPDATE dead_letters SET record = '\\xff' WHERE order_id = '1'").await;
    let letters = database.postgres.unpublished(&[(Partition(0), epoch)], 10, 1_000).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].record.coordinates, at(0, 6));
}

#[tokio::test]
async fn facts_count_what_waits_and_what_is_open() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let empty = database.postgres.unpublished_facts().await.unwrap();
    assert_eq!((empty.count, empty.oldest_failed_at), (0, None));
    let mut dead: Vec<_> = (0..3).map(|n| dead_letter(&n.to_string(), at(0, n), epoch)).collect();
    dead[2].reason = Reason::Exhausted;
    database.postgres.bury(&dead).await.unwrap();
    database.postgres.done(&[settlement("0", at(0, 9), epoch)]).await.unwrap();
    let letters = database.postgres.unpublished(&[(Partition(0), epoch)], 1, 1_000).await.unwrap();
    database.postgres.mark_published(&[&letters[0]]).await.unwrap();
    let facts = database.postgres.unpublished_facts().await.unwrap();
    assert_eq!(facts.count, 2);
    assert!(facts.oldest_failed_at.is_some());
    let counts = database.postgres.dead_letter_counts().await.unwrap();
    let of = |state, reason| {
        let found = counts.iter().find(|c| (c.state, c.reason) == (state, reason));
        found.map(|c| c.count)
    };
    assert_eq!(counts.len(), 3);
    assert_eq!(of(DeadLetterState::Open, Reason::Permanent), Some(1));
    assert_eq!(of(DeadLetterState::Resolved, Reason::Permanent), Some(1));
    assert_eq!(of(DeadLetterState::Open, Reason::Exhausted), Some(1));
}
