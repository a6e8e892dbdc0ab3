use std::time::Duration;

use herald::core::effect::Settlement;
use herald::core::input::{LedgerRow, LedgerState, Ticket};
use herald::core::record::Partition;

use crate::ledger::fixture::{
    CONTENT, OTHER_CONTENT, at, claim, dead_letter, holder, parking, row, settlement, test_database,
};

#[tokio::test]
async fn a_late_success_of_an_old_epoch_counts() {
    let database = test_database().await;
    let old = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), old)).await;
    let new = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), new)).await;
    database.postgres.done(&[settlement("1", at(0, 5), old)]).await.unwrap();
    let found = database.claim_one(claim("1", at(0, 5), new)).await;
    assert_eq!(found, Some(row(LedgerState::Done, at(0, 5), false)));
}

#[tokio::test]
async fn a_success_is_written_even_where_the_claim_is_gone() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.postgres.done(&[settlement("1", at(0, 5), epoch)]).await.unwrap();
    assert_eq!(database.ledger("1").await, "d 0/5 e1");
}

#[tokio::test]
async fn settling_again_changes_nothing() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let done = [settlement("1", at(0, 5), epoch)];
    database.postgres.done(&done).await.unwrap();
    let before = database.look("SELECT settled_at::text || ctid FROM processed_orders").await;
    database.postgres.done(&done).await.unwrap();
    let mut other = settlement("1", at(0, 9), epoch);
    other.fingerprint = OTHER_CONTENT;
    database.postgres.done(&[other]).await.unwrap();
    let after = database.look("SELECT settled_at::text || ctid FROM processed_orders").await;
    assert_eq!(before, after);
    database.postgres.done(&[]).await.unwrap();
}

#[tokio::test]
async fn the_ledger_names_the_copy_that_was_notified() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.raise(1).await;
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    database.postgres.done(&[settlement("1", at(1, 2), epoch)]).await.unwrap();
    assert_eq!(database.ledger("1").await, "d 1/2 e1");
    database.postgres.done(&[settlement("1", at(0, 5), epoch)]).await.unwrap();
    assert_eq!(database.ledger("1").await, "d 1/2 e1");
}

#[tokio::test]
async fn success_resolves_the_dead_letter_of_the_same_order_and_no_other() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let dead = [dead_letter("1", at(0, 5), epoch), dead_letter("2", at(0, 6), epoch)];
    database.postgres.bury(&dead).await.unwrap();
    database.claim_one(claim("1", at(0, 9), epoch)).await;
    database.postgres.done(&[settlement("1", at(0, 9), epoch), settlement("3", at(0, 10), epoch)]).await.unwrap();
    let states = "SELECT string_agg(order_id || ' ' || state || ' ' || (closed_at IS NOT NULL), ', ' ORDER BY id) FROM dead_letters";
    assert_eq!(database.look(states).await, "1 resolved true, 2 open false");
}

#[tokio::test]
async fn a_discarded_dead_letter_stays_discarded() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.postgres.bury(&[dead_letter("1", at(0, 5), epoch)]).await.unwrap();
    database.execute("UPDATE dead_letters SET state = 'discarded'").await;
    database.claim_one(claim("1", at(0, 9), epoch)).await;
    database.postgres.done(&[settlement("1", at(0, 9), epoch)]).await.unwrap();
    assert_eq!(database.look("SELECT state FROM dead_letters").await, "discarded");
}

#[tokio::test]
async fn a_dead_letter_written_while_the_success_waited_is_resolved_too() {
    let database = test_database().await;
    let old = database.raise(0).await;
    let success = database.claim_to_settle(claim("1", at(0, 5), old)).await;
    // A burial that has written its rows and not yet committed, as the statement of `bury` would.
    let mut burial = database.tables.begin().await.unwrap();
    let ledger = "UPDATE processed_orders SET state = 'x', buried = true";
    sqlx::query(ledger).execute(&mut *burial).await.unwrap();
    let letter =
        "INSERT INTO dead_letters (consumer_group, topic, kpartition, koffset, record, order_id, event_type, reason,
                         class, error, bug, attempts, first_failed_at, last_failed_at, failed_at)
                  SELECT consumer_group, topic, kpartition, koffset, '', order_id, event_type, 'permanent',
                         'permanent', '', '', 1, now(), now(), now() FROM processed_orders";
    sqlx::query(letter).execute(&mut *burial).await.unwrap();
    let postgres = database.postgres.clone();
    let late = tokio::spawn(async move { postgres.done(&[success]).await });
    database.until_blocked(1).await;
    burial.commit().await.unwrap();
    late.await.unwrap().unwrap();
    assert_eq!(database.ledger("1").await, "d 0/5 e1");
    assert_eq!(database.look("SELECT state FROM dead_letters").await, "resolved");
}

#[tokio::test]
async fn a_row_that_has_moved_since_its_claim_is_settled_all_the_same() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    for moving in ["UPDATE processed_orders SET starts = 1", "VACUUM FULL processed_orders"] {
        database.execute("TRUNCATE processed_orders").await;
        database.claim_one(claim("0", at(0, 4), epoch)).await;
        let success = database.claim_to_settle(claim("1", at(0, 5), epoch)).await;
        // VACUUM FULL moves the other row to where this one was.
        database.execute("DELETE FROM processed_orders WHERE order_id = '0'").await;
        database.execute(moving).await;
        database.postgres.done(&[success]).await.unwrap();
        assert_eq!(database.ledger("1").await, "d 0/5 e1", "{moving}");
        assert_eq!(database.look("SELECT count(*)::text FROM processed_orders").await, "1");
    }
}

#[tokio::test]
async fn another_row_at_the_address_is_left_alone() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let mut success = database.claim_to_settle(claim("1", at(0, 5), epoch)).await;
    success.address = database.claim_to_settle(claim("2", at(0, 6), epoch)).await.address;
    database.postgres.done(&[success]).await.unwrap();
    assert_eq!(database.ledger("1").await, "d 0/5 e1");
    assert_eq!(database.ledger("2").await, "c 0/6 e1");
}

#[tokio::test]
async fn two_settlements_of_the_same_coordinates_are_both_written() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let polled = database.claim_to_settle(claim("1", at(0, 5), epoch)).await;
    // The other is replayed, and of the topic before it was recreated.
    database.postgres.done(&[polled, settlement("2", at(0, 5), epoch)]).await.unwrap();
    assert_eq!(database.ledger("1").await, "d 0/5 e1");
    assert_eq!(database.ledger("2").await, "d 0/5 e1");
}

#[tokio::test]
async fn a_row_that_is_written_while_its_settlement_waits_is_settled_all_the_same() {
    let writes = [
        "UPDATE processed_orders SET starts = 1",
        "UPDATE processed_orders SET koffset = 9",
        "UPDATE processed_orders SET epoch = 0",
        "UPDATE processed_orders SET state = 'p'",
        "DELETE FROM processed_orders",
    ];
    let database = test_database().await;
    let epoch = database.raise(0).await;
    for write in writes {
        database.execute("TRUNCATE processed_orders").await;
        let success = database.claim_to_settle(claim("1", at(0, 5), epoch)).await;
        let mut writing = database.tables.begin().await.unwrap();
        sqlx::query(write).execute(&mut *writing).await.unwrap();
        let postgres = database.postgres.clone();
        let settling = tokio::spawn(async move { postgres.done(&[success]).await });
        database.until_blocked(1).await;
        writing.commit().await.unwrap();
        settling.await.unwrap().unwrap();
        assert_eq!(database.ledger("1").await, "d 0/5 e1", "{write}");
    }
}

#[tokio::test]
async fn every_settle_is_a_hot_update_without_a_search_also_by_plans_of_an_empty_table() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    for round in 0..5 {
        let orders = round * 1_000..(round + 1) * 1_000;
        let claims: Vec<_> = orders.map(|n| claim(&n.to_string(), at(0, n), epoch)).collect();
        let found = database.postgres.claim(&claims).await.unwrap();
        let settle = |(ticket, row): (Ticket, LedgerRow)| Settlement {
            address: row.address,
            ..settlement(&ticket.0.to_string(), row.holder.coordinates, epoch)
        };
        let done: Vec<_> = found.into_iter().map(settle).collect();
        database.postgres.done(&done).await.unwrap();
    }
    database.postgres.close().await;
    let updates = "SELECT n_tup_upd || ' updates, ' || n_tup_hot_upd || ' hot, ' || idx_scan || ' searches, ' || seq_scan || ' scans'
                     FROM pg_stat_user_tables
                    WHERE relname = 'processed_orders'";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !database.look(updates).await.starts_with("5000 updates") {
        assert!(tokio::time::Instant::now() < deadline, "{}", database.look(updates).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        database.look(updates).await,
        "5000 updates, 5000 hot, 5000 searches, 0 scans",
        "one search for each claim"
    );
    assert_eq!(database.look("SELECT state FROM processed_orders GROUP BY state").await, "d");
    let partitions = [Partition(0)];
    assert!(database.postgres.read(&partitions).await.is_err(), "closed");
}

#[tokio::test]
async fn a_success_that_comes_late_leaves_other_content_that_is_parked_since_to_be_told() {
    let database = test_database().await;
    let (there, here) = (database.raise(1).await, database.raise(0).await);
    let parked = "SELECT string_agg(order_id, ', ' ORDER BY order_id) FROM parked_events";
    for (order_id, content) in [("1", CONTENT), ("2", OTHER_CONTENT)] {
        database.claim_one(claim(order_id, at(1, 3), there)).await;
        let mut seizing = claim(order_id, at(0, 5), here);
        (seizing.fingerprint, seizing.seize_from) = (content, Some(holder(at(1, 3))));
        database.claim_one(seizing).await;
        let mut parking = parking(order_id, at(0, 5), here);
        parking.settlement.fingerprint = content;
        assert_eq!(database.postgres.park(&[parking]).await.unwrap(), [Ticket(5)]);
    }
    let late = ["1", "2"].map(|order_id| Settlement { was_parked: true, ..settlement(order_id, at(1, 3), there) });
    database.postgres.done(&late).await.unwrap();
    assert_eq!(database.ledger("1").await, "d 1/3 e1");
    assert_eq!(database.ledger("2").await, "p 0/5 e1");
    assert_eq!(database.look(parked).await, "1, 2", "what is parked of the first is removed when it is read");
}
