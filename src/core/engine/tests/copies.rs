//! Copies of one order that wait for one another.

use super::tables::{NOBODY, Row, Tables};
use super::*;
use crate::core::decode::Decoded;

const P1: Partition = Partition(1);

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
    bench.claimed(vec![(claim.ticket, row)]);
    assert!(bench.claims().remove(0).seize_from.is_some());

    // While Postgres is away the partition goes to another worker, which delivers the copy.
    bench.claims_failed(LedgerFailure::Outage("gone".into()));
    bench.input(Input::Lost { partitions: vec![there.partition] });
    let epoch = tables.raise(there.partition, 2, Offset(0)).epoch;
    assert_eq!(tables.claim(&of_copy(epoch)).unwrap().holder.coordinates, there);
    bench.wait(Duration::from_secs(1));
    let again = bench.claims().remove(0);
    let row = tables.claim(&again).unwrap();
    assert_eq!(row.holder.coordinates, there);
    bench.claimed(vec![(again.ticket, row)]);
    assert_eq!(bench.deliveries().len(), 0);
}

/// Two workers with a partition each, whose statements are answered at once by the same tables; every delivery succeeds.
struct Pair {
    benches: [Bench; 2],
    tables: Tables,
    told: Vec<(Coordinates, Identity)>,
    /// Claims that were given up, and are carried out as soon as they are yielded.
    late: Vec<Claim>,
}

impl Pair {
    fn second(&mut self) {
        for bench in &mut self.benches {
            bench.wait(Duration::from_secs(1));
            while let Some(effect) = bench.effects.pop() {
                let is_yield = matches!(effect, Effect::Yield(_));
                let answer = self.tables.answer(effect, &mut self.told);
                if is_yield {
                    let is_yielded = |claim: &mut Claim| self.tables.ledger[&claim.identity].epoch == NOBODY;
                    for claim in self.late.extract_if(.., is_yielded).collect::<Vec<_>>() {
                        self.tables.claim(&claim).unwrap();
                    }
                }
                if let Some(answer) = answer {
                    bench.input(answer);
                }
            }
        }
    }
}

impl Tables {
    fn answer(&mut self, effect: Effect, told: &mut Vec<(Coordinates, Identity)>) -> Option<Input> {
        match effect {
            Effect::Claim(batch) => {
                let found = batch.iter().filter_map(|claim| Some((claim.ticket, self.claim(claim)?))).collect();
                Some(Input::Claimed { serial: batch[0].serial, found })
            }
            Effect::Yield(batch) => {
                for settlement in &batch {
                    self.yield_claim(settlement);
                }
                Some(Input::Yielded)
            }
            Effect::Done(batch) => {
                for settlement in &batch {
                    self.done(settlement);
                }
                Some(Input::Settled { serial: batch[0].serial })
            }
            Effect::Deliver(delivery) => {
                told.push((delivery.coordinates, delivery.event.identity.clone()));
                Some(Input::Delivered { results: vec![(delivery.ticket, Ok(()))] })
            }
            // It is alive: another worker has its partition.
            Effect::InspectHolder { ticket, .. } => Some(Input::HolderInspected { ticket, abandoned: None }),
            _ => None,
        }
    }
}

/// Of two lanes with an order and a copy of the other's behind it, which owners before had claimed.
fn ring() -> Pair {
    let mut tables = Tables::new(ROWS_PER_KEY);
    let mut engine_config = config(10, 1);
    // All are of one user.
    engine_config.decoder = Decoder::new(["ORDER_CREATED"], OrderingKey::UserId);
    let lanes = [[order(P0, 0, 1), order(P0, 1, 2)], [order(P1, 0, 2), order(P1, 1, 1)]];
    // Owners before had claimed the second of each.
    for [_, second] in &lanes {
        let Coordinates { partition, .. } = second.coordinates;
        let epoch = tables.raise(partition, 9, Offset(0)).epoch;
        let Decoded::Event { event, .. } = engine_config.decoder.decode(second) else { panic!("it is an event") };
        let (identity, fingerprint) = (event.identity, event.fingerprint);
        let (ticket, coordinates, serial) = (Ticket(0), second.coordinates, Serial(1));
        tables.claim(&Claim { ticket, identity, fingerprint, coordinates, epoch, serial, seize_from: None }).unwrap();
    }
    let benches = lanes.map(|lane| {
        let mut engine_config = config(10, 1);
        engine_config.decoder = Decoder::new(["ORDER_CREATED"], OrderingKey::UserId);
        let mut bench = Bench::of(engine_config);
        let Coordinates { partition, .. } = lane[0].coordinates;
        let raised = tables.raise(partition, u64::from(partition.0.unsigned_abs()), Offset(0));
        let (session, start, parked) = (SESSION, Offset(0), Vec::new());
        bench.input(Input::Assigned { partition, session, raised, start, parked });
        bench.input(Input::Polled { partition, session, records: lane.into() });
        bench
    });
    let mut pair = Pair { benches, tables, told: Vec::new(), late: Vec::new() };
    for _ in 0..4 {
        pair.second();
    }
    assert_eq!(pair.told, [], "each waits for what the other has claimed behind its first");
    pair
}

fn assert_all_is_told(mut pair: Pair) {
    for _ in 0..30 {
        pair.second();
    }
    let mut orders: Vec<_> = pair.told.iter().map(|(_, identity)| identity.order_id.to_string()).collect();
    orders.sort();
    assert_eq!(orders, ["1", "2"]);
    assert!(pair.benches.iter().all(|bench| bench.engine.stats().in_flight == 0));
}

#[test]
fn two_workers_whose_records_wait_for_copies_behind_one_anothers_go_on() {
    assert_all_is_told(ring());
}

#[test]
fn two_such_workers_go_on_though_claims_that_were_given_up_take_back_what_was_yielded() {
    let mut pair = ring();
    let rows = pair.tables.ledger.iter();
    let of_row = |(identity, row): (&Identity, &Row)| Claim {
        ticket: Ticket(0),
        identity: identity.clone(),
        fingerprint: row.fingerprint,
        coordinates: row.coordinates,
        epoch: row.epoch,
        serial: Serial(1),
        seize_from: None,
    };
    pair.late = rows.map(of_row).collect();
    assert_eq!(pair.late.len(), 2);
    assert_all_is_told(pair);
}
