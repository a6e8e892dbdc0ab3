//! Two hours without a dependency, in simulated time, with more records in the topic than fit into memory. Afterwards each was
//! notified once, in the order of its key, and nothing was given up.

use std::collections::HashMap;

use super::parking::Bench;
use super::*;
use crate::core::breaker::BreakerState;

const KEYS: i64 = 150;
const TYPES: [&str; 6] = ["T0", "T1", "T2", "T3", "T4", "T5"];
/// One of each type for each key.
const RECORDS: i64 = KEYS * 6;
/// The outage begins when some have been notified already.
const BEGINS: Duration = Duration::from_secs(4);
const ENDS: Duration = Duration::from_secs(4 + 2 * 60 * 60);

/// Who is away between the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outage {
    Gateway,
    /// The gateway answers everybody with an error.
    GatewayFails,
    Postgres,
}

struct World {
    bench: Bench,
    outage: Outage,
    log: Vec<Record>,
    /// Of the record that is fetched next.
    position: usize,
    /// Offsets by key, in the order in which they were notified.
    notified: HashMap<i64, Vec<i64>>,
    most_attempts: u32,
    failed: usize,
}

fn engine_config() -> EngineConfig {
    let mut config = config(20, 1);
    config.decoder = Decoder::new(TYPES, OrderingKey::OrderId);
    config.breaker.outages = 5;
    config.max_records = 300;
    config
}

/// One type of all keys after another.
fn log() -> Vec<Record> {
    let event = |offset: i64| {
        let created = order(P0, offset, (offset % KEYS).unsigned_abs());
        let text = String::from_utf8(created.value.unwrap().to_vec()).unwrap();
        let kind = TYPES[usize::try_from(offset / KEYS).unwrap()];
        record(P0, offset, text.replace("ORDER_CREATED", kind))
    };
    (0..RECORDS).map(event).collect()
}

impl World {
    fn new(outage: Outage) -> Self {
        let bench = Bench::new(|config| *config = engine_config());
        Self { bench, outage, log: log(), position: 0, notified: HashMap::new(), most_attempts: 0, failed: 0 }
    }

    fn is_away(&self) -> bool {
        (BEGINS..ENDS).contains(&self.bench.now)
    }

    fn second(&mut self) {
        self.bench.is_ledger_away = self.is_away() && self.outage == Outage::Postgres;
        self.fetch();
        let running: Vec<Delivery> = self.bench.running.drain(..).collect();
        for delivery in running {
            self.bench.now += Duration::from_millis(1);
            let result = self.answer(&delivery);
            self.bench.input(Input::Delivered { results: vec![(delivery.ticket, result)] });
        }
        self.bench.wait(Duration::from_secs(1));
    }

    fn fetch(&mut self) {
        if self.bench.engine.stats().paused.is_none() {
            let records: Vec<Record> = self.log.iter().skip(self.position).take(50).cloned().collect();
            self.position += records.len();
            self.bench.poll(records);
        }
    }

    fn answer(&mut self, delivery: &Delivery) -> Result<(), DeliveryFailure> {
        self.most_attempts = self.most_attempts.max(delivery.attempt);
        let offset = delivery.coordinates.offset.0;
        // The first second of errors is not one for everybody: a channel does not break for all at once.
        let is_spared = self.bench.now < BEGINS + Duration::from_secs(1) && offset % 2 == 0;
        let class = match self.outage {
            Outage::Gateway if self.is_away() => FailureClass::Outage,
            Outage::GatewayFails if self.is_away() && !is_spared => TRANSIENT,
            _ => {
                self.notified.entry(offset % KEYS).or_default().push(offset);
                return Ok(());
            }
        };
        self.failed += 1;
        fails(class)
    }

    /// What a new process finds, with what the old one had stored.
    fn restart(&mut self) {
        self.bench.restart(engine_config());
        self.position = usize::try_from(self.bench.stored).unwrap();
    }

    fn run_until(&mut self, end: Now) {
        while self.bench.now < end {
            self.second();
        }
    }

    fn assert_all_is_told(&mut self) {
        let limit = ENDS + Duration::from_hours(1);
        while self.bench.stored < RECORDS || !self.bench.tables.parked.is_empty() {
            assert!(self.bench.now < limit, "{:?}, {} stored", self.bench.engine.stats(), self.bench.stored);
            self.second();
        }
        assert_eq!(self.bench.dead(), []);
        assert_eq!(self.notified.len(), usize::try_from(KEYS).unwrap());
        for (key, offsets) in &self.notified {
            let expected: Vec<i64> = (0..RECORDS).filter(|offset| offset % KEYS == *key).collect();
            assert_eq!(offsets, &expected, "key {key}");
        }
        let stats = self.bench.engine.stats();
        assert_eq!((stats.in_flight, stats.breaker, stats.paused), (0, BreakerState::Closed, None));
    }
}

#[test]
fn after_two_hours_without_a_gateway_everything_is_delivered_in_key_order_and_no_attempt_was_spent() {
    let mut world = World::new(Outage::Gateway);
    world.run_until(ENDS);
    assert!(world.bench.engine.stats().paused.is_some());
    assert!(world.failed > 20 && world.failed < 1_000, "{} tries in two hours", world.failed);
    assert!(world.bench.tables.parked.is_empty());
    world.assert_all_is_told();
    assert_eq!(world.most_attempts, 1);
}

#[test]
fn restarts_during_an_outage_change_nothing() {
    let mut world = World::new(Outage::Gateway);
    for hours in 1..4 {
        world.run_until(BEGINS + Duration::from_mins(30 * hours));
        world.restart();
    }
    world.run_until(ENDS);
    world.assert_all_is_told();
    assert_eq!(world.most_attempts, 1);
}

#[test]
fn after_two_hours_of_errors_for_everybody_everything_is_delivered_in_key_order_and_nothing_was_given_up() {
    let mut world = World::new(Outage::GatewayFails);
    world.run_until(ENDS);
    assert_eq!(world.bench.dead(), []);
    assert!(world.failed < 1_000, "{} tries in two hours", world.failed);
    world.assert_all_is_told();
    assert!(world.most_attempts <= 3, "probes spent attempts: {}", world.most_attempts);
}

#[test]
fn after_two_hours_without_postgres_everything_is_delivered_in_key_order_and_no_attempt_was_spent() {
    let mut world = World::new(Outage::Postgres);
    world.run_until(ENDS);
    assert!(world.bench.stored < RECORDS / 2);
    assert_eq!(world.bench.engine.stats().paused, Some(PauseCause::Ledger));
    world.assert_all_is_told();
    assert_eq!((world.most_attempts, world.failed), (1, 0));
}
