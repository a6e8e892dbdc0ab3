use herald::core::effect::Start;
use herald::core::input::{LedgerState, Ticket};
use herald::core::record::{Coordinates, Epoch};

use crate::ledger::fixture::{TestDatabase, at, claim, dead_letter, holder, parking, row, settlement, test_database};

fn start(order_id: &str, coordinates: Coordinates, epoch: Epoch, starts: u16) -> Start {
    Start { settlement: settlement(order_id, coordinates, epoch), starts }
}

async fn starts(database: &TestDatabase) -> String {
    database.look("SELECT string_agg(order_id || ':' || starts, ' ' ORDER BY order_id) FROM processed_orders").await
}

#[tokio::test]
async fn a_start_is_there_for_the_next_owner_and_may_be_repeated() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    for _ in 0..2 {
        assert_eq!(database.postgres.start(&[start("1", at(0, 5), epoch, 1)]).await.unwrap(), [Ticket(5)]);
    }
    let next = database.raise(0).await;
    let mut expected = row(LedgerState::Claimed, at(0, 5), false);
    expected.starts = 1;
    assert_eq!(database.claim_one(claim("1", at(0, 5), next)).await, Some(expected));
    database.postgres.start(&[start("1", at(0, 5), next, 0)]).await.unwrap();
    assert_eq!(starts(&database).await, "1:0");
}

#[tokio::test]
async fn what_is_fenced_settled_or_of_another_copy_does_not_start() {
    let database = test_database().await;
    let old = database.raise(0).await;
    let epoch = database.raise(0).await;
    let claims: Vec<_> = (1..=4).map(|n| claim(&n.to_string(), at(0, n), epoch)).collect();
    database.postgres.claim(&claims).await.unwrap();
    database.postgres.done(&[settlement("2", at(0, 2), epoch)]).await.unwrap();
    database.postgres.bury(&[dead_letter("3", at(0, 3), epoch)]).await.unwrap();
    let batch = [
        start("1", at(0, 1), old, 1),
        start("2", at(0, 2), epoch, 1),
        start("3", at(0, 3), epoch, 1),
        start("4", at(0, 9), epoch, 1),
    ];
    assert_eq!(database.postgres.start(&batch).await.unwrap(), []);
    assert_eq!(starts(&database).await, "1:0 2:0 3:0 4:0");
}

#[tokio::test]
async fn a_parked_record_starts_too_and_parking_it_again_says_that_it_ended() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    database.postgres.park(&[parking("1", at(0, 5), epoch)]).await.unwrap();
    let next = database.raise(0).await;
    assert_eq!(database.postgres.start(&[start("1", at(0, 5), next, 1)]).await.unwrap(), [Ticket(5)]);
    assert_eq!(database.ledger("1").await, format!("p 0/5 e{}", next.0));
    database.postgres.park(&[parking("1", at(0, 5), next)]).await.unwrap();
    assert_eq!(starts(&database).await, "1:0");
}

#[tokio::test]
async fn a_copy_that_seizes_a_claim_knows_that_it_was_started_and_one_that_claims_a_dead_order_begins_afresh() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    for (order_id, offset) in [("1", 1), ("2", 2)] {
        database.claim_one(claim(order_id, at(0, offset), epoch)).await;
        database.postgres.start(&[start(order_id, at(0, offset), epoch, 1)]).await.unwrap();
    }
    database.postgres.bury(&[dead_letter("2", at(0, 2), epoch)]).await.unwrap();
    let mut seizing = claim("1", at(0, 7), epoch);
    seizing.seize_from = Some(holder(at(0, 1)));
    assert_eq!(database.claim_one(seizing).await.unwrap().starts, 1);
    let again = database.claim_one(claim("2", at(0, 8), epoch)).await.unwrap();
    assert_eq!((again.holder.coordinates, again.starts), (at(0, 8), 0));
}
