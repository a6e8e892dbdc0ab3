//! Copies of one order that wait for one another.

use super::tables::Tables;
use super::*;

#[test]
fn a_copy_takes_the_claim_of_a_later_one_that_is_not_fetched_yet_however_little_memory_there_is() {
    let mut bench = super::parking::Bench::new(|config| config.max_records = 1);
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

#[test]
fn a_claim_is_never_taken_from_a_holder_that_was_taken_over_since_it_was_judged() {
    let mut tables = Tables::new(ROWS_PER_KEY);
    let mut bench = Bench::new(vec![order(P0, 4, 1)]);
    tables.raise(P0, 1, Offset(0));
    let claim = bench.claims().remove(0);
    // An owner before us had claimed a copy in another partition, which is ours now and whose record is not fetched yet.
    let there = Coordinates { partition: Partition(1), offset: Offset(9) };
    let of_copy = |epoch| Claim { coordinates: there, epoch, serial: Serial(7), ..claim.clone() };
    let epoch = tables.raise(there.partition, 7, Offset(0)).epoch;
    tables.claim(&of_copy(epoch)).unwrap();
    let raised = tables.raise(there.partition, 1, Offset(0));
    let session = Session(9);
    bench.input(Input::Assigned { partition: there.partition, session, start: Offset(0), raised, parked: Vec::new() });
    let row = tables.claim(&claim).unwrap();
    bench.input(Input::Claimed { found: vec![(claim.ticket, row)] });
    assert!(bench.claims().remove(0).seize_from.is_some());

    // While Postgres is away the partition goes to another worker, which delivers the copy.
    bench.input(Input::LedgerFailed { operation: Operation::Claim, failure: LedgerFailure::Outage("gone".into()) });
    bench.input(Input::Lost { partitions: vec![there.partition] });
    let epoch = tables.raise(there.partition, 2, Offset(0)).epoch;
    assert_eq!(tables.claim(&of_copy(epoch)).unwrap().holder.coordinates, there);
    bench.wait(Duration::from_secs(1));
    let again = bench.claims().remove(0);
    let row = tables.claim(&again).unwrap();
    assert_eq!(row.holder.coordinates, there);
    bench.input(Input::Claimed { found: vec![(again.ticket, row)] });
    assert_eq!(bench.deliveries().len(), 0);
}
