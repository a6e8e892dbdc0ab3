use std::time::Duration;

use herald::core::attempts::FailedAttempt;
use herald::core::effect::{ParkedKey, Parking};
use herald::core::input::{LedgerState, LoadedLane, Rest, Ticket};
use herald::core::key::LaneKey;
use herald::core::record::{Epoch, Offset, Partition};

use crate::ledger::fixture::{
    CONTENT, KEY, TestDatabase, at, claim, dead_letter, identity, parking, record, row, settlement, test_database,
};

const PARKED: &str = "SELECT coalesce(string_agg(order_id, ' ' ORDER BY koffset), 'none') FROM parked_events";

fn key(epoch: Epoch) -> ParkedKey {
    ParkedKey { partition: Partition(0), epoch, key: KEY }
}

async fn load(database: &TestDatabase, epoch: Epoch) -> Option<LoadedLane> {
    let mut lanes = database.postgres.load_parked(&[key(epoch)]).await.unwrap();
    assert!(lanes.len() <= 1);
    lanes.pop()
}

fn offsets(lane: &LoadedLane) -> Vec<i64> {
    lane.rows.iter().map(|row| row.record.coordinates.offset.0).collect()
}

/// Claims and parks orders of one key, named by their offsets.
async fn park_orders(database: &TestDatabase, epoch: Epoch, offsets: impl Iterator<Item = i64>) {
    let parkings: Vec<Parking> = offsets.map(|offset| parking(&offset.to_string(), at(0, offset), epoch)).collect();
    for batch in parkings.chunks(100) {
        let claims: Vec<_> = batch
            .iter()
            .map(|one| claim(&one.settlement.identity.order_id, one.settlement.coordinates, epoch))
            .collect();
        database.postgres.claim(&claims).await.unwrap();
        assert_eq!(database.postgres.park(batch).await.unwrap().len(), batch.len());
    }
}

#[tokio::test]
async fn a_parked_record_comes_back_byte_for_byte_with_what_is_known_of_it() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database.claim_one(claim("1", at(0, 5), epoch)).await;
    assert_eq!(database.postgres.park(&[parking("1", at(0, 5), epoch)]).await.unwrap(), [Ticket(5)]);
    assert_eq!(database.ledger("1").await, "p 0/5 e1");

    let keys = database.postgres.parked_keys(&[Partition(0), Partition(1)]).await.unwrap();
    let [lane] = &keys[&Partition(0)][..] else { panic!("{keys:?}") };
    assert_eq!((lane.key, lane.rows, keys.len()), (KEY, 1, 1));
    assert!(lane.due_in > Duration::from_secs(55) && lane.due_in <= Duration::from_mins(1), "{:?}", lane.due_in);

    let lane = load(&database, epoch).await.unwrap();
    let [parked] = &lane.rows[..] else { panic!("{lane:?}") };
    assert_eq!((&parked.identity, &parked.record, parked.attempts), (&identity("1"), &record(at(0, 5), "1"), 2));
    assert!(parked.first_failed_ago >= Duration::from_mins(5) && parked.first_failed_ago < Duration::from_mins(6));
    assert_eq!(parked.last_failed_ago, None);
    assert_eq!((lane.rest, lane.removed), (Rest::Nothing, 0));
}

#[tokio::test]
async fn parking_again_keeps_one_row_with_the_last_attempts_and_may_be_repeated() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    park_orders(&database, epoch, 5..6).await;
    let again = [Parking { attempts: 3, wait: Duration::ZERO, ..parking("5", at(0, 5), epoch) }];
    for _ in 0..2 {
        assert_eq!(database.postgres.park(&again).await.unwrap(), [Ticket(5)]);
    }
    let lane = load(&database, epoch).await.unwrap();
    assert_eq!((lane.rows.len(), lane.rows[0].attempts), (1, 3));
    assert_eq!(database.postgres.parked_keys(&[Partition(0)]).await.unwrap()[&Partition(0)][0].due_in, Duration::ZERO);
}

#[tokio::test]
async fn what_is_fenced_settled_or_of_others_is_neither_parked_nor_loaded() {
    let database = test_database().await;
    let old = database.raise(0).await;
    park_orders(&database, old, 1..2).await;
    let claims: Vec<_> = (2..=4).map(|n| claim(&n.to_string(), at(0, n), old)).collect();
    database.postgres.claim(&claims).await.unwrap();
    database.postgres.done(&[settlement("2", at(0, 2), old)]).await.unwrap();
    // Done, of other coordinates, and one that is its own.
    let parkings = [parking("2", at(0, 2), old), parking("3", at(0, 9), old), parking("4", at(0, 4), old)];
    assert_eq!(database.postgres.park(&parkings).await.unwrap(), [Ticket(4)]);
    assert_eq!(database.look(PARKED).await, "1 4");
    let epoch = database.raise(0).await;
    assert_eq!(database.postgres.park(&parkings).await.unwrap(), []);
    assert!(load(&database, old).await.is_none());
    assert_eq!(offsets(&load(&database, epoch).await.unwrap()), [1, 4]);
}

#[tokio::test]
async fn a_settlement_and_a_burial_remove_the_parked_row() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    park_orders(&database, epoch, 1..4).await;
    let done = herald::core::effect::Settlement { was_parked: true, ..settlement("1", at(0, 1), epoch) };
    database.postgres.done(&[done.clone(), settlement("9", at(0, 9), epoch)]).await.unwrap();
    assert_eq!(database.look(PARKED).await, "2 3");
    let mut dead = dead_letter("2", at(0, 2), epoch);
    dead.settlement.was_parked = true;
    database.postgres.bury(&[dead]).await.unwrap();
    assert_eq!(database.look(PARKED).await, "3");
    database.postgres.done(&[done]).await.unwrap();
    assert_eq!(database.look(PARKED).await, "3");
}

#[tokio::test]
async fn a_late_success_of_an_earlier_owner_is_found_when_the_key_is_loaded() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    park_orders(&database, epoch, 1..3).await;
    // It delivered what it had claimed before it was frozen, and knows nothing of a parked row.
    database.postgres.done(&[settlement("1", at(0, 1), epoch)]).await.unwrap();
    let lane = load(&database, epoch).await.unwrap();
    assert_eq!((offsets(&lane), lane.removed, lane.rest), (vec![2], 1, Rest::Nothing));
    assert_eq!(database.look(PARKED).await, "2");
    assert_eq!(load(&database, epoch).await.unwrap().removed, 0);
}

#[tokio::test]
async fn a_long_lane_is_loaded_in_parts_in_offset_order() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    park_orders(&database, epoch, (0..70).rev()).await;
    let mut seen = Vec::new();
    loop {
        let lane = load(&database, epoch).await.unwrap();
        let part = offsets(&lane);
        let done: Vec<_> = part
            .iter()
            .map(|offset| {
                let settlement = settlement(&offset.to_string(), at(0, *offset), epoch);
                herald::core::effect::Settlement { was_parked: true, ..settlement }
            })
            .collect();
        seen.extend(part);
        database.postgres.done(&done).await.unwrap();
        if lane.rest == Rest::Nothing {
            break;
        }
    }
    assert_eq!(seen, (0..70).collect::<Vec<_>>());
    assert_eq!(database.look(PARKED).await, "none");
    assert_eq!(load(&database, epoch).await.unwrap().rest, Rest::Nothing);
}

#[tokio::test]
async fn large_records_are_loaded_as_far_as_they_fit_and_at_least_one() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let large = "x".repeat(3 << 20);
    for offset in 0..3 {
        database.claim_one(claim(&offset.to_string(), at(0, offset), epoch)).await;
        let parking =
            Parking { record: record(at(0, offset), &large), ..parking(&offset.to_string(), at(0, offset), epoch) };
        database.postgres.park(&[parking]).await.unwrap();
    }
    let lane = load(&database, epoch).await.unwrap();
    assert_eq!((offsets(&lane), lane.rest), (vec![0], Rest::More));
}

#[tokio::test]
async fn of_large_records_that_of_the_key_that_was_asked_for_first_is_loaded() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let large = "x".repeat(3 << 20);
    let keys = [LaneKey(1), LaneKey(2), LaneKey(3)];
    for (offset, key) in (0..).zip(keys) {
        database.claim_one(claim(&offset.to_string(), at(0, offset), epoch)).await;
        let parking = parking(&offset.to_string(), at(0, offset), epoch);
        database.postgres.park(&[Parking { key, record: record(at(0, offset), &large), ..parking }]).await.unwrap();
    }
    for first in keys {
        let others = keys.into_iter().filter(|key| *key != first);
        let asked: Vec<_> =
            std::iter::once(first).chain(others).map(|key| ParkedKey { key, ..self::key(epoch) }).collect();
        let lanes = database.postgres.load_parked(&asked).await.unwrap();
        let loaded: Vec<_> = lanes.iter().filter(|lane| !lane.rows.is_empty()).map(|lane| lane.key).collect();
        assert_eq!(loaded, [first]);
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_holds_those_behind_it_and_no_other_key() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    park_orders(&database, epoch, 1..3).await;
    let other = LaneKey(5);
    database.claim_one(claim("other", at(0, 7), epoch)).await;
    database.postgres.park(&[Parking { key: other, ..parking("other", at(0, 7), epoch) }]).await.unwrap();
    database.execute(r"UPDATE parked_events SET record = '\xffff' WHERE order_id = '1'").await;
    let keys = [key(epoch), ParkedKey { key: other, ..key(epoch) }];
    let mut lanes = database.postgres.load_parked(&keys).await.unwrap();
    lanes.sort_by_key(|lane| lane.key);
    assert_eq!((offsets(&lanes[0]), lanes[0].rest), (vec![7], Rest::Nothing));
    assert_eq!((offsets(&lanes[1]), lanes[1].rest), (vec![], Rest::Unreadable));
    assert_eq!(database.look(PARKED).await, "1 2 other");
}

#[tokio::test]
async fn a_copy_of_a_parked_record_finds_it_parked() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    park_orders(&database, epoch, 1..2).await;
    let found = database.claim_one(claim("1", at(0, 8), epoch)).await.unwrap();
    assert_eq!(found, row(LedgerState::Parked, at(0, 1), false));
    assert_eq!(found.fingerprint, CONTENT);
}

#[tokio::test]
async fn a_claim_that_was_yielded_is_anybodys_until_its_holder_claims_it_again() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    for order in ["1", "2"] {
        database.claim_one(claim(order, at(0, 5), epoch)).await;
    }
    let claims = ["1", "2"].map(|order| settlement(order, at(0, 5), epoch));
    database.postgres.yield_claims(&claims).await.unwrap();
    let taken = database.claim_one(claim("1", at(0, 9), epoch)).await.unwrap();
    assert_eq!(taken, row(LedgerState::Claimed, at(0, 9), false));
    let again = database.claim_one(claim("2", at(0, 5), epoch)).await.unwrap();
    assert_eq!(again, row(LedgerState::Claimed, at(0, 5), false));
    // What others hold is not ours to yield.
    database.postgres.yield_claims(&claims[..1]).await.unwrap();
    let busy = database.claim_one(claim("1", at(0, 5), epoch)).await.unwrap();
    assert_eq!(busy.holder.coordinates.offset, Offset(9));
}

#[tokio::test]
async fn what_an_earlier_copy_left_behind_is_replaced_by_the_record_that_is_parked() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    let failed = FailedAttempt {
        number: 1,
        ago: Duration::from_hours(2),
        took: Duration::from_millis(5),
        class: "transient",
        error: "503".into(),
    };
    let failed_first = |offset| Parking { failures: vec![failed.clone()], ..parking("1", at(0, offset), epoch) };
    database.claim_one(claim("1", at(0, 1), epoch)).await;
    database.postgres.park(&[failed_first(1)]).await.unwrap();
    // Its ledger row was pruned, and the order comes again.
    database.execute("DELETE FROM processed_orders").await;
    database.claim_one(claim("1", at(0, 9), epoch)).await;
    database.postgres.park(&[failed_first(9)]).await.unwrap();
    let lane = load(&database, epoch).await.unwrap();
    assert_eq!((offsets(&lane), lane.removed), (vec![9], 0));
    assert_eq!(lane.rows[0].record, record(at(0, 9), "1"));
    assert!(lane.rows[0].last_failed_ago.is_some_and(|ago| ago >= Duration::from_hours(2)), "its own failure is kept");
}

#[tokio::test]
async fn the_parked_keys_of_a_partition_are_read_in_parts_and_none_is_missed_or_counted_twice() {
    let database = test_database().await;
    database
        .execute(
            "INSERT INTO parked_events (consumer_group, order_id, event_type, topic, kpartition, koffset, key_hash, attempts,
                    due_at, first_failed_at, record)
             SELECT 'notification_service_group', n, 'ORDER_CREATED', 'order_events', n % 2, n,
                    CASE WHEN n <= 50000 THEN -7 ELSE n END, 1, now() + n * interval '1 minute', now(), 'r'
               FROM generate_series(1, 75000) n",
        )
        .await;
    let keys = database.postgres.parked_keys(&[Partition(0), Partition(1), Partition(2)]).await.unwrap();
    assert_eq!(keys.len(), 2);
    let lanes = &keys[&Partition(1)];
    let long = lanes.iter().find(|lane| lane.key == LaneKey((-7_i64).cast_unsigned())).unwrap();
    assert!(long.rows == 25_000 && long.due_in < Duration::from_mins(1), "{long:?}");
    let all: std::collections::HashSet<LaneKey> = lanes.iter().map(|lane| lane.key).collect();
    assert_eq!((lanes.len(), all.len()), (12_501, 12_501));
    assert_eq!(lanes.iter().map(|lane| lane.rows).sum::<u64>(), 37_500);
}

#[tokio::test]
async fn a_hundred_thousand_parked_keys_cost_the_settlements_of_others_nothing() {
    let database = test_database().await;
    let epoch = database.raise(0).await;
    database
        .execute(
            "INSERT INTO parked_events (consumer_group, order_id, event_type, topic, kpartition, koffset, key_hash, attempts,
                    due_at, first_failed_at, record)
             SELECT 'notification_service_group', n, 'ORDER_CREATED', 'order_events', 0, n, n, 1, now(), now(), 'r'
               FROM generate_series(1, 100000) n",
        )
        .await;
    let keys = database.postgres.parked_keys(&[Partition(0)]).await.unwrap();
    assert_eq!(keys[&Partition(0)].len(), 100_000);
    // Never analysed: the planner knows nothing of its size.
    let scans = "SELECT seq_scan::text FROM pg_stat_user_tables WHERE relname = 'parked_events'";
    database.execute("SELECT pg_stat_force_next_flush()").await;
    let before = database.look(scans).await;
    let parked = herald::core::effect::Settlement { was_parked: true, ..settlement("77", at(0, 77), epoch) };
    for _ in 0..20 {
        database.postgres.done(&[settlement("x", at(0, 1), epoch), parked.clone()]).await.unwrap();
        database.postgres.load_parked(&[ParkedKey { key: LaneKey(78), ..key(epoch) }]).await.unwrap();
    }
    database.tables.close().await;
    let again = sqlx::PgPool::connect(&database.own_url()).await.unwrap();
    // Counts reach the statistics when a connection has been idle, at the latest when it closes.
    database.postgres.close().await;
    crate::support::wait::wait_until("the statements are counted", crate::support::wait::EVENTUALLY, async || {
        let index =
            "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes WHERE relname = 'parked_events'";
        let used: i64 = sqlx::query_scalar(index).fetch_one(&again).await.unwrap();
        if used >= 40 { Ok(()) } else { Err(format!("{used} index scans")) }
    })
    .await;
    let after: String = sqlx::query_scalar(scans).fetch_one(&again).await.unwrap();
    assert_eq!(after, before, "sequential scans of parked_events");
    again.close().await;
}
