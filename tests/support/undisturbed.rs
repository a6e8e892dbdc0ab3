//! The engine while everything around it works: what becomes of records, whatever is in them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use herald::channels::notification;
use herald::core::breaker::BreakerConfig;
use herald::core::decode::Decoder;
use herald::core::effect::{Claim, DeadLetter, Delivery, Effect, Effects, Outcome, Parking, Report, Settlement};
use herald::core::engine::{Engine, EngineConfig};
use herald::core::event::Identity;
use herald::core::failure::{DeliveryFailure, FailureClass};
use herald::core::input::{
    Holder, Input, LedgerRow, LedgerState, LoadedLane, Now, ParkedRow, Raised, Rest, RowAddress,
};
use herald::core::key::{LaneKey, OrderingKey};
use herald::core::record::{Epoch, Offset, Record, Session};
use herald::core::retry::Schedule;
use herald::core::semantics::Semantics;
use serde_json::value::RawValue;

use super::records::PARTITION;

pub const TOPIC: &str = "order_events";
const SESSION: Session = Session(1);
/// More than any record needs: a few tries, and the longest wait.
const LONGEST: Duration = Duration::from_hours(3);

/// Runs the records, which are in offset order, to their end under each kind of order and of semantics. Panics when one is left without an outcome, has
/// two, or is changed.
pub fn check(records: &[Record]) {
    use OrderingKey::{None, OrderId, RecordKey, UserId};
    use Semantics::{AtLeastOnce, AtMostOnce};
    for how in [(OrderId, AtLeastOnce), (UserId, AtMostOnce), (RecordKey, AtLeastOnce), (None, AtMostOnce)] {
        let mut world = World::new(how, records.to_vec());
        world.run();
        world.assert_all_is_told();
    }
}

struct World {
    engine: Engine,
    now: Now,
    records: Vec<Record>,
    ledger: HashMap<Identity, LedgerRow>,
    parked: BTreeMap<Offset, (Parking, Now)>,
    outcomes: BTreeMap<Offset, Outcome>,
    stored: Offset,
}

impl World {
    fn new((ordering, semantics): (OrderingKey, Semantics), records: Vec<Record>) -> Self {
        let config = EngineConfig {
            topic: TOPIC.into(),
            decoder: Decoder::new(["ORDER_CREATED", "ORDER_PAID"], ordering),
            semantics,
            max_attempts: 2,
            retry: Schedule::new(Duration::from_secs(1), Duration::from_mins(2)),
            park_after: Duration::from_millis(500),
            breaker: BreakerConfig {
                outages: 1_000,
                failing_keys: 1_000,
                failing_percent: 100,
                probes: Schedule::new(Duration::from_secs(1), Duration::from_secs(1)),
            },
            max_concurrent: 8,
            max_records: 1_000_000,
            max_bytes: 1 << 30,
            max_parked: 1_000_000,
            freeze_gap: Duration::MAX,
            seed: 7,
        };
        Self {
            engine: Engine::new(config),
            now: Now::ZERO,
            records,
            ledger: HashMap::new(),
            parked: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            stored: Offset(0),
        }
    }

    fn run(&mut self) {
        let start = self.records.first().map_or(Offset(0), |record| record.coordinates.offset);
        let (partition, session) = (PARTITION, SESSION);
        let raised = Raised { epoch: Epoch(1), unclean_ends: 0 };
        self.input(Input::Assigned { partition, session, start, raised, parked: Vec::new() });
        self.input(Input::Polled { partition, session, records: self.records.clone() });
        while let Some(at) = self.engine.wake_at().filter(|at| *at <= LONGEST) {
            // A moment later: nothing can be due for ever.
            self.now = self.now.max(at) + Duration::from_millis(1);
            self.input(Input::Tick);
        }
    }

    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut effects = Effects::new();
            self.engine.handle(self.now, input, &mut effects);
            inputs.extend(effects.into_iter().filter_map(|effect| self.perform(effect)));
        }
    }

    fn perform(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Claim(batch) => {
                let found = batch.iter().map(|claim| (claim.ticket, self.claim(claim))).collect();
                return Some(Input::Claimed { serial: batch[0].serial, found });
            }
            Effect::Yield(_) => return Some(Input::Yielded),
            Effect::Start(batch) => {
                let started = batch.iter().map(|start| start.settlement.ticket).collect();
                return Some(Input::Started { started });
            }
            Effect::Done(batch) => {
                for settlement in &batch {
                    self.settle(&settlement.identity, LedgerState::Done);
                    self.parked.remove(&settlement.coordinates.offset);
                }
                return Some(Input::Settled { serial: batch[0].serial });
            }
            Effect::Park(batch) => {
                let parked = batch.iter().map(|parking| parking.settlement.ticket).collect();
                for parking in batch {
                    self.settle(&parking.settlement.identity, LedgerState::Parked);
                    let due = self.now + parking.wait;
                    self.parked.insert(parking.settlement.coordinates.offset, (parking, due));
                }
                return Some(Input::Parked { parked });
            }
            Effect::LoadParked(keys) => {
                let lanes = keys.into_iter().map(|key| self.load(key.key)).collect();
                return Some(Input::ParkedLoaded { lanes });
            }
            Effect::Dead(batch) => {
                let buried = batch.iter().map(|letter| letter.settlement.ticket).collect();
                for letter in &batch {
                    self.bury(letter);
                }
                return Some(Input::Buried { buried });
            }
            Effect::Deliver(delivery) => {
                return Some(Input::Delivered { results: vec![(delivery.ticket, deliver(&delivery))] });
            }
            // Asked now and then: nobody else has the partition.
            Effect::ConfirmEpochs { freeze, partitions } => {
                let epochs = partitions.into_iter().map(|(partition, epoch)| (partition, epoch, true)).collect();
                return Some(Input::EpochsConfirmed { freeze, epochs });
            }
            Effect::StoreOffset { offset, .. } => self.stored = offset,
            Effect::Report(report) => self.note(&report),
            Effect::Abort(_) | Effect::InspectHolder { .. } | Effect::Release { .. } | Effect::Restart { .. } => {
                panic!("{effect:?} while nothing is wrong")
            }
            Effect::Pause | Effect::Resume => {}
        }
        None
    }

    fn claim(&mut self, claim: &Claim) -> LedgerRow {
        let identity = &claim.identity;
        assert!((1..=255).contains(&identity.order_id.len()) && !identity.order_id.contains('\0'), "{identity:?}");
        assert!((1..=128).contains(&identity.event_type.len()) && !identity.event_type.contains('\0'), "{identity:?}");
        let ours = LedgerRow {
            state: LedgerState::Claimed,
            holder: Holder {
                topic: TOPIC.into(),
                coordinates: claim.coordinates,
                epoch: claim.epoch,
                serial: claim.serial,
            },
            fingerprint: claim.fingerprint,
            inserted: true,
            starts: 0,
            address: RowAddress::default(),
        };
        let found = self.ledger.get(identity).cloned();
        let may_be_seized = |state| matches!(state, LedgerState::Claimed | LedgerState::Dead);
        match found {
            Some(row) if claim.seize_from.as_ref() == Some(&row.holder) && may_be_seized(row.state) => {}
            Some(row) => return LedgerRow { inserted: false, ..row },
            None => {}
        }
        self.ledger.insert(identity.clone(), ours.clone());
        ours
    }

    fn settle(&mut self, identity: &Identity, state: LedgerState) {
        self.ledger.get_mut(identity).expect("what is settled was claimed").state = state;
    }

    fn load(&self, key: LaneKey) -> LoadedLane {
        let rows = self.parked.values().filter(|(parking, _)| parking.key == key);
        let rows = rows.map(|(parking, _)| ParkedRow {
            identity: parking.settlement.identity.clone(),
            record: parking.record.clone(),
            attempts: parking.attempts,
            first_failed_ago: parking.first_failed_ago,
            last_failed_ago: parking.failures.last().map(|failure| failure.ago),
            starts: 0,
        });
        LoadedLane { partition: PARTITION, key, rows: rows.collect(), rest: Rest::Nothing, removed: 0 }
    }

    fn bury(&mut self, letter: &DeadLetter) {
        let Settlement { identity, fingerprint, coordinates, epoch, serial, .. } = letter.settlement.clone();
        // A conflict has an identity of its own, which nobody claims.
        let holder = Holder { topic: TOPIC.into(), coordinates, epoch, serial };
        let state = LedgerState::Dead;
        let address = RowAddress::default();
        let unclaimed = LedgerRow { state, holder, fingerprint, inserted: true, starts: 0, address };
        self.ledger.entry(identity).or_insert(unclaimed).state = state;
        let offset = coordinates.offset;
        self.parked.remove(&offset);
        let original = self.records.iter().find(|record| record.coordinates.offset == offset);
        assert_eq!(Some(&letter.record), original, "a dead letter is not its record");
        assert!(!letter.error.contains("panicked"), "{}", letter.error);
    }

    fn note(&mut self, report: &Report) {
        let (offset, outcome) = match report {
            Report::Ended { outcome: Outcome::Parked, .. } => return,
            Report::Ended { outcome, record, .. } | Report::ParkedEnded { outcome, record, .. } => {
                (record.coordinates.offset, *outcome)
            }
            Report::InvariantViolated { invariant, detail } => panic!("{invariant}: {detail}"),
            _ => return,
        };
        let before = self.outcomes.insert(offset, outcome);
        assert_eq!(before, None, "{offset} ended as {outcome:?} as well");
    }

    fn assert_all_is_told(&self) {
        let without = self.records.iter().find(|record| !self.outcomes.contains_key(&record.coordinates.offset));
        // Without evidence that the channel works for others a failing record stays parked.
        let is_kept = |record: &Record| self.parked.contains_key(&record.coordinates.offset);
        assert!(without.is_none_or(is_kept), "without an outcome: {without:?}");
        let end = self.records.last().map_or(Offset(0), |record| record.coordinates.offset.next());
        assert_eq!(self.stored, end, "the partition is blocked");
    }
}

/// The answer follows from the content, so that any input always does the same.
fn deliver(delivery: &Delivery) -> Result<(), DeliveryFailure> {
    let body = notification::body("id", &delivery.event).expect("what was decoded can be notified");
    let read: BTreeMap<&str, &RawValue> = serde_json::from_slice(&body).expect("a notification is JSON");
    assert_eq!(read["order"].get().as_bytes(), delivery.event.order, "the order was changed");
    let class = match delivery.event.fingerprint.0[0] % 8 {
        0 => FailureClass::Permanent,
        1 => FailureClass::Transient { retry_after: Some(Duration::from_mins(1)) },
        2 if delivery.attempt < 2 => FailureClass::Transient { retry_after: None },
        3 if delivery.attempt < 2 => FailureClass::Unknown,
        _ => return Ok(()),
    };
    Err(DeliveryFailure { class, error: "no".to_owned() })
}
