//! Parked records come back to be delivered: whatever else there is to do, and without upsetting those that are polled.

use super::parking::Bench as ParkingBench;
use super::*;
use crate::core::effect::ParkedKey;
use crate::core::input::ParkedLane;
use crate::core::key::LaneKey;

const P1: Partition = Partition(1);

fn parked(keys: std::ops::Range<u64>, due_in: Duration) -> Vec<ParkedLane> {
    keys.map(|key| ParkedLane { key: LaneKey(key), due_in, rows: 1 }).collect()
}

fn bench(config: EngineConfig, partitions: Vec<(Partition, Vec<ParkedLane>)>) -> Bench {
    let mut bench = Bench::of(config);
    for (partition, parked) in partitions {
        let start = Offset(0);
        bench.input(Input::Assigned { partition, session: SESSION, raised: raised(1), start, parked });
    }
    bench
}

fn loads(bench: &mut Bench) -> Vec<ParkedKey> {
    let loads = bench.take(|effect| if let Effect::LoadParked(keys) = effect { Ok(keys) } else { Err(effect) });
    loads.into_iter().flatten().collect()
}

#[test]
fn parked_records_are_loaded_however_many_polled_ones_wait_for_a_delivery() {
    let second = Duration::from_secs(1);
    let mut bench = bench(config(2, 1), vec![(P0, parked(0..1, second))]);
    let records = (0..100).map(|offset| order(P0, offset, offset.unsigned_abs())).collect();
    bench.input(Input::Polled { partition: P0, session: SESSION, records });
    bench.grant_claims();
    assert_eq!(bench.engine.stats().ready, 98);
    bench.wait(second);
    assert_eq!(loads(&mut bench).len(), 1);
}

#[test]
fn the_key_that_is_due_first_is_loaded_first_in_whatever_partition_it_is() {
    let second = Duration::from_secs(1);
    let mut bench = bench(config(2, 1), vec![(P0, parked(0..500, second * 2)), (P1, parked(0..1, second))]);
    bench.engine.is_suspended = true;
    bench.wait(second * 3);
    bench.engine.is_suspended = false;
    bench.input(Input::Tick);
    let loads = loads(&mut bench);
    assert_eq!((loads.len(), loads[0].partition), (100, P1));
}

/// Kafka's key orders, where there is one.
fn by_record_key(offset: i64, order_id: u64, key: Option<&'static [u8]>) -> Record {
    Record { key: key.map(bytes::Bytes::from_static), ..order(P0, offset, order_id) }
}

#[test]
fn a_parked_record_that_nothing_orders_holds_up_no_lane() {
    let mut bench = ParkingBench::new(|config| {
        config.decoder = Decoder::new(["ORDER_CREATED"], OrderingKey::RecordKey);
        config.park_after = Duration::from_secs(5);
    });
    // The key of the one is the order id of the other.
    bench.poll(vec![by_record_key(0, 42, None), by_record_key(1, 1, Some(b"42"))]);
    bench.answer(fails(FailureClass::Transient { retry_after: Some(Duration::from_mins(1)) }));
    bench.answer(fails(TRANSIENT));
    assert_eq!(bench.engine.stats().parked_rows, 1);
    assert_eq!(bench.answer_next(Ok(())).0, 1);
    assert_eq!(bench.answer_next(Ok(())).0, 0);
}

#[test]
fn a_worker_that_may_start_nothing_is_not_woken_for_a_probe() {
    let mut bench = Bench::new((0..3).map(|offset| order(P0, offset, offset.unsigned_abs())).collect());
    bench.engine.config.breaker.outages = 1;
    bench.engine.breaker = Breaker::new(bench.engine.config.breaker.clone());
    bench.grant_claims();
    bench.deliver_next(fails(FailureClass::Outage));
    bench.deliver_next(fails(FailureClass::Outage));
    bench.wait(Duration::from_millis(400));
    bench.engine.is_suspended = true;
    bench.wait(Duration::from_secs(10));
    assert!(bench.engine.stats().ready > 0);
    assert_eq!(bench.engine.wake_at().filter(|at| *at <= bench.now), None);
}
