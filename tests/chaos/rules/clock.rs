//! Times of Postgres on our clock.

use std::time::{Duration, Instant};

use crate::judge::clock::Clock;

#[test]
fn a_time_lies_between_its_earliest_and_its_latest_reading() {
    let start = Instant::now() + Duration::from_mins(1);
    let at = |millis| start + Duration::from_millis(millis);
    let clock = Clock { asked: at(100), answered: at(103), said: 1_000_000 };
    assert_eq!((clock.earliest(1_000_000), clock.latest(1_000_000)), (at(100), at(103)));
    assert_eq!((clock.earliest(990_000), clock.latest(990_000)), (at(90), at(93)));
    assert_eq!((clock.earliest(1_010_000), clock.latest(1_010_000)), (at(110), at(113)));
}
