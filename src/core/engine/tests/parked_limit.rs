//! As much is parked as may be: what comes then waits in memory, and neither an outage nor any number of hopeless records makes the
//! worker wait for ever.

use super::parking::{Bench, paid};
use super::*;
use crate::core::effect::PauseCause;

const HOUR: FailureClass = FailureClass::Transient { retry_after: Some(Duration::from_hours(1)) };
const HOPELESS: i64 = 60;
/// Records that one fetch brings.
const FETCHED: i64 = 5;

/// Ten may be parked, and twenty held in memory.
fn bench() -> Bench {
    Bench::new(|config| {
        config.max_parked = 10;
        config.max_records = 20;
        config.breaker.failing_keys = usize::MAX;
    })
}

fn orders(offsets: std::ops::Range<i64>) -> Vec<Record> {
    offsets.map(|offset| order(P0, offset, offset.unsigned_abs())).collect()
}

fn fail_all(bench: &mut Bench, class: FailureClass) {
    while !bench.running.is_empty() {
        bench.answer(fails(class));
    }
}

#[test]
fn beyond_the_limit_far_retries_wait_in_memory_and_the_partition_goes_on() {
    let mut bench = bench();
    bench.poll(orders(0..10));
    fail_all(&mut bench, HOUR);
    bench.poll(orders(10..18));
    fail_all(&mut bench, HOUR);
    let stats = bench.engine.stats();
    assert_eq!((stats.parked_rows, stats.in_flight, stats.paused), (10, 8, None));
    bench.poll(orders(18..20));
    bench.answer(Ok(()));
    bench.answer(Ok(()));
    assert_eq!(bench.stored, 10, "those that wait hold the watermark");
}

#[test]
fn when_half_of_the_memory_waits_too_nothing_more_is_fetched_until_room_is_made() {
    let mut bench = bench();
    bench.poll(orders(0..21));
    fail_all(&mut bench, HOUR);
    let stats = bench.engine.stats();
    assert_eq!((stats.parked_rows, stats.in_flight, stats.paused), (11, 10, None));
    bench.poll(orders(21..22));
    assert_eq!(bench.engine.stats().paused, Some(PauseCause::ParkedLimit));
    bench.wait(Duration::from_mins(59));
    for _ in 0..22 {
        bench.answer_next(Ok(()));
    }
    let stats = bench.engine.stats();
    assert_eq!((stats.paused, stats.parked_rows, bench.stored), (None, 0, 22));
}

#[test]
fn those_of_a_parked_key_wait_in_memory_for_it_and_keep_their_order() {
    let mut bench = bench();
    bench.poll(orders(0..10));
    fail_all(&mut bench, TRANSIENT);
    bench.poll(vec![paid(10, 3), order(P0, 11, 99)]);
    assert_eq!((bench.tables.parked.len(), bench.running.len()), (10, 1));
    assert_eq!(bench.answer(Ok(())), (11, 1));
    let mut told = Vec::new();
    while told.last() != Some(&10) {
        told.push(bench.answer_next(Ok(())).0);
    }
    let place = |offset: i64| told.iter().position(|other| *other == offset);
    assert!(place(3) < place(10), "{told:?}");
}

#[test]
fn room_for_parked_records_is_taken_by_those_that_waited_in_memory() {
    let mut bench = bench();
    bench.poll(orders(0..10));
    fail_all(&mut bench, TRANSIENT);
    bench.poll(vec![paid(10, 3)]);
    assert_eq!(bench.stored, 10);
    while bench.stored < 11 {
        let offset = bench.answer_next(Ok(())).0;
        assert_ne!(offset, 10, "it is parked behind its key");
        if offset == 3 {
            return;
        }
    }
}

#[test]
fn those_behind_parked_ones_leave_half_of_the_memory_to_others_and_keep_their_order() {
    let mut bench = Bench::new(|config| {
        config.decoder = Decoder::new(["ORDER_CREATED"], OrderingKey::UserId);
        config.max_parked = 10;
        config.max_records = 20;
    });
    // All of one user: the first fails, and the others stay behind it.
    bench.poll(orders(0..10));
    bench.answer(fails(TRANSIENT));
    bench.poll(orders(10..20));
    bench.poll(orders(20..40));
    let stats = bench.engine.stats();
    assert_eq!((stats.parked_rows, stats.in_flight), (30, 10));
    for offset in 0..40 {
        assert_eq!(bench.answer_next(Ok(())).0, offset);
    }
    assert_eq!(bench.stored, 40);
}

/// The topic goes on with orders that nothing is wrong with, one each time that something is fetched.
fn drain(bench: &mut Bench, is_over: impl Fn(&Bench) -> bool) -> i64 {
    let mut end = HOPELESS;
    for _ in 0..20_000 {
        if is_over(bench) {
            return end;
        }
        if bench.engine.stats().paused.is_none() {
            bench.poll(orders(end..end + 1));
            end += 1;
        }
        while !bench.running.is_empty() {
            bench.now += Duration::from_millis(1);
            let is_healthy = bench.running[0].coordinates.offset.0 >= HOPELESS;
            bench.answer(if is_healthy { Ok(()) } else { fails(TRANSIENT) });
        }
        bench.wait(Duration::from_millis(500));
    }
    panic!("{:?}", bench.engine.stats())
}

/// Everything that may be held is hopeless.
fn full_of_hopeless_records(change: impl FnOnce(&mut EngineConfig)) -> Bench {
    let mut bench = Bench::new(|config| {
        config.max_parked = 10;
        config.max_records = 20;
        change(config);
    });
    for first in (0..HOPELESS).step_by(20) {
        bench.poll(orders(first..first + 20));
        fail_all(&mut bench, TRANSIENT);
    }
    bench
}

#[test]
fn any_number_of_hopeless_records_is_buried_as_soon_as_the_channel_works_for_others() {
    for failing_keys in [3, usize::MAX] {
        let mut bench = full_of_hopeless_records(|config| config.breaker.failing_keys = failing_keys);
        let end = drain(&mut bench, |bench| bench.dead().len() == usize::try_from(HOPELESS).unwrap());
        assert!(bench.dead().iter().all(|(_, reason, attempts)| *reason == Reason::Exhausted && *attempts >= 3));
        while bench.stored < end {
            bench.answer_next(Ok(()));
        }
        let stats = bench.engine.stats();
        assert_eq!((stats.paused, stats.parked_rows), (None, 0));
    }
}

#[test]
fn an_outage_buries_nothing_and_lets_little_more_in() {
    let mut bench = full_of_hopeless_records(|config| config.breaker.failing_keys = usize::MAX);
    let (mut end, mut fetches) = (HOPELESS, 0);
    let begin = bench.now;
    while bench.now < begin + Duration::from_mins(30) {
        if bench.engine.stats().paused.is_none() {
            bench.poll(orders(end..end + FETCHED));
            end += FETCHED;
            fetches += 1;
        }
        fail_all(&mut bench, TRANSIENT);
        bench.wait(Duration::from_millis(500));
    }
    assert_eq!(bench.dead(), []);
    assert!((50..150).contains(&fetches), "{fetches} within half an hour");
    assert!(bench.engine.stats().in_flight <= 20);
}
