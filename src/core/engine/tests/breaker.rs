//! The breaker at low traffic: orders that are known to fail do not close the way for others.

use super::parking::Bench;
use super::*;
use crate::core::breaker::BreakerState;

const HOPELESS: i64 = 12;

/// Ten failing keys would open it.
fn bench() -> Bench {
    Bench::new(|config| {
        config.max_attempts = 1_000;
        config.retry = Schedule::new(Duration::from_secs(20), Duration::from_secs(20));
    })
}

/// Another order, of its own key, is delivered at once.
fn works_for(bench: &mut Bench, offset: i64) {
    bench.now += Duration::from_millis(1);
    bench.poll(vec![order(P0, offset, 1_000 + offset.unsigned_abs())]);
    let at =
        bench.running.iter().position(|delivery| delivery.coordinates.offset.0 == offset).expect("it starts at once");
    let delivery = bench.running.remove(at).unwrap();
    bench.input(Input::Delivered { results: vec![(delivery.ticket, Ok(()))] });
}

#[test]
fn orders_that_are_known_to_fail_do_not_open_it_though_nothing_else_comes_for_a_while() {
    let mut bench = bench();
    // One after another they come, and fail again after the channel worked for others.
    for first in (0..HOPELESS * 3).step_by(3) {
        bench.poll(vec![order(P0, first, first.unsigned_abs())]);
        for healthy in [first + 1, first + 2] {
            assert_eq!(bench.answer_next(fails(TRANSIENT)).0, first);
            works_for(&mut bench, healthy);
        }
        // Out of the way of the next.
        let an_hour = FailureClass::Transient { retry_after: Some(Duration::from_hours(1)) };
        assert_eq!(bench.answer_next(fails(an_hour)).0, first);
    }
    bench.wait(Duration::from_mins(50));
    // All of them fail within a minute, again and again.
    for _ in 0..HOPELESS * 3 {
        bench.answer_next(fails(TRANSIENT));
        assert_eq!(bench.engine.stats().breaker, BreakerState::Closed);
    }
    works_for(&mut bench, HOPELESS * 3);
}
