use herald::core::effect::{Parking, Serial, Settlement, Start};
use herald::core::input::{Holder, LedgerState, Ticket};
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
    expected.holder.epoch = next;
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
    let mut again = claim("2", at(0, 8), epoch);
    again.seize_from = Some(holder(at(0, 2)));
    let again = database.claim_one(again).await.unwrap();
    assert_eq!((again.holder.coordinates, again.starts), (at(0, 8), 0));
}

pub(crate) fn numbered(serial: u64, settlement: Settlement) -> Settlement {
    Settlement { serial: Serial(serial), ..settlement }
}

/// A statement that was given up may still be carried out, after others of the same owner.
#[tokio::test]
async fn a_statement_that_comes_late_undoes_no_later_one_of_its_owner() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let at = at(0, 5);
    let mut claiming = claim("1", at, epoch);
    claiming.serial = Serial(1);
    database.claim_one(claiming).await;
    let start = |serial, starts| Start { settlement: numbered(serial, settlement("1", at, epoch)), starts };
    let park = |serial| {
        let parking = parking("1", at, epoch);
        Parking { settlement: numbered(serial, parking.settlement.clone()), ..parking }
    };
    // The failure of the first attempt is written twice: once before the second start, and once after it.
    for (serial, count, is_durable) in [(2, 1, true), (4, 0, true), (5, 1, true), (3, 0, false), (5, 1, true)] {
        let started = database.postgres.start(&[start(serial, count)]).await.unwrap();
        assert_eq!(!started.is_empty(), is_durable, "statement {serial}");
    }
    assert_eq!(starts(&database).await, "1:1", "a process that dies here may have notified");
    assert_eq!(database.postgres.park(&[park(6)]).await.unwrap(), [Ticket(5)]);
    assert_eq!(database.postgres.start(&[start(8, 1)]).await.unwrap(), [Ticket(5)]);
    assert_eq!(database.postgres.park(&[park(7)]).await.unwrap(), []);
    assert_eq!(starts(&database).await, "1:1");

    // What an owner counts says nothing to the next.
    let next = database.raise(0).await;
    let first = Start { settlement: numbered(1, settlement("1", at, next)), starts: 0 };
    assert_eq!(database.postgres.start(&[first]).await.unwrap(), [Ticket(5)]);
}

#[tokio::test]
async fn a_claim_that_was_yielded_and_taken_back_is_not_yielded_by_a_statement_that_comes_late() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let claiming = |serial| {
        let mut claiming = claim("1", at(0, 5), epoch);
        claiming.serial = Serial(serial);
        claiming
    };
    database.claim_one(claiming(1)).await;
    database.postgres.yield_claims(&[numbered(3, settlement("1", at(0, 5), epoch))]).await.unwrap();
    assert_eq!(database.ledger("1").await, "c 0/5 e0");
    database.claim_one(claiming(4)).await;
    database.postgres.yield_claims(&[numbered(2, settlement("1", at(0, 5), epoch))]).await.unwrap();
    assert_eq!(database.ledger("1").await, format!("c 0/5 e{}", epoch.0));
    // A claim that comes late makes no statement before the last one good again.
    database.claim_one(claiming(1)).await;
    database.postgres.yield_claims(&[numbered(3, settlement("1", at(0, 5), epoch))]).await.unwrap();
    assert_eq!(database.ledger("1").await, format!("c 0/5 e{}", epoch.0));
}

#[tokio::test]
async fn a_copy_that_takes_a_yielded_claim_knows_that_it_was_started() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    database.postgres.start(&[start("1", at(0, 5), epoch, 1)]).await.unwrap();
    let next = database.raise(0).await;
    assert_eq!(database.claim_one(claim("1", at(0, 5), next)).await.unwrap().starts, 1);
    database.postgres.yield_claims(&[settlement("1", at(0, 5), next)]).await.unwrap();
    let taken = database.claim_one(claim("1", at(0, 9), next)).await.unwrap();
    assert_eq!((taken.holder, taken.starts, taken.inserted), (Holder { epoch: next, ..holder(at(0, 9)) }, 1, false));
}

#[tokio::test]
async fn a_yielded_claim_is_neither_started_nor_parked_by_a_statement_that_comes_late() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    database.postgres.yield_claims(&[settlement("1", at(0, 5), epoch)]).await.unwrap();
    assert_eq!(database.postgres.start(&[start("1", at(0, 5), epoch, 1)]).await.unwrap(), []);
    assert_eq!(database.postgres.park(&[parking("1", at(0, 5), epoch)]).await.unwrap(), []);
    assert_eq!(database.ledger("1").await, "c 0/5 e0");
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    assert_eq!(database.postgres.start(&[start("1", at(0, 5), epoch, 1)]).await.unwrap(), [Ticket(5)]);
}

#[tokio::test]
async fn a_claim_that_is_taken_over_from_another_partition_counts_by_the_serials_of_its_own_owner() {
    let database = test_database().await;
    // Epochs are counted for each partition: these are equal, and say nothing of one another.
    let (there, here) = (database.raise(1).await, database.raise(0).await);
    assert_eq!(there, here);
    let mut claiming = claim("1", at(1, 3), there);
    claiming.serial = Serial(900);
    database.claim_one(claiming).await;
    let mut seizing = claim("1", at(0, 5), here);
    (seizing.serial, seizing.seize_from) = (Serial(7), Some(Holder { serial: Serial(900), ..holder(at(1, 3)) }));
    database.claim_one(seizing).await;
    let parking = parking("1", at(0, 5), here);
    let parking = Parking { settlement: numbered(8, parking.settlement.clone()), ..parking };
    assert_eq!(database.postgres.park(&[parking]).await.unwrap(), [Ticket(5)]);
}

#[tokio::test]
async fn what_an_owner_buried_counts_by_its_own_serials_whatever_the_owner_before_it_had_counted() {
    let database = test_database().await;
    let before = database.raise(0).await;
    for order_id in ["1", "2", "3"] {
        database.claim_one(claim(order_id, at(0, 5), before)).await;
        let parking = parking(order_id, at(0, 5), before);
        let parking = Parking { settlement: numbered(1_000_000, parking.settlement.clone()), ..parking };
        assert_eq!(database.postgres.park(&[parking]).await.unwrap(), [Ticket(5)]);
    }
    let epoch = database.raise(0).await;
    let numbers = "SELECT string_agg(format('%s e%s s%s', state, epoch, serial), ', ') FROM processed_orders";
    for order_id in ["1", "2", "3"] {
        let mut letter = dead_letter(order_id, at(0, 5), epoch);
        letter.settlement = Settlement { was_parked: true, ..numbered(1, letter.settlement) };
        assert_eq!(database.postgres.bury(&[letter]).await.unwrap(), [Ticket(5)]);
        let mut again = claim(order_id, at(0, 9), epoch);
        let dead = Holder { epoch, serial: Serial(1), ..holder(at(0, 5)) };
        (again.serial, again.seize_from) = (Serial(2), Some(dead));
        assert_eq!(database.claim_one(again).await.unwrap().holder.coordinates, at(0, 9));
    }
    assert_eq!(database.look(numbers).await, "c e2 s2, c e2 s2, c e2 s2");
    let of_copy = |order_id| numbered(3, settlement(order_id, at(0, 9), epoch));
    let parking = Parking { settlement: of_copy("1"), ..parking("1", at(0, 9), epoch) };
    assert_eq!(database.postgres.park(&[parking]).await.unwrap(), [Ticket(9)]);
    let start = Start { settlement: of_copy("2"), starts: 1 };
    assert_eq!(database.postgres.start(&[start]).await.unwrap(), [Ticket(9)]);
    database.postgres.yield_claims(&[of_copy("3")]).await.unwrap();
    assert_eq!(database.ledger("3").await, "c 0/9 e0");
}
