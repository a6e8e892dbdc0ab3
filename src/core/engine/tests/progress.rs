//! Whatever memory is full of, and whoever waits for whom: something goes on.

use super::parking::Bench;
use super::*;
use crate::core::input::{ParkedRow, ReplayRow};
use crate::core::key::LaneKey;

const USER: u64 = 7;
const HEALTHY: u64 = 8;

fn of_user(offset: i64, user: u64) -> Record {
    let text = String::from_utf8(order(P0, offset, offset.unsigned_abs()).value.unwrap().to_vec()).unwrap();
    record(P0, offset, text.replace(r#""user_id":7"#, &format!(r#""user_id":{user}"#)))
}

fn of_one_user(offsets: std::ops::Range<i64>) -> Vec<Record> {
    offsets.map(|offset| of_user(offset, USER)).collect()
}

/// Order is kept by user; ten may be parked, and twenty held in memory.
fn ordered_by_user() -> Bench {
    Bench::new(|config| {
        config.decoder = Decoder::new(["ORDER_CREATED"], OrderingKey::UserId);
        config.max_parked = 10;
        config.max_records = 20;
        config.breaker.failing_keys = usize::MAX;
    })
}

/// The letters that are due, as a statement read them.
fn due(bench: &mut Bench, key: Option<LaneKey>) -> Vec<ReplayRow> {
    let (wanted, room) = bench.engine.replays_wanted();
    let held: Vec<_> = bench.engine.replays_held().collect();
    let rows = bench.tables.replays(bench.now, &wanted, &held, room).into_iter();
    rows.map(|row| ReplayRow { key: key.unwrap_or(row.key), ..row }).collect()
}

#[test]
fn a_replay_of_a_key_that_is_parked_stays_in_the_table_and_keeps_nothing_from_being_read() {
    let mut bench = ordered_by_user();
    bench.poll(of_one_user(0..1));
    bench.answer(fails(FailureClass::Permanent));
    bench.tables.schedule_replay(&of_user(0, USER));
    // Read before what is parked of its user was in the table.
    let key = LaneKey::of(USER.to_string().as_bytes());
    let replays = due(&mut bench, Some(key));
    assert_eq!(replays.len(), 1);
    bench.poll(of_one_user(1..11));
    bench.answer(fails(TRANSIENT));
    bench.poll(of_one_user(11..21));
    bench.input(Input::ReplaysLoaded { replays: replays.clone() });
    bench.poll(of_one_user(21..41));
    for offset in 1..41 {
        assert_eq!(bench.answer_next(Ok(())).0, offset);
    }
    assert_eq!(bench.stored, 41);
    bench.input(Input::ReplaysLoaded { replays });
    assert_eq!(bench.answer_next(Ok(())).0, 0);
}

#[test]
fn memory_that_is_full_does_not_keep_retries_from_being_read() {
    let mut bench = Bench::new(|config| config.max_records = 4);
    bench.poll(vec![order(P0, 0, 0)]);
    bench.answer(fails(TRANSIENT));
    bench.poll((1..6).map(|offset| order(P0, offset, offset.unsigned_abs())).collect());
    bench.wait(Duration::from_secs(10));
    assert!(bench.running.iter().any(|delivery| delivery.coordinates.offset == Offset(0)));
}

#[test]
fn replays_that_run_do_not_keep_retries_from_being_read() {
    let mut bench = Bench::new(|config| config.max_records = 20);
    bench.poll((0..6).map(|offset| order(P0, offset, offset.unsigned_abs())).collect());
    (0..6).for_each(|_| {
        let _ = bench.answer(fails(FailureClass::Permanent));
    });
    bench.poll(vec![order(P0, 6, 6)]);
    bench.answer(fails(TRANSIENT));
    (0..6).for_each(|offset| bench.tables.schedule_replay(&order(P0, offset, offset.unsigned_abs())));
    let replays = due(&mut bench, None);
    bench.input(Input::ReplaysLoaded { replays });
    assert_eq!(bench.running.len(), 6);
    bench.wait(Duration::from_secs(10));
    let running: Vec<i64> = bench.running.iter().map(|delivery| delivery.coordinates.offset.0).collect();
    assert_eq!(running, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_hopeless_key_that_fills_the_memory_does_not_keep_others_from_showing_that_the_channel_works() {
    let mut bench = ordered_by_user();
    // For long there is only this one, and it fails each time.
    let begin_of_others = Duration::from_hours(2);
    let (mut end, mut others_from) = (0, i64::MAX);
    while bench.dead().is_empty() {
        if bench.engine.stats().paused.is_none() {
            if bench.now >= begin_of_others {
                others_from = others_from.min(end);
            }
            let user = if end < others_from { USER } else { HEALTHY };
            bench.poll((end..end + 3).map(|offset| of_user(offset, user)).collect());
            end += 3;
        }
        while let Some(delivery) = bench.running.front() {
            let is_healthy = delivery.coordinates.offset.0 >= others_from;
            bench.now += Duration::from_millis(1);
            bench.answer(if is_healthy { Ok(()) } else { fails(TRANSIENT) });
        }
        bench.wait(Duration::from_millis(500));
        assert!(bench.now < begin_of_others * 2, "{:?}", bench.engine.stats());
    }
    assert!((100..2_000).contains(&end), "{end} were let in");
}

/// A worker whose only key waits for a copy elsewhere, and a replay behind it.
#[test]
fn a_replay_behind_a_copy_that_waits_keeps_its_place() {
    let mut bench = super::Bench::new(vec![order(P0, 5, 1)]);
    let replayed = order(P0, 2, 1);
    let event_type = "ORDER_CREATED".into();
    let row = ParkedRow {
        identity: Identity { order_id: "1".into(), event_type },
        record: replayed,
        attempts: 0,
        starts: 0,
        first_failed_ago: Duration::ZERO,
        last_failed_ago: None,
    };
    let elsewhere = Coordinates { partition: Partition(1), offset: Offset(9) };
    let is_held = |claim: &Claim| LedgerRow { holder: holder(elsewhere), ..ours(claim, false) };
    let claims = bench.claims();
    bench.claimed(claims.iter().map(|claim| (claim.ticket, is_held(claim))).collect());
    let replay = ReplayRow { epoch: EPOCH, key: LaneKey::of(b"1"), row };
    bench.input(Input::ReplaysLoaded { replays: vec![replay] });
    for _ in 0..30 {
        bench.wait(Duration::from_millis(500));
        let yielded = bench.take(|effect| if let Effect::Yield(batch) = effect { Ok(batch) } else { Err(effect) });
        assert!(yielded.is_empty(), "{yielded:?}");
        let claims = bench.claims();
        bench.claimed(claims.iter().map(|claim| (claim.ticket, is_held(claim))).collect());
    }
    let claims = loop {
        bench.wait(Duration::from_millis(500));
        let claims = bench.claims();
        if !claims.is_empty() {
            break claims;
        }
    };
    let done = |claim: &Claim| LedgerRow { state: LedgerState::Done, ..is_held(claim) };
    bench.claimed(claims.iter().map(|claim| (claim.ticket, done(claim))).collect());
    assert_eq!(bench.deliveries().remove(0).coordinates.offset, Offset(2));
}
