use herald::core::effect::{Claim, Serial};
use herald::core::failure::LedgerFailure;
use herald::core::input::{LedgerRow, LedgerState, Ticket};
use herald::core::record::{Epoch, Offset, Partition};

use crate::ledger::fixture::{
    CONTENT, OTHER_CONTENT, at, claim, dead_letter, holder, row, settlement, test_database, wherever_it_is,
};

/// Puts the row of order 1 at partition 0, offset 5 into the state.
async fn prepare(database: &crate::ledger::fixture::TestDatabase, state: LedgerState, epoch: Epoch) {
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    match state {
        LedgerState::Claimed => {}
        LedgerState::Parked => {
            database.execute("UPDATE processed_orders SET state = 'p'").await;
        }
        LedgerState::Done => {
            let done = [settlement("1", at(0, 5), epoch)];
            database.postgres.done(&done).await.unwrap();
        }
        LedgerState::Dead => {
            let dead = [dead_letter("1", at(0, 5), epoch)];
            database.postgres.bury(&dead).await.unwrap();
        }
        LedgerState::Uncertain => {
            let mut dead = dead_letter("1", at(0, 5), epoch);
            dead.reason = herald::core::failure::Reason::Uncertain;
            database.postgres.bury(&[dead]).await.unwrap();
        }
    }
}

/// In two steps, as the engine does it: the first claim only finds it.
async fn claim_dead(database: &crate::ledger::fixture::TestDatabase, claim: Claim) -> LedgerRow {
    let found = database.claim_one(claim.clone()).await.unwrap();
    assert_eq!(found.state, LedgerState::Dead);
    database.claim_one(Claim { seize_from: Some(found.holder), ..claim }).await.unwrap()
}

#[tokio::test]
async fn a_claim_finds_what_the_table_of_the_design_says() {
    use LedgerState::{Claimed, Dead, Done, Parked, Uncertain};
    let own = at(0, 5);
    let later = at(0, 9);
    let earlier = at(0, 2);
    let elsewhere = at(1, 1);
    // What is in the ledger, where the claim is from, what it finds and who then has the row.
    let table = [
        (Claimed, own, Claimed, own),
        (Claimed, later, Claimed, own),
        (Claimed, elsewhere, Claimed, own),
        (Parked, own, Parked, own),
        (Parked, later, Parked, own),
        (Done, own, Done, own),
        (Done, later, Done, own),
        (Done, elsewhere, Done, own),
        (Dead, own, Dead, own),
        (Dead, earlier, Dead, own),
        (Dead, later, Dead, own),
        (Dead, elsewhere, Dead, own),
        (Uncertain, own, Uncertain, own),
        (Uncertain, later, Uncertain, own),
        (Uncertain, elsewhere, Uncertain, own),
    ];
    let database = test_database().await;
    let epoch = database.raise(0).await;
    assert_eq!(database.raise(1).await, epoch);
    for (state, from, found, holder) in table {
        database.execute("TRUNCATE processed_orders, dead_letters").await;
        prepare(&database, state, epoch).await;
        let answer = database.claim_one(claim("1", from, epoch)).await;
        let expected = row(found, holder, false);
        assert_eq!(answer, Some(expected), "{state:?} claimed from {from:?}");
    }
}

#[tokio::test]
async fn a_claim_says_whether_it_inserted_the_row() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let first = database.claim_one(claim("1", at(0, 5), epoch)).await;
    assert_eq!(first, Some(row(LedgerState::Claimed, at(0, 5), true)));
    let repeated = database.claim_one(claim("1", at(0, 5), epoch)).await;
    assert_eq!(repeated, Some(row(LedgerState::Claimed, at(0, 5), false)));

    // Also of a row that others have locked, and in the place of a deleted one.
    let locking = "SELECT count(*)::text FROM (SELECT FROM processed_orders FOR KEY SHARE) locked";
    database.look(locking).await;
    let locked = database.claim_one(claim("1", at(0, 5), epoch)).await;
    assert!(!locked.unwrap().inserted);
    database.execute("DELETE FROM processed_orders").await;
    let again = database.claim_one(claim("1", at(0, 5), epoch)).await;
    assert!(again.unwrap().inserted);
}

#[tokio::test]
async fn a_takeover_has_the_epoch_of_the_new_owner_and_keeps_its_starts() {
    let database = test_database().await;
    let old = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), old)).await;
    database.execute("UPDATE processed_orders SET starts = 1").await;
    let new = database.raise(0).await;
    let taken = database.claim_one(claim("1", at(0, 5), new)).await;
    let mut expected = row(LedgerState::Claimed, at(0, 5), false);
    (expected.starts, expected.holder.epoch) = (1, new);
    assert_eq!(taken, Some(expected));
    assert_eq!(database.ledger("1").await, "c 0/5 e2");
    assert_eq!(database.look("SELECT starts::text FROM processed_orders").await, "1");
}

#[tokio::test]
async fn a_conflict_comes_back_with_the_content_that_was_notified() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    prepare(&database, LedgerState::Done, epoch).await;
    let mut other = claim("1", at(0, 9), epoch);
    other.fingerprint = OTHER_CONTENT;
    let answer = database.claim_one(other).await.unwrap();
    assert_eq!(answer.fingerprint, CONTENT);
}

#[tokio::test]
async fn other_content_at_an_earlier_offset_is_of_a_recreated_topic_and_claims_a_dead_order() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    prepare(&database, LedgerState::Dead, epoch).await;
    let mut recreated = claim("1", at(0, 2), epoch);
    recreated.fingerprint = OTHER_CONTENT;
    let found = claim_dead(&database, recreated).await;
    assert_eq!((found.state, found.holder.coordinates), (LedgerState::Claimed, at(0, 2)));
}

#[tokio::test]
async fn a_dead_order_sent_again_with_other_content_is_claimed_with_that_content() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    prepare(&database, LedgerState::Dead, epoch).await;
    let mut other = claim("1", at(0, 9), epoch);
    other.fingerprint = OTHER_CONTENT;
    let answer = claim_dead(&database, other).await;
    assert_eq!((answer.state, answer.fingerprint), (LedgerState::Claimed, OTHER_CONTENT));
    assert_eq!(database.look("SELECT settled_at::text FROM processed_orders").await, "");
}

#[tokio::test]
async fn a_claim_that_comes_late_leaves_an_order_that_died_since_to_its_dead_letter() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    prepare(&database, LedgerState::Dead, epoch).await;
    let mut copy = claim("1", at(0, 9), epoch);
    copy.seize_from = Some(database.claim_one(copy.clone()).await.unwrap().holder);
    // It is replayed, and fails again.
    database.execute("UPDATE processed_orders SET state = 'p'").await;
    assert_eq!(database.claim_one(copy.clone()).await.unwrap().state, LedgerState::Parked);
    let mut again = dead_letter("1", at(0, 5), epoch);
    (again.settlement.serial, again.settlement.was_parked) = (Serial(1), true);
    database.postgres.bury(&[again]).await.unwrap();
    let found = database.claim_one(copy.clone()).await.unwrap();
    assert_eq!((found.state, found.holder.coordinates), (LedgerState::Dead, at(0, 5)));
    assert_eq!(claim_dead(&database, copy).await.state, LedgerState::Claimed);
}

#[tokio::test]
async fn a_claim_is_seized_only_from_the_holder_that_was_found_to_be_gone() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.raise(1).await;
    prepare(&database, LedgerState::Claimed, epoch).await;

    let mut seizing = claim("1", at(1, 1), epoch);
    seizing.seize_from = Some(holder(at(0, 4)));
    let answer = database.claim_one(seizing.clone()).await;
    assert_eq!(answer, Some(row(LedgerState::Claimed, at(0, 5), false)));

    let mut of_another_topic = holder(at(0, 5));
    of_another_topic.topic = "orders".into();
    seizing.seize_from = Some(of_another_topic);
    let answer = database.claim_one(seizing.clone()).await;
    assert_eq!(answer, Some(row(LedgerState::Claimed, at(0, 5), false)));

    seizing.seize_from = Some(holder(at(0, 5)));
    let answer = database.claim_one(seizing.clone()).await;
    assert_eq!(answer, Some(row(LedgerState::Claimed, at(1, 1), false)));

    database.postgres.done(&[settlement("1", at(1, 1), epoch)]).await.unwrap();
    let mut late = claim("1", at(0, 7), epoch);
    late.seize_from = Some(holder(at(1, 1)));
    let answer = database.claim_one(late).await;
    assert_eq!(answer, Some(row(LedgerState::Done, at(1, 1), false)));
}

#[tokio::test]
async fn a_claim_is_never_seized_from_a_holder_that_has_claimed_again_since_it_was_judged() {
    let database = test_database().await;
    let (there, here) = (database.raise(0).await, database.raise(1).await);
    let claiming = |epoch, serial| Claim { serial: Serial(serial), ..claim("1", at(0, 5), epoch) };
    database.claim_one(claiming(there, 3)).await;
    let mut seizing = claim("1", at(1, 1), here);
    let judged = database.claim_one(seizing.clone()).await.unwrap().holder;
    assert_eq!((judged.epoch, judged.serial), (there, Serial(3)));
    seizing.seize_from = Some(judged);
    // By the same owner, which goes on with it; then by the next one, which has counted as far as the first by chance.
    for (is_next, serial) in [(false, 4), (true, 3)] {
        let owner = if is_next { database.raise(0).await } else { there };
        database.claim_one(claiming(owner, serial)).await;
        let found = database.claim_one(seizing.clone()).await.unwrap().holder;
        assert_eq!((found.coordinates, found.epoch, found.serial), (at(0, 5), owner, Serial(serial)));
    }
}

#[tokio::test]
async fn the_holder_of_another_topic_comes_back_by_its_name() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let elsewhere = database.another_group(crate::ledger::fixture::GROUP, "orders_v1");
    let other_epoch = elsewhere.raise(&[(Partition(0), Offset(0))], "worker").await.unwrap()[0].1.epoch;
    elsewhere.claim(&[claim("1", at(0, 5), other_epoch)]).await.unwrap();
    let answer = database.claim_one(claim("1", at(0, 5), epoch)).await.unwrap();
    assert_eq!(&*answer.holder.topic, "orders_v1");
    assert_eq!(answer.state, LedgerState::Claimed);
}

#[tokio::test]
async fn groups_do_not_know_each_others_orders() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    prepare(&database, LedgerState::Done, epoch).await;
    let other = database.another_group("invoices", crate::ledger::fixture::TOPIC);
    let epoch = other.raise(&[(Partition(0), Offset(0))], "worker").await.unwrap()[0].1.epoch;
    let found = other.claim(&[claim("1", at(0, 5), epoch)]).await.unwrap();
    assert!(found[0].1.inserted);
}

#[tokio::test]
async fn a_fenced_claim_does_not_come_back_and_leaves_nothing() {
    let database = test_database().await;
    let old = database.raise(0).await;
    let other = database.raise(1).await;
    let new = database.raise(0).await;
    let batch =
        [claim("1", at(0, 5), old), claim("2", at(1, 6), other), claim("3", at(0, 7), new), claim("4", at(2, 8), new)];
    let found = database.postgres.claim(&batch).await.unwrap();
    let mut tickets: Vec<Ticket> = found.iter().map(|(ticket, _)| *ticket).collect();
    tickets.sort_unstable();
    assert_eq!(tickets, [Ticket(6), Ticket(7)]);
    assert_eq!(database.ledger("1").await, "none");
    assert_eq!(database.ledger("4").await, "none");
}

#[tokio::test]
async fn a_claim_waits_for_a_raise_under_way_and_is_then_fenced() {
    let database = test_database().await;
    let old = database.raise(0).await;
    let mut raise = database.tables.begin().await.unwrap();
    sqlx::query("UPDATE partition_epochs SET epoch = epoch + 1").execute(&mut *raise).await.unwrap();
    let postgres = database.postgres.clone();
    let claiming = tokio::spawn(async move { postgres.claim(&[claim("1", at(0, 5), old)]).await });
    database.until_blocked(1).await;
    raise.commit().await.unwrap();
    assert_eq!(claiming.await.unwrap().unwrap(), []);
    assert_eq!(database.ledger("1").await, "none");
}

#[tokio::test]
async fn what_the_table_cannot_hold_is_bad_data() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let cases = [("a\0b".to_owned(), "22021"), ("x".repeat(256), "23514"), (String::new(), "23514")];
    for (order_id, code) in cases {
        let batch = [claim("fine", at(0, 1), epoch), claim(&order_id, at(0, 2), epoch)];
        match database.postgres.claim(&batch).await {
            Err(LedgerFailure::BadData(message)) => assert!(message.contains(code), "{message}"),
            other => panic!("{order_id:?}: {other:?}"),
        }
        assert_eq!(database.ledger("fine").await, "none");
    }
    let longest = "x".repeat(255);
    assert!(database.claim_one(claim(&longest, at(0, 3), epoch)).await.is_some());
}

#[tokio::test]
async fn a_thousand_claims_are_one_statement() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let batch: Vec<_> = (0..1_000).map(|n| claim(&format!("order-{n}"), at(0, n), epoch)).collect();
    let found = database.postgres.claim(&batch).await.unwrap();
    assert_eq!(found.len(), 1_000);
    for (ticket, row) in &found {
        assert_eq!(ticket.0, row.holder.coordinates.offset.0.unsigned_abs());
        assert!(row.inserted);
    }
    let transactions = "SELECT count(DISTINCT xmin::text)::text FROM processed_orders";
    assert_eq!(database.look(transactions).await, "1");
    assert_eq!(database.postgres.claim(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn of_two_that_insert_an_identity_at_once_the_later_is_repeated_and_finds_the_row() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.raise(1).await;
    let mut first = database.tables.begin().await.unwrap();
    let inserting = "INSERT INTO processed_orders (consumer_group, order_id, event_type, state, fingerprint, topic, kpartition,
                            koffset, epoch, serial)
                     SELECT consumer_group, '1', 'ORDER_CREATED', 'c', decode(repeat('07', 32), 'hex'), topic, 0, 5, epoch, 0
                       FROM partition_epochs WHERE kpartition = 0";
    sqlx::query(inserting).execute(&mut *first).await.unwrap();
    let batch = [claim("1", at(1, 2), epoch), claim("2", at(1, 3), epoch)];
    let (postgres, later) = (database.postgres.clone(), batch.clone());
    let claiming = tokio::spawn(async move { postgres.claim(&later).await });
    database.until_blocked(1).await;
    first.commit().await.unwrap();
    match claiming.await.unwrap() {
        Err(LedgerFailure::Conflict(message)) => assert!(message.contains("23505"), "{message}"),
        other => panic!("{other:?}"),
    }
    let found = database.postgres.claim(&batch).await.unwrap();
    let mut found: Vec<_> = found.into_iter().map(|(ticket, row)| (ticket, wherever_it_is(row))).collect();
    found.sort_by_key(|(ticket, _)| *ticket);
    let held = row(LedgerState::Claimed, at(0, 5), false);
    assert_eq!(found, [(Ticket(2), held), (Ticket(3), row(LedgerState::Claimed, at(1, 3), true))]);
}

#[tokio::test]
async fn claimers_of_the_same_orders_in_other_orders_do_not_deadlock() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.raise(1).await;
    let forward: Vec<_> = (0..200).map(|n| claim(&format!("{n}"), at(0, n), epoch)).collect();
    let backward: Vec<_> = (0..200).rev().map(|n| claim(&format!("{n}"), at(1, n), epoch)).collect();
    let run = |batch: Vec<herald::core::effect::Claim>| {
        let postgres = database.postgres.clone();
        tokio::spawn(async move {
            for round in 0..20 {
                match postgres.claim(&batch).await {
                    Ok(found) => assert_eq!(found.len(), 200),
                    // Both inserted them at once. From then on they are there.
                    Err(LedgerFailure::Conflict(error)) => assert!(round == 0 && error.contains("23505"), "{error}"),
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
    };
    let (one, other) = (run(forward), run(backward));
    one.await.unwrap();
    other.await.unwrap();
    let holders = "SELECT count(*)::text FROM processed_orders WHERE state = 'c'";
    assert_eq!(database.look(holders).await, "200");
}

#[tokio::test]
async fn without_prepared_statements_nothing_is_prepared_and_all_is_committed() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let postgres = database.without_prepared_statements();
    let found = postgres.claim(&[claim("1", at(0, 5), epoch)]).await.unwrap();
    assert!(found[0].1.inserted);
    postgres.done(&[settlement("1", at(0, 5), epoch)]).await.unwrap();
    postgres.end_clean(&[(Partition(0), epoch)]).await.unwrap();
    assert_eq!(database.ledger("1").await, "d 0/5 e1");
    let refused = postgres.claim(&[claim("a\0b", at(0, 6), epoch)]).await;
    assert!(matches!(refused, Err(LedgerFailure::BadData(_))));
    assert_eq!(postgres.claim(&[claim("2", at(0, 7), epoch)]).await.unwrap().len(), 1);
    assert_eq!(database.ledger("2").await, "c 0/7 e1");
}
