//! A replay whose order somebody else has settled meanwhile: an owner that was cut off comes back, and its success is a fact. The row
//! of the replay is nobody's from then on, and stands in no one's way.

use std::time::{Duration, UNIX_EPOCH};

use herald::core::effect::{ParkedKey, Parking};
use herald::core::failure::Reason;
use herald::core::input::ReplayRow;
use herald::core::record::{Epoch, Partition, Timestamp};
use herald::postgres::RebuiltLetter;

use super::Office;
use super::racing::{running, scheduling};
use crate::ledger::fixture::{CONTENT, KEY, at, claim, identity, parking, record, settlement};

const PARKED: &str = "SELECT count(*)::text FROM parked_events";

/// The letters of these orders were scheduled; then the first owner's success of order 1 comes, who had read it from Kafka.
async fn with_a_late_success(orders: &[i64]) -> (Office, i64) {
    let office = Office::with_letters(u32::try_from(orders.len()).unwrap()).await;
    let replay = running(&office.operator("ana"), orders).await;
    let letters: Vec<_> = (1..).zip(orders).map(|(place, number)| scheduling(place, *number)).collect();
    office.database.postgres.schedule(replay, &letters).await.unwrap();
    office.database.execute("UPDATE parked_events SET due_at = now() - interval '1 second'").await;
    office.database.postgres.done(&[settlement("1", at(0, 1), Epoch(1))]).await.unwrap();
    assert_eq!((&*office.state("1").await, &office.database.ledger("1").await[..1]), ("resolved", "d"));
    (office, replay)
}

async fn read(office: &Office, epoch: Epoch, limit: usize) -> Vec<i64> {
    let rows = office.database.postgres.load_replays(&[(Partition(0), epoch)], &[], limit).await.unwrap();
    rows.iter().map(|ReplayRow { row, .. }| row.record.coordinates.offset.0).collect()
}

#[tokio::test]
async fn a_replay_of_an_order_that_was_notified_meanwhile_is_removed_however_large_it_is() {
    let (office, _) = with_a_late_success(&[1, 2]).await;
    let large =
        "UPDATE parked_events SET record = record || convert_to(repeat('x', 5000000), 'UTF8') WHERE koffset = 1";
    office.database.execute(large).await;
    let epoch = office.database.raise(0).await;
    assert_eq!(read(&office, epoch, 200).await, [2]);
    assert_eq!(office.database.look(PARKED).await, "1");
}

#[tokio::test]
async fn it_is_removed_whatever_became_of_the_replay() {
    let (office, replay) = with_a_late_success(&[1]).await;
    office.operator("ana").cancel_replay(replay).await.unwrap();
    office.database.postgres.take_back_cancelled().await.unwrap();
    let epoch = office.database.raise(0).await;
    assert_eq!(read(&office, Epoch(epoch.0 - 1), 200).await, Vec::<i64>::new());
    assert_eq!(office.database.look(PARKED).await, "1", "an owner of before removes nothing");
    assert_eq!(read(&office, epoch, 200).await, Vec::<i64>::new());
    assert_eq!(office.database.look(PARKED).await, "0");
}

#[tokio::test]
async fn a_record_that_is_parked_in_its_place_is_a_retry() {
    let (office, _) = with_a_late_success(&[1]).await;
    let epoch = office.database.raise(0).await;
    // The ledger has forgotten it, and the topic is read again.
    office.database.execute("DELETE FROM processed_orders").await;
    office.database.claim_one(claim("1", at(0, 1), epoch)).await.unwrap();
    let again = Parking { attempts: 1, ..parking("1", at(0, 1), epoch) };
    assert_eq!(office.database.postgres.park(&[again]).await.unwrap().len(), 1);
    assert_eq!(read(&office, epoch, 200).await, Vec::<i64>::new());
    let key = ParkedKey { partition: Partition(0), epoch, key: KEY };
    let lanes = office.database.postgres.load_parked(&[key]).await.unwrap();
    assert_eq!(lanes[0].rows.iter().map(|row| row.attempts).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_replay_that_is_parked_again_stays_one() {
    let office = Office::with_letters(1).await;
    let replay = running(&office.operator("ana"), &[1]).await;
    office.database.postgres.schedule(replay, &[scheduling(1, 1)]).await.unwrap();
    let epoch = office.database.raise(0).await;
    let mut again = parking("1", at(0, 1), epoch);
    again.settlement.was_parked = true;
    assert_eq!(office.database.postgres.park(&[again]).await.unwrap().len(), 1);
    assert_eq!(office.database.look("SELECT run_id::text FROM parked_events").await, replay.to_string());
}

/// The order as the dead-letter topic tells of it.
fn told_by_the_topic(offset: i64) -> RebuiltLetter {
    let now = i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    RebuiltLetter {
        identity: identity("1"),
        fingerprint: CONTENT,
        record: record(at(0, offset), "1"),
        reason: Reason::Permanent,
        class: "permanent".to_owned(),
        error: "422".to_owned(),
        attempts: 1,
        replays: 0,
        first_failed_at: Timestamp(now - 1_000),
        last_failed_at: Timestamp(now - 1_000),
    }
}

#[tokio::test]
async fn a_letter_that_came_back_from_the_topic_is_scheduled_in_its_place() {
    let (office, _) = with_a_late_success(&[1]).await;
    let epoch = office.database.raise(0).await;
    office.database.execute("DELETE FROM processed_orders").await;
    office.database.execute("DELETE FROM dead_letters").await;
    office.database.execute("UPDATE parked_events SET loaded_at = now(), attempts = 7").await;
    let letter = told_by_the_topic(9);
    assert_eq!(office.database.postgres.rebuild_letters(&[letter], Duration::from_hours(1)).await.unwrap(), 1);
    let id: i64 = office.database.look("SELECT id::text FROM dead_letters").await.parse().unwrap();
    let replay = running(&office.operator("ana"), &[id]).await;
    let mut letter = scheduling(1, 1);
    (letter.id, letter.record.coordinates) = (id, at(0, 9));
    office.database.postgres.schedule(replay, &[letter]).await.unwrap();
    let row = "SELECT format('%s %s %s %s', run_id, koffset, attempts, loaded_at IS NULL) FROM parked_events";
    assert_eq!(office.database.look(row).await, format!("{replay} 9 0 t"));
    assert_eq!(read(&office, epoch, 200).await, [9]);
}
