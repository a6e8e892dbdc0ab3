//! Retries that are far away, the breaker, and what is given up only with evidence.

use super::tables::Tables;
use super::*;
use crate::core::breaker::BreakerState;
use crate::core::effect::WaitingPlace;

/// An engine with one partition, whose statements are answered at once by tables that outlive it.
pub(super) struct Bench {
    pub(super) engine: Engine,
    pub(super) now: Now,
    pub(super) tables: Tables,
    session: u64,
    process: u64,
    pub(super) running: VecDeque<Delivery>,
    pub(super) reports: Vec<Report>,
    pub(super) stored: i64,
    pub(super) is_ledger_away: bool,
    /// What is parked or buried is so, and nobody hears of it.
    pub(super) is_unheard: bool,
    /// Asked for and not confirmed yet, since the ledger is away.
    unconfirmed: Vec<(u64, Vec<(Partition, Epoch)>)>,
}

impl Bench {
    pub(super) fn new(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let mut engine_config = config(100, 1);
        engine_config.decoder = Decoder::new(["ORDER_CREATED", "ORDER_PAID"], OrderingKey::OrderId);
        engine_config.park_after = Duration::ZERO;
        change(&mut engine_config);
        let mut bench = Self {
            engine: Engine::new(engine_config),
            now: Now::ZERO,
            tables: Tables::new(ROWS_PER_KEY),
            session: 0,
            process: 0,
            running: VecDeque::new(),
            reports: Vec::new(),
            stored: 0,
            is_ledger_away: false,
            is_unheard: false,
            unconfirmed: Vec::new(),
        };
        bench.begin_session();
        bench
    }

    pub(super) fn begin_session(&mut self) {
        self.session += 1;
        let start = Offset(self.stored);
        let raised = self.tables.raise(P0, self.process, start);
        let parked = self.tables.parked_keys(self.now, P0);
        let session = Session(self.session);
        self.input(Input::Assigned { partition: P0, session, start, raised, parked });
    }

    /// What a new process finds after this one has died.
    pub(super) fn restart(&mut self, engine_config: EngineConfig) {
        self.process += 1;
        self.engine = Engine::new(engine_config);
        self.running.clear();
        self.unconfirmed.clear();
        self.begin_session();
    }

    pub(super) fn poll(&mut self, records: Vec<Record>) {
        self.input(Input::Polled { partition: P0, session: Session(self.session), records });
    }

    pub(super) fn input(&mut self, input: Input) {
        let mut effects = Effects::new();
        self.engine.handle(self.now, input, &mut effects);
        for effect in effects {
            if let Some(answer) = self.perform(effect) {
                self.input(answer);
            }
        }
        if !self.is_ledger_away {
            for (freeze, partitions) in std::mem::take(&mut self.unconfirmed) {
                let read = |(partition, epoch)| (partition, epoch, self.tables.epoch(partition) == Some(epoch));
                let epochs = partitions.into_iter().map(read).collect();
                self.input(Input::EpochsConfirmed { freeze, epochs });
            }
        }
    }

    fn perform(&mut self, effect: Effect) -> Option<Input> {
        let away = |operation| Some(Input::LedgerFailed { operation, failure: LedgerFailure::Outage("gone".into()) });
        let (now, tables) = (self.now, &mut self.tables);
        match effect {
            Effect::Claim(batch) if self.is_ledger_away => return away(Operation::Claim(batch[0].serial)),
            Effect::Start(_) if self.is_ledger_away => return away(Operation::Start),
            Effect::Done(batch) if self.is_ledger_away => return away(Operation::Done(batch[0].serial)),
            Effect::Park(_) if self.is_ledger_away => return away(Operation::Park),
            Effect::Dead(_) if self.is_ledger_away => return away(Operation::Dead),
            Effect::LoadParked(_) if self.is_ledger_away => return away(Operation::LoadParked),
            Effect::Claim(batch) => {
                let found = batch.iter().filter_map(|claim| Some((claim.ticket, tables.claim(claim)?))).collect();
                return Some(Input::Claimed { serial: batch[0].serial, found });
            }
            Effect::Start(batch) => {
                let started: Vec<_> = batch.iter().filter(|start| tables.start(start)).collect();
                let started = started.iter().map(|start| start.settlement.ticket).collect();
                return Some(Input::Started { started });
            }
            Effect::Done(batch) => {
                for settlement in &batch {
                    tables.done(settlement);
                }
                return Some(Input::Settled { serial: batch[0].serial });
            }
            Effect::Park(batch) => {
                let parked: Vec<_> = batch.iter().filter(|parking| tables.park(now, parking)).collect();
                if self.is_unheard {
                    return away(Operation::Park);
                }
                return Some(Input::Parked {
                    parked: parked.iter().map(|parking| parking.settlement.ticket).collect(),
                });
            }
            Effect::Dead(batch) => {
                let buried: Vec<_> = batch.iter().filter(|letter| tables.bury(letter)).collect();
                if self.is_unheard {
                    return away(Operation::Dead);
                }
                return Some(Input::Buried { buried: buried.iter().map(|letter| letter.settlement.ticket).collect() });
            }
            Effect::LoadParked(keys) => {
                let lanes = keys.into_iter().filter_map(|key| tables.load(now, key)).collect();
                return Some(Input::ParkedLoaded { lanes });
            }
            Effect::Deliver(delivery) => self.running.push_back(delivery),
            Effect::ConfirmEpochs { freeze, partitions } => self.unconfirmed.push((freeze, partitions)),
            Effect::StoreOffset { offset, .. } => self.stored = offset.0,
            Effect::Report(report) => self.reports.push(report),
            _ => {}
        }
        None
    }

    pub(super) fn wait(&mut self, wait: Duration) {
        let until = self.now + wait;
        while self.now < until {
            self.now += Duration::from_millis(500).min(until.saturating_sub(self.now));
            self.input(Input::Tick);
        }
    }

    /// Answers the delivery that began first; gives its offset and attempt.
    pub(super) fn answer(&mut self, result: Result<(), DeliveryFailure>) -> (i64, u32) {
        let delivery = self.running.pop_front().expect("a delivery runs");
        self.input(Input::Delivered { results: vec![(delivery.ticket, result)] });
        (delivery.coordinates.offset.0, delivery.attempt)
    }

    /// Waits for the next delivery and answers it.
    pub(super) fn answer_next(&mut self, result: Result<(), DeliveryFailure>) -> (i64, u32) {
        for _ in 0..1_000 {
            if !self.running.is_empty() {
                return self.answer(result);
            }
            self.wait(Duration::from_secs(1));
        }
        panic!("nothing is delivered: {:?}", self.engine.stats())
    }

    pub(super) fn count(&self, is_one: impl Fn(&Report) -> bool) -> usize {
        self.reports.iter().filter(|report| is_one(report)).count()
    }

    pub(super) fn dead(&self) -> Vec<(i64, Reason, u32)> {
        let dead = self.reports.iter().filter_map(|report| match report {
            Report::Buried { record, reason, attempts, .. } => Some((record.offset(), *reason, *attempts)),
            _ => None,
        });
        dead.collect()
    }
}

pub(super) fn paid(offset: i64, order_id: u64) -> Record {
    let text = String::from_utf8(order(P0, offset, order_id).value.unwrap().to_vec()).unwrap();
    record(P0, offset, text.replace("ORDER_CREATED", "ORDER_PAID"))
}

#[test]
fn a_far_retry_is_parked_the_partition_moves_on_and_later_records_of_the_key_stay_behind() {
    let mut bench = Bench::new(|_| {});
    bench.poll(vec![order(P0, 0, 1), paid(1, 1), order(P0, 2, 2)]);
    assert_eq!(bench.answer(fails(TRANSIENT)), (0, 1));
    assert_eq!(bench.answer(Ok(())), (2, 1));
    assert_eq!((bench.stored, bench.tables.parked.len(), bench.running.len()), (3, 2, 0));
    assert_eq!(bench.engine.stats().in_flight, 0);

    bench.poll(vec![order(P0, 3, 2)]);
    assert_eq!(bench.answer_next(Ok(())), (0, 2));
    assert_eq!(bench.answer_next(Ok(())), (1, 1));
    assert!(bench.tables.parked.is_empty());
    assert_eq!((bench.engine.stats().parked_keys, bench.engine.accounting().parked_settled), (0, 2));
    assert_eq!(bench.engine.accounting().parked, 2);
}

#[test]
fn a_healthy_key_is_not_held_up_by_any_number_of_parked_ones() {
    let mut bench = Bench::new(|config| {
        config.max_records = 100;
        config.max_parked = 10_000;
        config.breaker.failing_keys = usize::MAX;
    });
    for chunk in 0..100 {
        let records = (chunk * 50..chunk * 50 + 50).map(|offset| order(P0, offset, offset.unsigned_abs()));
        bench.poll(records.collect());
        for _ in 0..50 {
            let told = Duration::from_mins(30);
            let answer = FailureClass::Transient { retry_after: Some(told) };
            let offset = bench.running[0].coordinates.offset.0;
            bench.answer(if offset % 3 == 0 { Ok(()) } else { fails(answer) });
        }
    }
    let stats = bench.engine.stats();
    assert_eq!((stats.in_flight, stats.parked_rows, bench.stored), (0, 3_333, 5_000));
    assert!(bench.tables.parked.len() == 3_333 && stats.bytes == 0);
}

#[test]
fn parked_records_survive_a_restart_with_their_attempts_and_in_order() {
    let mut bench = Bench::new(|_| {});
    bench.poll(vec![order(P0, 0, 1), paid(1, 1)]);
    bench.answer(fails(TRANSIENT));
    bench.restart(EngineConfig { park_after: Duration::ZERO, ..config(100, 2) });
    bench.poll(vec![order(P0, 2, 1), order(P0, 3, 3)]);
    assert_eq!(bench.answer(Ok(())), (3, 1), "another key goes on at once");
    assert_eq!(bench.answer_next(Ok(())), (0, 2));
}

#[test]
fn a_record_is_exhausted_only_when_the_channel_works_for_others() {
    let mut bench = Bench::new(|_| {});
    bench.poll(vec![order(P0, 0, 1)]);
    for attempt in 1..=10 {
        assert_eq!(bench.answer_next(fails(TRANSIENT)), (0, attempt));
    }
    assert!(bench.dead().is_empty());
    assert_eq!(bench.count(|report| matches!(report, Report::ExhaustedWithoutEvidence { .. })), 8);
    bench.now += Duration::from_millis(1);
    bench.poll(vec![order(P0, 1, 2)]);
    bench.answer(Ok(()));
    assert_eq!(bench.answer_next(fails(TRANSIENT)), (0, 11));
    assert_eq!(bench.dead(), [(0, Reason::Exhausted, 11)]);
    assert!(bench.tables.parked.is_empty());
}

#[test]
fn a_dead_key_drains_instead_of_clogging() {
    let mut bench = Bench::new(|_| {});
    // 20 events of one order that always fails, each of a type of its own.
    let types: Vec<String> = (0..20).map(|number| format!("T{number}")).collect();
    let mut engine_config = config(100, 3);
    engine_config.decoder =
        Decoder::new(types.iter().map(String::as_str).chain(["ORDER_CREATED"]), OrderingKey::OrderId);
    engine_config.park_after = Duration::ZERO;
    bench.engine = Engine::new(engine_config);
    bench.begin_session();
    let text = String::from_utf8(order(P0, 0, 1).value.unwrap().to_vec()).unwrap();
    let events = (0..).zip(&types).map(|(offset, kind)| record(P0, offset, text.replace("ORDER_CREATED", kind)));
    bench.poll(events.collect());
    let mut healthy = 20;
    while bench.dead().len() < 20 {
        bench.answer_next(fails(TRANSIENT));
        bench.poll(vec![order(P0, healthy, 1_000 + healthy.unsigned_abs())]);
        let at = bench.running.iter().position(|delivery| delivery.coordinates.offset.0 == healthy).unwrap();
        let delivery = bench.running.remove(at).unwrap();
        bench.now += Duration::from_millis(1);
        bench.input(Input::Delivered { results: vec![(delivery.ticket, Ok(()))] });
        healthy += 1;
    }
    let dead = bench.dead();
    assert_eq!(dead.iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert_eq!(dead[0].2, 3);
    assert!(dead[1..].iter().all(|(_, _, attempts)| *attempts <= 2), "{dead:?}");
}

#[test]
fn one_probe_at_a_time_each_of_another_key_and_a_success_lets_all_others_go() {
    let mut bench = Bench::new(|config| config.breaker.outages = 3);
    bench.poll((0..10).map(|offset| order(P0, offset, offset.unsigned_abs())).collect());
    (0..10).for_each(|_| {
        let _ = bench.answer(fails(FailureClass::Outage));
    });
    let mut probed = Vec::new();
    for _ in 0..5 {
        while bench.running.is_empty() {
            bench.wait(Duration::from_secs(1));
        }
        assert_eq!(bench.running.len(), 1);
        probed.push(bench.answer(fails(FailureClass::Outage)).0);
    }
    let distinct: std::collections::HashSet<_> = probed.iter().collect();
    assert_eq!(distinct.len(), 5, "{probed:?}");
    bench.answer_next(Ok(()));
    bench.wait(Duration::from_secs(10));
    assert_eq!(bench.running.len(), 9);
    assert_eq!(bench.engine.stats().paused, None);
}

#[test]
fn a_probe_that_is_answered_with_a_failure_is_parked_so_that_another_key_is_next() {
    let mut bench = Bench::new(|config| {
        config.breaker.outages = 3;
        config.park_after = Duration::from_secs(30);
    });
    bench.poll((0..4).map(|offset| order(P0, offset, offset.unsigned_abs())).collect());
    (0..4).for_each(|_| {
        let _ = bench.answer(fails(FailureClass::Outage));
    });
    let first = bench.answer_next(fails(TRANSIENT)).0;
    assert_eq!(bench.tables.parked.len(), 1);
    let is_parked = |report: &Report| matches!(report, Report::RetryScheduled { place: WaitingPlace::Parked, .. });
    assert_eq!(bench.count(is_parked), 1);
    assert_ne!(bench.answer_next(Ok(())).0, first);
}

#[test]
fn orders_that_always_fail_do_not_keep_the_breaker_open_though_nothing_else_is_held() {
    let mut bench = Bench::new(|config| config.breaker.failing_keys = 3);
    bench.poll((0..3).map(|offset| order(P0, offset, offset.unsigned_abs())).collect());
    for _ in 0..3 {
        bench.answer(fails(TRANSIENT));
    }
    assert_eq!(bench.engine.stats().breaker, BreakerState::Open);
    let (mut end, mut probes) = (3, 0);
    while bench.engine.stats().breaker != BreakerState::Closed {
        while bench.running.is_empty() {
            bench.wait(Duration::from_secs(1));
        }
        // The topic goes on with orders that nothing is wrong with, and a fetch takes a while.
        if bench.engine.stats().paused.is_none() {
            bench.poll(vec![order(P0, end, 1_000 + end.unsigned_abs())]);
            end += 1;
        }
        let is_healthy = bench.running[0].coordinates.offset.0 >= 3;
        bench.answer(if is_healthy { Ok(()) } else { fails(TRANSIENT) });
        probes += 1;
        assert!(probes < 10, "{end} records were fetched");
    }
    assert_eq!(end, 4, "no more than one to try with");
}

#[test]
fn while_postgres_is_away_nothing_is_parked_twice_or_lost() {
    let mut bench = Bench::new(|_| {});
    bench.poll(vec![order(P0, 0, 1), paid(1, 1)]);
    bench.is_ledger_away = true;
    bench.answer(fails(TRANSIENT));
    bench.wait(Duration::from_mins(5));
    assert_eq!(bench.stored, 0);
    assert!(bench.engine.stats().is_ledger_failing);
    bench.is_ledger_away = false;
    assert_eq!(bench.answer_next(Ok(())), (0, 2));
    assert_eq!(bench.answer_next(Ok(())), (1, 1));
    assert_eq!(bench.stored, 2);
}
