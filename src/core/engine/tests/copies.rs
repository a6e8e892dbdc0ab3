//! Copies of one order that wait for one another.

use super::parking::Bench;
use super::*;

#[test]
fn a_copy_takes_the_claim_of_a_later_one_that_is_not_fetched_yet_however_little_memory_there_is() {
    let mut bench = Bench::new(|config| config.max_records = 1);
    // An owner before had claimed the last of three copies.
    bench.poll(vec![order(P0, 5, 1)]);
    bench.stored = 0;
    bench.restart(EngineConfig { max_records: 1, ..config(100, 2) });
    bench.poll(vec![order(P0, 0, 1), order(P0, 2, 7)]);
    assert!(bench.engine.stats().paused.is_some(), "the later copy is not fetched");
    let mut told = [bench.answer_next(Ok(())), bench.answer_next(Ok(()))];
    told.sort_unstable();
    assert_eq!(told, [(0, 1), (2, 1)]);
    bench.poll(vec![order(P0, 5, 1)]);
    assert_eq!((bench.engine.stats().in_flight, bench.engine.accounting().duplicate), (0, 1));
}
