//! Letters that a worker schedules belong to the owner of their partition, whatever had counted the owner of the row before.

use herald::core::effect::{Parking, Serial, Settlement};
use herald::core::input::LedgerState;
use herald::core::record::{Coordinates, Epoch};
use herald::postgres::Scheduling;

use super::Office;
use super::racing::{running, scheduling};
use crate::ledger::fixture::{at, claim, dead_letter, identity, parking};
use crate::ledger::starts::numbered;

/// Parks a replayed order as the owner of its partition does whose try failed. Says whether that was accepted.
async fn parks(office: &Office, order_id: &str, at: Coordinates, epoch: Epoch, serial: u64) -> bool {
    let parking = parking(order_id, at, epoch);
    let settlement = Settlement { was_parked: true, ..numbered(serial, parking.settlement.clone()) };
    let parking = Parking { settlement, ..parking };
    office.database.postgres.park(&[parking]).await.unwrap().len() == 1
}

/// Says whether that was accepted.
async fn buries(office: &Office, order_id: &str, at: Coordinates, epoch: Epoch, serial: u64) -> bool {
    let mut letter = dead_letter(order_id, at, epoch);
    letter.settlement = Settlement { was_parked: true, ..numbered(serial, letter.settlement) };
    office.database.postgres.bury(&[letter]).await.unwrap().len() == 1
}

#[tokio::test]
async fn a_replayed_order_is_parked_by_an_owner_that_has_counted_less_than_the_one_before_it() {
    let office = Office::with_letters(0).await;
    let before = office.database.raise(0).await;
    office.database.claim_one(claim("1", at(0, 1), before)).await.unwrap();
    assert!(parks(&office, "1", at(0, 1), before, 1_000_000).await);
    let epoch = office.database.raise(0).await;
    assert!(buries(&office, "1", at(0, 1), epoch, 1).await);
    let plan = running(&office.operator("ana"), &[1]).await;
    office.database.postgres.schedule(plan, &[scheduling(1, 1)]).await.unwrap();
    assert_eq!(office.database.ledger("1").await, format!("p 0/1 e{}", epoch.0));
    assert!(parks(&office, "1", at(0, 1), epoch, 2).await);
    assert!(!parks(&office, "1", at(0, 1), epoch, 1).await, "one that comes late");
}

#[tokio::test]
async fn an_order_that_is_scheduled_from_another_partition_owes_nothing_to_what_was_counted_there() {
    let office = Office::with_letters(1).await;
    let epoch = office.database.raise(1).await;
    let mut claiming = claim("2", at(1, 7), epoch);
    claiming.serial = Serial(900);
    office.database.claim_one(claiming).await.unwrap();
    assert!(buries(&office, "2", at(1, 7), epoch, 901).await);
    // The first letter is read as the order of the second by now. Epochs are counted for each partition: these are equal.
    let plan = running(&office.operator("ana"), &[1]).await;
    let letter = Scheduling { identity: identity("2"), ..scheduling(1, 1) };
    office.database.postgres.schedule(plan, &[letter]).await.unwrap();
    assert_eq!(office.database.ledger("2").await, "p 0/1 e0");
    assert!(parks(&office, "2", at(0, 1), epoch, 3).await);
}

/// It was carried out, its answer was lost, and an operator was faster than its repetition.
#[tokio::test]
async fn a_burial_that_is_repeated_or_comes_late_leaves_an_order_that_was_scheduled_since_to_its_replay() {
    let office = Office::with_letters(0).await;
    let epoch = office.database.raise(0).await;
    office.database.claim_one(claim("1", at(0, 1), epoch)).await.unwrap();
    assert!(parks(&office, "1", at(0, 1), epoch, 1).await);
    for (serial, plan) in [(2, 1), (4, 2)] {
        assert!(buries(&office, "1", at(0, 1), epoch, serial).await);
        assert!(buries(&office, "1", at(0, 1), epoch, serial).await, "the same failure");
        assert_eq!(running(&office.operator("ana"), &[1]).await, plan);
        office.database.postgres.schedule(plan, &[scheduling(1, 1)]).await.unwrap();
        for late in 1..=serial {
            assert!(!buries(&office, "1", at(0, 1), epoch, late).await, "{late}");
        }
        assert_eq!(office.database.ledger("1").await, format!("p 0/1 e{}", epoch.0));
        assert_eq!(office.state("1").await, "replaying");
    }
}

#[tokio::test]
async fn a_parking_that_is_repeated_or_comes_late_leaves_a_replay_as_it_was_scheduled_since() {
    let office = Office::with_letters(1).await;
    let epoch = office.database.raise(0).await;
    let ana = office.operator("ana");
    let first = running(&ana, &[1]).await;
    office.database.postgres.schedule(first, &[scheduling(1, 1)]).await.unwrap();
    assert!(parks(&office, "1", at(0, 1), epoch, 2).await);
    assert!(parks(&office, "1", at(0, 1), epoch, 2).await, "the same one");
    ana.cancel_replay(first).await.unwrap();
    office.database.postgres.take_back_cancelled().await.unwrap();
    let again = running(&ana, &[1]).await;
    office.database.postgres.schedule(again, &[scheduling(1, 1)]).await.unwrap();
    assert!(!parks(&office, "1", at(0, 1), epoch, 2).await);
    assert_eq!(office.database.look("SELECT attempts::text FROM parked_events").await, "0");
    assert!(parks(&office, "1", at(0, 1), epoch, 3).await, "its own");
}

#[tokio::test]
async fn a_claim_of_a_dead_order_that_comes_late_leaves_the_letter_that_was_scheduled_and_cancelled_since() {
    let office = Office::with_letters(1).await;
    let epoch = office.database.raise(0).await;
    let mut copy = claim("1", at(0, 9), epoch);
    let dead = office.database.claim_one(copy.clone()).await.unwrap();
    assert_eq!(dead.state, LedgerState::Dead);
    copy.seize_from = Some(dead.holder);
    let ana = office.operator("ana");
    let plan = running(&ana, &[1]).await;
    office.database.postgres.schedule(plan, &[scheduling(1, 1)]).await.unwrap();
    // The copy ends here: the order is parked.
    assert_eq!(office.database.claim_one(copy.clone()).await.unwrap().state, LedgerState::Parked);
    ana.cancel_replay(plan).await.unwrap();
    office.database.postgres.take_back_cancelled().await.unwrap();
    assert_eq!(office.database.claim_one(copy).await.unwrap().state, LedgerState::Dead);
    let again = running(&ana, &[1]).await;
    office.database.postgres.schedule(again, &[scheduling(1, 1)]).await.unwrap();
    assert_eq!(&office.database.ledger("1").await[..1], "p");
}
