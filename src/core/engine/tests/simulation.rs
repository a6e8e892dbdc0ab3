//! Several engines against a naive Kafka and a naive ledger: random interleavings of polls, answers, lost answers,
//! failures, rebalances, crashes and time. After each step the promises are asserted, at the end that all is told.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::*;
use crate::core::effect::{DeadLetter, Settlement};
use crate::core::event::Fingerprint;

const PARTITIONS: usize = 3;
const WORKERS: usize = 3;
const RECORDS: usize = 40;

struct Row {
    state: LedgerState,
    coordinates: Coordinates,
    fingerprint: Fingerprint,
}

/// One process: its engine and what is under way outside of it.
struct Worker {
    engine: Engine,
    sessions: HashMap<Partition, Session>,
    positions: HashMap<Partition, usize>,
    claims: Option<Vec<Claim>>,
    settlements: Option<Vec<Settlement>>,
    burials: Option<Vec<DeadLetter>>,
    deliveries: Vec<Delivery>,
    questions: Vec<Effect>,
}

struct World {
    random: fastrand::Rng,
    now: Now,
    seed: u64,
    log: Vec<Vec<Record>>,
    committed: Vec<usize>,
    epochs: Vec<i64>,
    owners: Vec<Option<usize>>,
    ledger: HashMap<Identity, Row>,
    /// Identities that were settled once; a dead one may be claimed again by a later copy.
    settled: HashSet<Identity>,
    workers: Vec<Worker>,
    sessions: u64,
    notified: HashMap<Identity, usize>,
    /// Identities whose delivery may rightly be repeated: an owner went away while it ran.
    cut_off: HashSet<Identity>,
    is_calm: bool,
}

fn worker(seed: u64) -> Worker {
    Worker {
        engine: Engine::new(config(4, seed)),
        sessions: HashMap::new(),
        positions: HashMap::new(),
        claims: None,
        settlements: None,
        burials: None,
        deliveries: Vec::new(),
        questions: Vec::new(),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let log = (0..PARTITIONS)
            .map(|partition| {
                let partition = Partition(i32::try_from(partition).unwrap());
                let mut records = Vec::new();
                let mut offset = 0;
                for _ in 0..RECORDS {
                    // Few orders, so that copies meet within and across partitions.
                    records.push(match random.u8(0..20) {
                        0 => record(partition, offset, format!("poison {offset}")),
                        1 => record(partition, offset, r#"{"event_type":"UNKNOWN"}"#.into()),
                        _ => order(partition, offset, random.u64(0..60)),
                    });
                    offset += random.i64(1..3);
                }
                records
            })
            .collect();
        Self {
            workers: (0..WORKERS).map(|number| worker(seed ^ number as u64)).collect(),
            random,
            now: Now::ZERO,
            seed,
            log,
            committed: vec![0; PARTITIONS],
            epochs: vec![0; PARTITIONS],
            owners: vec![None; PARTITIONS],
            ledger: HashMap::new(),
            settled: HashSet::new(),
            sessions: 0,
            notified: HashMap::new(),
            cut_off: HashSet::new(),
            is_calm: false,
        }
    }

    fn step(&mut self) {
        let index = self.random.usize(0..WORKERS);
        let partition = self.random.usize(0..PARTITIONS);
        match self.random.u8(0..100) {
            0..25 => self.poll(partition),
            25..45 => self.answer_claims(index),
            45..60 => self.answer_settlements(index),
            60..66 => self.answer_burials(index),
            66..86 => self.end_delivery(index),
            86..92 => self.pass_time(index),
            92..94 => self.answer_question(index),
            94..95 if !self.is_calm => self.crash(index),
            95..96 if !self.is_calm => self.lose(partition),
            96..97 if !self.is_calm => self.revoke(partition),
            97..98 if !self.is_calm => self.raise_behind_its_back(partition),
            _ => self.assign(partition, index),
        }
    }

    fn input(&mut self, index: usize, input: Input) {
        let mut effects = Vec::new();
        self.workers[index].engine.handle(self.now, input, &mut effects);
        for effect in effects {
            self.perform(index, effect);
        }
    }

    fn perform(&mut self, index: usize, effect: Effect) {
        let worker = &mut self.workers[index];
        match effect {
            Effect::Claim(batch) => assert!(worker.claims.replace(batch).is_none()),
            Effect::Done(batch) => assert!(worker.settlements.replace(batch).is_none()),
            Effect::Dead(batch) => assert!(worker.burials.replace(batch).is_none()),
            Effect::Deliver(delivery) => self.start_delivery(index, delivery),
            Effect::Abort(ticket) => {
                let aborted = worker.deliveries.iter().position(|delivery| delivery.ticket == ticket).unwrap();
                let delivery = worker.deliveries.swap_remove(aborted);
                self.cut_off.insert(delivery.event.identity.clone());
            }
            Effect::StoreOffset { partition, session, offset } => {
                if worker.sessions.get(&partition) == Some(&session) {
                    self.commit(partition, offset);
                }
            }
            Effect::Release { partition, session, .. } => {
                if worker.sessions.get(&partition) == Some(&session) {
                    worker.sessions.remove(&partition);
                    self.owners[number(partition)] = None;
                }
            }
            Effect::Restart { partition, session, from } => {
                if worker.sessions.get(&partition) == Some(&session) {
                    self.begin_session(partition, index, from);
                }
            }
            Effect::InspectHolder { .. } | Effect::ConfirmEpochs { .. } => worker.questions.push(effect),
            Effect::Pause | Effect::Resume | Effect::Report(_) => {}
        }
    }

    /// I1: whatever lies below a committed offset has a durable end.
    fn commit(&mut self, partition: Partition, offset: Offset) {
        let records = &self.log[number(partition)];
        let position = records.iter().position(|record| record.coordinates.offset >= offset).unwrap_or(records.len());
        assert!(position >= self.committed[number(partition)], "seed {}: a commit went back", self.seed);
        for record in &records[..position] {
            let ended = identities(record).iter().any(|identity| self.settled.contains(identity));
            assert!(
                ended || identities(record).is_empty(),
                "seed {}: {:?} has no custody",
                self.seed,
                record.coordinates
            );
        }
        self.committed[number(partition)] = position;
    }

    /// I2, I3: what is settled never starts again; one delivery of an identity at a time among the living.
    fn start_delivery(&mut self, index: usize, delivery: Delivery) {
        let identity = &delivery.event.identity;
        let state = self.ledger.get(identity).map(|row| row.state);
        // The late success of an owner that went away may settle what its successor has claimed already.
        let may_repeat = state != Some(LedgerState::Done) || self.cut_off.contains(identity);
        assert!(may_repeat, "seed {}: {identity:?} starts after it was settled", self.seed);
        let here = &self.workers[index].deliveries;
        assert!(here.iter().all(|other| other.event.identity != *identity), "seed {}: twice at once", self.seed);
        self.workers[index].deliveries.push(delivery);
    }

    fn begin_session(&mut self, partition: Partition, index: usize, start: Offset) {
        self.sessions += 1;
        let session = Session(self.sessions);
        self.epochs[number(partition)] += 1;
        let epoch = Epoch(self.epochs[number(partition)]);
        let records = &self.log[number(partition)];
        let position = records.iter().position(|record| record.coordinates.offset >= start).unwrap_or(records.len());
        self.workers[index].sessions.insert(partition, session);
        self.workers[index].positions.insert(partition, position);
        self.input(index, Input::Assigned { partition, session, epoch, start });
    }

    fn assign(&mut self, partition: usize, index: usize) {
        if self.owners[partition].is_some() {
            return;
        }
        self.owners[partition] = Some(index);
        let records = &self.log[partition];
        let start =
            records.get(self.committed[partition]).map_or(Offset(i64::MAX - 1), |record| record.coordinates.offset);
        self.begin_session(Partition(i32::try_from(partition).unwrap()), index, start);
    }

    fn poll(&mut self, partition: usize) {
        let Some(index) = self.owners[partition] else { return };
        let name = Partition(i32::try_from(partition).unwrap());
        let count = self.random.usize(1..5);
        let worker = &mut self.workers[index];
        let (Some(session), Some(position)) = (worker.sessions.get(&name), worker.positions.get_mut(&name)) else {
            return;
        };
        let records: Vec<Record> = self.log[partition].iter().skip(*position).take(count).cloned().collect();
        *position += records.len();
        let session = *session;
        self.input(index, Input::Polled { partition: name, session, records });
    }

    fn answer_claims(&mut self, index: usize) {
        let Some(batch) = self.workers[index].claims.take() else { return };
        if self.statement_fails() {
            return self.fail(index, Operation::Claim);
        }
        let found: Vec<_> = batch.iter().filter_map(|claim| Some((claim.ticket, self.claim(claim)?))).collect();
        // The answer of a statement that was executed may be lost.
        if self.statement_fails() {
            return self.fail(index, Operation::Claim);
        }
        self.input(index, Input::Claimed { found });
    }

    /// The claim table of the ledger, said plainly.
    fn claim(&mut self, claim: &Claim) -> Option<LedgerRow> {
        if self.epochs[number(claim.coordinates.partition)] != claim.epoch.0 {
            return None;
        }
        let inserted = !self.ledger.contains_key(&claim.identity);
        let row = self.ledger.entry(claim.identity.clone()).or_insert(Row {
            state: LedgerState::Claimed,
            coordinates: claim.coordinates,
            fingerprint: claim.fingerprint,
        });
        let later = row.coordinates.partition != claim.coordinates.partition
            || row.coordinates.offset < claim.coordinates.offset;
        if row.state == LedgerState::Dead && later {
            row.state = LedgerState::Claimed;
            row.coordinates = claim.coordinates;
        }
        if row.state == LedgerState::Claimed
            && claim.seize_from.as_ref().is_some_and(|from| from.coordinates == row.coordinates)
        {
            row.coordinates = claim.coordinates;
        }
        let holder = Holder { topic: "order_events".into(), coordinates: row.coordinates };
        Some(LedgerRow { state: row.state, holder, fingerprint: row.fingerprint, inserted })
    }

    fn answer_settlements(&mut self, index: usize) {
        let Some(batch) = self.workers[index].settlements.take() else { return };
        if self.statement_fails() {
            return self.fail(index, Operation::Done);
        }
        for settlement in batch {
            let row = self.ledger.get_mut(&settlement.identity).unwrap();
            row.state = LedgerState::Done;
            self.settled.insert(settlement.identity);
        }
        if self.statement_fails() {
            return self.fail(index, Operation::Done);
        }
        self.input(index, Input::Settled);
    }

    fn answer_burials(&mut self, index: usize) {
        let Some(batch) = self.workers[index].burials.take() else { return };
        if self.statement_fails() {
            return self.fail(index, Operation::Dead);
        }
        let mut buried = Vec::new();
        for letter in batch {
            let settlement = letter.settlement;
            let is_current = self.epochs[number(settlement.coordinates.partition)] == settlement.epoch.0;
            let row = self.ledger.get_mut(&settlement.identity).unwrap();
            let is_ours = row.coordinates == settlement.coordinates
                && matches!(row.state, LedgerState::Claimed | LedgerState::Dead);
            if is_current && is_ours {
                row.state = LedgerState::Dead;
                self.settled.insert(settlement.identity);
                buried.push(settlement.ticket);
            }
        }
        if self.statement_fails() {
            return self.fail(index, Operation::Dead);
        }
        self.input(index, Input::Buried { buried });
    }

    fn statement_fails(&mut self) -> bool {
        !self.is_calm && self.random.u8(0..12) == 0
    }

    fn fail(&mut self, index: usize, operation: Operation) {
        let failure = if self.random.bool() {
            LedgerFailure::Outage("gone".into())
        } else {
            LedgerFailure::Conflict("40P01".into())
        };
        self.input(index, Input::LedgerFailed { operation, failure });
    }

    fn end_delivery(&mut self, index: usize) {
        if self.workers[index].deliveries.is_empty() {
            return;
        }
        let chosen = self.random.usize(0..self.workers[index].deliveries.len());
        let delivery = self.workers[index].deliveries.swap_remove(chosen);
        let class = match self.random.u8(0..12) {
            0 => Some(TRANSIENT),
            1 => Some(FailureClass::Outage),
            2 if !self.is_calm => Some(FailureClass::Permanent),
            _ => None,
        };
        if class.is_none() {
            self.notify(&delivery.event.identity);
        }
        self.input(index, Input::Delivered { results: vec![(delivery.ticket, class.map_or(Ok(()), fails))] });
    }

    fn notify(&mut self, identity: &Identity) {
        let count = self.notified.entry(identity.clone()).or_default();
        *count += 1;
        assert!(*count == 1 || self.cut_off.contains(identity), "seed {}: {identity:?} was notified twice", self.seed);
    }

    fn pass_time(&mut self, index: usize) {
        self.now += Duration::from_millis(self.random.u64(0..1_500));
        self.input(index, Input::Tick);
    }

    fn answer_question(&mut self, index: usize) {
        let Some(question) = self.workers[index].questions.pop() else { return };
        match question {
            Effect::InspectHolder { ticket, holder } => {
                let partition = number(holder.coordinates.partition);
                let committed = self.log[partition].get(self.committed[partition]);
                let is_below = committed.is_none_or(|record| holder.coordinates.offset < record.coordinates.offset);
                self.input(index, Input::HolderInspected { ticket, abandoned: is_below.then_some(holder) });
            }
            Effect::ConfirmEpochs { freeze, partitions } => {
                let epoch = |partition| (partition, Some(Epoch(self.epochs[number(partition)])));
                let epochs = partitions.into_iter().map(epoch).collect();
                self.input(index, Input::EpochsConfirmed { freeze, epochs });
            }
            other => panic!("{other:?} is no question"),
        }
    }

    /// What runs in a process that goes away may or may not have had its effect.
    fn crash(&mut self, index: usize) {
        for owner in &mut self.owners {
            *owner = owner.filter(|owner| *owner != index);
        }
        let gone = std::mem::replace(&mut self.workers[index], worker(self.random.u64(..)));
        // Notified and not settled counts as in flight: the claim of it is still open.
        let unsettled = gone.settlements.iter().flatten().map(|settlement| settlement.identity.clone());
        let running = gone.deliveries.iter().map(|delivery| delivery.event.identity.clone());
        self.cut_off.extend(unsettled.chain(running));
        self.cut_off.extend(gone.engine.unsettled_identities());
    }

    fn lose(&mut self, partition: usize) {
        let Some(index) = self.owners[partition].take() else { return };
        let name = Partition(i32::try_from(partition).unwrap());
        self.workers[index].sessions.remove(&name);
        let identities: Vec<_> = self.workers[index].engine.unsettled_identities().collect();
        self.cut_off.extend(identities);
        self.input(index, Input::Lost { partitions: vec![name] });
    }

    fn revoke(&mut self, partition: usize) {
        let Some(index) = self.owners[partition] else { return };
        let name = Partition(i32::try_from(partition).unwrap());
        let deadline = self.now + Duration::from_secs(self.random.u64(0..5));
        let identities: Vec<_> = self.workers[index].engine.unsettled_identities().collect();
        self.cut_off.extend(identities);
        self.input(index, Input::Revoking { partitions: vec![name], deadline });
    }

    /// A raise that arrives late, from somebody who does not own the partition.
    fn raise_behind_its_back(&mut self, partition: usize) {
        self.epochs[partition] += 1;
    }

    fn is_done(&self) -> bool {
        (0..PARTITIONS).all(|partition| self.committed[partition] == self.log[partition].len())
    }
}

fn number(partition: Partition) -> usize {
    usize::try_from(partition.0).unwrap()
}

/// The identities under which a record may have ended: its own, and the synthetic one of a conflict or of poison.
fn identities(record: &Record) -> Vec<Identity> {
    let decoder = Decoder::new(["ORDER_CREATED"], OrderingKey::OrderId);
    let synthetic = crate::core::decode::synthetic_identity("order_events", record).0;
    match decoder.decode(record) {
        crate::core::decode::Decoded::Event { event, .. } => vec![event.identity, synthetic],
        crate::core::decode::Decoded::Poison { .. } => vec![synthetic],
        crate::core::decode::Decoded::Ignored { .. } => Vec::new(),
    }
}

fn run(seed: u64, steps: usize) -> BTreeMap<&'static str, usize> {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    world.is_calm = true;
    let mut calm_steps = 0;
    while !world.is_done() {
        world.step();
        calm_steps += 1;
        assert!(calm_steps < 200_000, "seed {seed}: {:?} of {RECORDS} committed", world.committed);
    }
    for (identity, row) in &world.ledger {
        assert_ne!(row.state, LedgerState::Claimed, "seed {seed}: {identity:?} was left behind");
        let notified = world.notified.get(identity).copied().unwrap_or_default();
        assert!(
            row.state != LedgerState::Done || notified > 0,
            "seed {seed}: {identity:?} is settled without a notification"
        );
    }
    BTreeMap::from([
        ("notified", world.notified.len()),
        ("repeated", world.notified.values().filter(|count| **count > 1).count()),
    ])
}

#[test]
fn nothing_is_lost_and_nothing_settled_is_repeated_whatever_happens_in_between() {
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..400 {
        for (name, count) in run(seed, 1_500) {
            *totals.entry(name).or_default() += count;
        }
    }
    assert!(totals["notified"] > 10_000, "{totals:?}");
    // The simulation would prove nothing if nobody ever went away in the middle of a delivery.
    assert!(totals["repeated"] > 0, "{totals:?}");
}
