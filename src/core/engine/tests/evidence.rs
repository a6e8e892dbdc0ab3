//! An outage is never poison: what is given up, the channel had worked for others between its last two failures.

use super::parking::{Bench, paid};
use super::*;

/// Another order, of its own key, is delivered.
fn show_that_the_channel_works(bench: &mut Bench, offset: i64) {
    bench.poll(vec![order(P0, offset, 1_000 + offset.unsigned_abs())]);
    bench.now += Duration::from_millis(1);
    assert_eq!(bench.answer(Ok(())).0, offset);
}

/// The first of two records of one key has been given up.
fn behind_an_exhausted_record() -> Bench {
    let mut bench = Bench::new(|_| {});
    bench.poll(vec![order(P0, 0, 1), paid(1, 1)]);
    for offset in 2.. {
        bench.answer_next(fails(TRANSIENT));
        if !bench.dead().is_empty() {
            break;
        }
        show_that_the_channel_works(&mut bench, offset);
    }
    bench
}

#[test]
fn a_success_from_before_an_outage_is_no_evidence_in_it() {
    let mut bench = Bench::new(|_| {});
    bench.poll(vec![order(P0, 0, 1)]);
    bench.answer(fails(TRANSIENT));
    show_that_the_channel_works(&mut bench, 1);
    // From here on it fails for everybody, of whom there are too few for the breaker to tell.
    for _ in 0..20 {
        bench.answer_next(fails(TRANSIENT));
    }
    assert_eq!(bench.dead(), []);
    show_that_the_channel_works(&mut bench, 2);
    bench.answer_next(fails(TRANSIENT));
    assert_eq!(bench.dead(), [(0, Reason::Exhausted, 22)]);
}

#[test]
fn those_behind_an_exhausted_record_are_not_given_up_in_an_outage_that_began_meanwhile() {
    let mut bench = behind_an_exhausted_record();
    // The one behind fails, the channel works for another once more, and then for nobody.
    bench.now += Duration::from_millis(1);
    assert_eq!(bench.answer_next(fails(TRANSIENT)), (1, 1));
    show_that_the_channel_works(&mut bench, 100);
    bench.answer_next(fails(FailureClass::Outage));
    for _ in 0..20 {
        assert_eq!(bench.answer_next(fails(TRANSIENT)).0, 1);
    }
    assert_eq!(bench.dead().len(), 1);
}

#[test]
fn exhausted_records_that_nothing_orders_are_not_remembered() {
    let mut bench = Bench::new(|config| {
        config.decoder = Decoder::new(["ORDER_CREATED"], OrderingKey::None);
        config.park_after = Duration::from_hours(1);
        config.max_attempts = 1;
        config.breaker.failing_keys = usize::MAX;
    });
    for offset in 0..50 {
        bench.poll(vec![order(P0, offset * 2, 1), order(P0, offset * 2 + 1, 1_000 + offset.unsigned_abs())]);
        bench.now += Duration::from_millis(1);
        let is_failing = |delivery: &Delivery| &*delivery.event.identity.order_id == "1";
        let place = bench.running.iter().position(is_failing).unwrap();
        let failing = bench.running.remove(place).unwrap();
        bench.answer(Ok(()));
        bench.running.push_front(failing);
        bench.answer(fails(TRANSIENT));
    }
    assert!(!bench.dead().is_empty());
    assert_eq!(bench.engine.partitions[&P0].exhausted_keys(), 0);
}

#[test]
fn of_a_first_failure_only_what_the_channel_did_during_its_attempt_is_evidence() {
    let one_attempt = |config: &mut EngineConfig| config.max_attempts = 1;
    for is_restarted in [false, true] {
        let mut bench = Bench::new(one_attempt);
        if is_restarted {
            bench.poll(vec![order(P0, 0, 1)]);
            bench.restart(EngineConfig { max_attempts: 1, park_after: Duration::ZERO, ..config(100, 2) });
        }
        let success = if is_restarted { 5 } else { 0 };
        show_that_the_channel_works(&mut bench, success);
        bench.now += Duration::from_millis(1);
        bench.poll(vec![order(P0, success + 1, 1)]);
        assert_eq!(bench.answer(fails(TRANSIENT)), (success + 1, 1));
        assert_eq!(bench.dead(), [], "it worked before, and nobody knows whether it did since");
        show_that_the_channel_works(&mut bench, success + 2);
        bench.answer_next(fails(TRANSIENT));
        assert_eq!(bench.dead(), [(success + 1, Reason::Exhausted, 2)]);
    }
}

#[test]
fn what_the_channel_did_for_others_before_a_session_is_no_evidence_in_it() {
    let mut bench = Bench::new(|config| config.max_attempts = 1);
    bench.poll(vec![order(P0, 0, 1)]);
    bench.answer(fails(TRANSIENT));
    show_that_the_channel_works(&mut bench, 1);
    // Another worker has the partition for a while, and the channel is away then: nothing of it is in the table.
    bench.input(Input::Lost { partitions: vec![P0] });
    bench.begin_session();
    assert_eq!(bench.answer_next(fails(TRANSIENT)), (0, 2));
    assert_eq!(bench.dead(), []);
    show_that_the_channel_works(&mut bench, 2);
    bench.answer_next(fails(TRANSIENT));
    assert_eq!(bench.dead(), [(0, Reason::Exhausted, 3)]);
}

#[test]
fn a_later_record_of_an_exhausted_key_that_nothing_is_left_of_gets_all_attempts() {
    let mut bench = behind_an_exhausted_record();
    for success in 100.. {
        bench.now += Duration::from_millis(1);
        assert_eq!(bench.answer_next(fails(TRANSIENT)).0, 1);
        if bench.dead().len() == 2 {
            break;
        }
        show_that_the_channel_works(&mut bench, success);
    }
    bench.poll(vec![paid(200, 1)]);
    for attempt in 1..=3 {
        assert_eq!(bench.dead().len(), 2);
        assert_eq!(bench.answer_next(fails(TRANSIENT)), (200, attempt));
        show_that_the_channel_works(&mut bench, 300 + i64::from(attempt));
    }
    assert_eq!(bench.dead()[2], (200, Reason::Exhausted, 3));
}

#[test]
fn after_a_restart_those_behind_an_exhausted_record_get_all_attempts() {
    let mut bench = behind_an_exhausted_record();
    bench.restart(EngineConfig {
        decoder: Decoder::new(["ORDER_CREATED", "ORDER_PAID"], OrderingKey::OrderId),
        park_after: Duration::ZERO,
        ..config(100, 2)
    });
    // Of what was exhausted only the worker knew that is gone.
    for attempt in 1..=3 {
        assert_eq!(bench.dead().len(), 1);
        assert_eq!(bench.answer_next(fails(TRANSIENT)), (1, attempt));
        show_that_the_channel_works(&mut bench, 100 + i64::from(attempt));
    }
    while bench.dead().len() < 2 {
        bench.answer_next(fails(TRANSIENT));
    }
    assert!(bench.dead()[1].2 >= 3, "{:?}", bench.dead());
}
