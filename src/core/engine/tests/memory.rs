//! Bytes are bounded as records are, wherever they come from: the log, parked records that are read, replays.

use super::parking::Bench;
use super::*;
use crate::core::record::Header;

const LARGE: usize = 2_000;
const LIMIT: usize = 10 * LARGE;
const HOUR: FailureClass = FailureClass::Transient { retry_after: Some(Duration::from_hours(1)) };

fn bench() -> Bench {
    Bench::new(|config| {
        config.max_bytes = LIMIT;
        config.breaker.failing_keys = usize::MAX;
    })
}

/// Of an order of its own each.
fn large(offsets: std::ops::Range<i64>) -> Vec<Record> {
    let header = || Header { name: "large".into(), value: Some(vec![7; LARGE].into()) };
    let record = |offset: i64| Record { headers: vec![header()], ..order(P0, offset, offset.unsigned_abs()) };
    offsets.map(record).collect()
}

fn polls_until_paused(bench: &mut Bench) -> i64 {
    let mut end = 0;
    while bench.engine.stats().paused.is_none() {
        bench.poll(large(end..end + 1));
        end += 1;
    }
    end
}

/// Everything that runs succeeds until more is fetched again; gives what is held then.
fn bytes_at_resumption(bench: &mut Bench) -> usize {
    let stats = bench.engine.stats();
    assert_eq!(stats.paused, Some(PauseCause::Backpressure));
    assert!(stats.bytes > LIMIT);
    while bench.engine.stats().paused.is_some() {
        bench.answer(Ok(()));
    }
    bench.engine.stats().bytes
}

#[test]
fn bytes_that_are_polled_pause_and_at_half_of_the_limit_more_is_fetched() {
    let mut bench = bench();
    let fetched = polls_until_paused(&mut bench);
    assert!((5..10).contains(&fetched), "{fetched} with what they cost beside their payload");
    let left = bytes_at_resumption(&mut bench);
    assert!(left <= LIMIT / 2 && left > LIMIT / 4, "{left}");
}

#[test]
fn bytes_of_parked_records_that_are_read_pause_and_no_more_are_read_until_there_is_room() {
    let mut bench = bench();
    for offset in 0..20 {
        bench.poll(large(offset..offset + 1));
        // Half of them are due an hour later.
        if offset == 10 {
            bench.wait(Duration::from_mins(30));
        }
        bench.answer(fails(HOUR));
    }
    assert_eq!((bench.engine.stats().bytes, bench.engine.stats().parked_rows), (0, 20));
    while bench.running.is_empty() {
        bench.wait(Duration::from_secs(1));
    }
    // They all come to be due while those that were read first are held.
    bench.wait(Duration::from_hours(2));
    let held = bench.running.len();
    assert!((8..20).contains(&held), "{held}");
    let left = bytes_at_resumption(&mut bench);
    assert!(left <= LIMIT / 2, "{left}");
    for _ in 0..20 {
        if bench.engine.stats().parked_rows > 0 {
            bench.answer_next(Ok(()));
        }
    }
    assert_eq!((bench.engine.stats().bytes, bench.engine.stats().parked_rows), (0, 0));
}

#[test]
fn bytes_of_replays_pause_and_no_more_are_wanted_until_there_is_room() {
    let mut bench = bench();
    for offset in 0..20 {
        bench.poll(large(offset..offset + 1));
        bench.answer(fails(FailureClass::Permanent));
    }
    for letter in large(0..10) {
        bench.tables.schedule_replay(&letter);
    }
    let (wanted, room) = bench.engine.replays_wanted();
    let held: Vec<_> = bench.engine.replays_held().collect();
    let replays = bench.tables.replays(bench.now, &wanted, &held, room);
    assert_eq!(replays.len(), 10);
    bench.input(Input::ReplaysLoaded { replays });
    assert_eq!(bench.engine.replays_wanted(), (Vec::new(), 0));
    let left = bytes_at_resumption(&mut bench);
    assert!(left <= LIMIT / 2, "{left}");
    let (wanted, room) = bench.engine.replays_wanted();
    assert!(!wanted.is_empty() && room > 0);
}
