//! An outage is never poison: what is given up, the channel had worked for others between its last two failures.

use super::parking::{Bench, paid};
use super::*;

/// Another order, of its own key, is delivered.
fn show_that_the_channel_works(bench: &mut Bench, offset: i64) {
    bench.poll(vec![order(P0, offset, 1_000 + offset.unsigned_abs())]);
    bench.now += Duration::from_millis(1);
    assert_eq!(bench.answer(Ok(())).0, offset);
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
    let mut bench = Bench::new(|_| {});
    bench.poll(vec![order(P0, 0, 1), paid(1, 1)]);
    for offset in 2.. {
        bench.answer_next(fails(TRANSIENT));
        if !bench.dead().is_empty() {
            break;
        }
        show_that_the_channel_works(&mut bench, offset);
    }
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
        let failing = bench.running.pop_front().unwrap();
        bench.answer(Ok(()));
        bench.running.push_front(failing);
        bench.answer(fails(TRANSIENT));
    }
    assert!(!bench.dead().is_empty());
    assert_eq!(bench.engine.partitions[&P0].exhausted_keys(), 0);
}
