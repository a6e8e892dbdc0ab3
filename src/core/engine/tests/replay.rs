//! Records of replays: each for itself, and yet no two of a key at once.

use super::parking::{Bench, paid};
use super::*;
use crate::core::input::ReplayRow;
use crate::core::key::LaneKey;

/// The letter of this record, due now.
fn replay(bench: &mut Bench, record: &Record) {
    bench.tables.schedule_replay(record);
    let rows = due(bench);
    bench.input(Input::ReplaysLoaded { replays: rows });
}

fn due(bench: &mut Bench) -> Vec<ReplayRow> {
    let (wanted, room) = bench.engine.replays_wanted();
    let held: Vec<_> = bench.engine.replays_held().collect();
    bench.tables.replays(bench.now, &wanted, &held, room)
}

/// Buries the order of each record as a permanent failure.
fn dead(records: Vec<Record>) -> Bench {
    let mut bench = Bench::new(|_| {});
    let count = records.len();
    bench.poll(records);
    for _ in 0..count {
        bench.answer_next(fails(FailureClass::Permanent));
    }
    assert_eq!(bench.dead().len(), count);
    bench
}

fn running(bench: &Bench) -> Vec<i64> {
    bench.running.iter().map(|delivery| delivery.coordinates.offset.0).collect()
}

#[test]
fn a_replayed_record_and_those_of_its_key_that_come_from_kafka_run_one_at_a_time() {
    let mut bench = dead(vec![order(P0, 0, 1)]);
    bench.poll(vec![paid(1, 1)]);
    replay(&mut bench, &order(P0, 0, 1));
    bench.poll(vec![order(P0, 2, 2)]);
    assert_eq!(running(&bench), [1, 2], "behind what is in memory of its key");
    bench.answer(Ok(()));
    assert_eq!(running(&bench), [2, 0]);
    // It is delivered now: one that comes meanwhile waits.
    bench.poll(vec![order(P0, 3, 1)]);
    assert_eq!(running(&bench), [2, 0]);
    bench.answer(Ok(()));
    bench.answer(Ok(()));
    assert_eq!((bench.stored, bench.engine.accounting().duplicate), (4, 1));
}

#[test]
fn two_replayed_records_of_one_key_run_one_at_a_time_in_the_order_in_which_they_come() {
    let mut bench = dead(vec![order(P0, 0, 1), paid(1, 1)]);
    replay(&mut bench, &order(P0, 0, 1));
    replay(&mut bench, &paid(1, 1));
    assert_eq!(running(&bench), [0]);
    bench.answer(Ok(()));
    assert_eq!(running(&bench), [1]);
}

#[test]
fn a_replayed_record_that_fails_goes_back_to_the_table_and_blocks_none_of_its_key() {
    let mut bench = dead(vec![order(P0, 0, 1)]);
    replay(&mut bench, &order(P0, 0, 1));
    bench.answer(fails(TRANSIENT));
    assert_eq!((bench.engine.stats().parked_rows, bench.tables.parked.len()), (0, 1));
    bench.poll(vec![paid(1, 1)]);
    assert_eq!(bench.answer(Ok(())), (1, 1));
}

#[test]
fn a_replayed_record_waits_while_its_key_is_parked() {
    let mut bench = dead(vec![order(P0, 0, 1)]);
    bench.poll(vec![paid(1, 1)]);
    bench.answer(fails(FailureClass::Transient { retry_after: Some(Duration::from_mins(1)) }));
    replay(&mut bench, &order(P0, 0, 1));
    assert_eq!(running(&bench), Vec::<i64>::new());
    assert_eq!(bench.answer_next(Ok(())).0, 1);
    let rows = due(&mut bench);
    bench.input(Input::ReplaysLoaded { replays: rows });
    assert_eq!(bench.answer(Ok(())).0, 0);
}

#[test]
fn the_same_replay_is_taken_in_once_and_never_for_an_ownership_that_is_over() {
    let mut bench = dead(vec![order(P0, 0, 1)]);
    bench.tables.schedule_replay(&order(P0, 0, 1));
    let row = due(&mut bench).remove(0);
    let old = ReplayRow { epoch: Epoch(row.epoch.0 - 1), ..row.clone() };
    bench.input(Input::ReplaysLoaded { replays: vec![old] });
    assert_eq!(running(&bench), Vec::<i64>::new());
    bench.input(Input::ReplaysLoaded { replays: vec![row.clone(), row] });
    assert_eq!(running(&bench), [0]);
    assert_eq!(bench.engine.replays_held().collect::<Vec<_>>(), [order(P0, 0, 1).coordinates]);
    assert_eq!(bench.engine.stats().in_flight, 0, "it is no part of what was polled");
    assert_eq!(LaneKey::of(b"1"), bench.engine.entries.values().next().unwrap().key);
}

#[test]
fn a_replayed_record_whose_parking_is_refused_is_not_tried_again_at_once() {
    let mut bench = dead(vec![order(P0, 0, 1)]);
    replay(&mut bench, &order(P0, 0, 1));
    // A later statement of this very epoch: it cannot be, and if it is, the channel is not to suffer from it.
    bench.tables.overtake(&order(P0, 0, 1));
    let mut tries = 0;
    for _ in 0..700 {
        tries += bench.running.len();
        if !bench.running.is_empty() {
            bench.answer(fails(TRANSIENT));
        }
        bench.wait(Duration::from_millis(100));
        let rows = due(&mut bench);
        bench.input(Input::ReplaysLoaded { replays: rows });
    }
    assert_eq!(tries, 2, "one in a minute");
}

#[test]
fn what_an_owner_buries_that_has_counted_less_than_the_one_before_it_is_its_own() {
    let mut bench = Bench::new(|_| {});
    bench.engine.serial = Serial(1_000_000);
    bench.poll(vec![order(P0, 0, 1)]);
    bench.answer(fails(TRANSIENT));
    bench.restart(config(100, 2));
    assert_eq!(bench.answer_next(fails(FailureClass::Permanent)), (0, 2));
    assert_eq!(bench.dead().len(), 1);
    // A replay of it, and a later copy of the order.
    replay(&mut bench, &order(P0, 0, 1));
    bench.answer(fails(TRANSIENT));
    assert_eq!(bench.tables.parked.len(), 1);
    assert!(bench.tables.parked.values().all(|waiting| waiting.attempts == 1), "its attempt is counted");
}

/// Its burial was carried out, and the letter scheduled again before anybody heard of that.
#[test]
fn a_burial_that_is_repeated_leaves_what_was_scheduled_since_to_its_replay_wherever_the_record_came_from() {
    let retried = |bench: &mut Bench| {
        bench.poll(vec![order(P0, 0, 1)]);
        bench.answer(fails(TRANSIENT));
    };
    let replayed = |bench: &mut Bench| {
        bench.poll(vec![order(P0, 0, 1)]);
        bench.answer(fails(FailureClass::Permanent));
        replay(bench, &order(P0, 0, 1));
    };
    let polled = |bench: &mut Bench| bench.poll(vec![order(P0, 0, 1)]);
    for (origin, begin) in [("polled", &polled as &dyn Fn(&mut Bench)), ("retried", &retried), ("replayed", &replayed)]
    {
        let mut bench = Bench::new(|_| {});
        begin(&mut bench);
        bench.is_unheard = true;
        bench.answer_next(fails(FailureClass::Permanent));
        assert!(bench.tables.is_dead(&identity("1")), "{origin}");
        bench.tables.schedule_replay(&order(P0, 0, 1));
        bench.is_unheard = false;
        bench.wait(Duration::from_mins(2));
        assert_eq!(bench.tables.ledger[&identity("1")].state, LedgerState::Parked, "{origin}");
        let rows = due(&mut bench);
        bench.input(Input::ReplaysLoaded { replays: rows });
        assert_eq!(bench.answer(Ok(())).0, 0, "{origin}");
        assert_eq!(bench.tables.ledger[&identity("1")].state, LedgerState::Done, "{origin}");
    }
}

#[test]
fn a_parking_that_is_repeated_leaves_a_replay_as_it_was_scheduled_since() {
    let mut bench = dead(vec![order(P0, 0, 1)]);
    replay(&mut bench, &order(P0, 0, 1));
    bench.is_unheard = true;
    bench.answer(fails(TRANSIENT));
    let attempts = |bench: &Bench| bench.tables.parked[&identity("1")].attempts;
    assert_eq!(attempts(&bench), 1);
    bench.tables.cancel_replays();
    assert!(bench.tables.is_dead(&identity("1")));
    bench.tables.schedule_replay(&order(P0, 0, 1));
    bench.is_unheard = false;
    bench.wait(Duration::from_mins(2));
    assert_eq!(attempts(&bench), 0);
    let rows = due(&mut bench);
    bench.input(Input::ReplaysLoaded { replays: rows });
    assert_eq!(bench.answer(Ok(())), (0, 1));
}

fn identity(order_id: &str) -> Identity {
    Identity { order_id: order_id.into(), event_type: "ORDER_CREATED".into() }
}
