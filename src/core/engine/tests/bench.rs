//! An engine with one partition to drive by hand, and what is given to it.

use super::*;

/// Rows of one key that are read at once: few, so that keys with more are met often.
pub(super) const ROWS_PER_KEY: usize = 3;

pub(super) const P0: Partition = Partition(0);
pub(super) const SESSION: Session = Session(1);
pub(super) const EPOCH: Epoch = Epoch(1);

/// After a clean end.
pub(super) fn raised(epoch: i64) -> Raised {
    Raised { epoch: Epoch(epoch), unclean_ends: 0 }
}

pub(super) fn config(max_concurrent: usize, seed: u64) -> EngineConfig {
    EngineConfig {
        topic: "order_events".into(),
        decoder: Decoder::new(["ORDER_CREATED"], OrderingKey::OrderId),
        semantics: Semantics::AtLeastOnce,
        max_attempts: 3,
        retry: Schedule::new(Duration::from_secs(1), Duration::from_secs(8)),
        park_after: Duration::from_secs(30),
        breaker: BreakerConfig {
            outages: 1_000,
            failing_keys: 10,
            failing_percent: 50,
            probes: Schedule::new(Duration::from_secs(1), Duration::from_secs(30)),
        },
        max_parked: 1_000,
        max_concurrent,
        max_records: 1_000,
        max_bytes: 1 << 20,
        freeze_gap: Duration::from_secs(5),
        seed,
    }
}

pub(super) fn order(partition: Partition, offset: i64, order_id: u64) -> Record {
    let value = format!(
        r#"{{"event_type":"ORDER_CREATED","order":{{"order_id":{order_id},"user_id":7,"product_id":3,"quantity":2,"status":"CREATED"}}}}"#
    );
    record(partition, offset, value)
}

pub(super) fn record(partition: Partition, offset: i64, value: String) -> Record {
    Record {
        coordinates: Coordinates { partition, offset: Offset(offset) },
        timestamp: None,
        key: None,
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

/// An engine with one partition, and what it asked for so far.
pub(super) struct Bench {
    pub(super) engine: Engine,
    pub(super) now: Now,
    pub(super) effects: Effects,
    pub(super) running: VecDeque<Delivery>,
    /// Postgres has the epochs that it is asked for.
    pub(super) confirms_epochs: bool,
}

impl Bench {
    pub(super) fn new(records: Vec<Record>) -> Self {
        Self::with(config(10, 1), records)
    }

    pub(super) fn with(config: EngineConfig, records: Vec<Record>) -> Self {
        let mut bench = Self::of(config);
        bench.input(Input::Assigned {
            partition: P0,
            session: SESSION,
            raised: raised(1),
            start: Offset(0),
            parked: Vec::new(),
        });
        bench.input(Input::Polled { partition: P0, session: SESSION, records });
        bench
    }

    /// Without a partition.
    pub(super) fn of(config: EngineConfig) -> Self {
        let engine = Engine::new(config);
        Self { engine, now: Now::ZERO, effects: Vec::new(), running: VecDeque::new(), confirms_epochs: true }
    }

    pub(super) fn input(&mut self, input: Input) {
        self.engine.handle(self.now, input, &mut self.effects);
        if self.confirms_epochs {
            for (freeze, partitions) in self.questions() {
                let epochs = partitions.into_iter().map(|(partition, epoch)| (partition, epoch, true)).collect();
                self.input(Input::EpochsConfirmed { freeze, epochs });
            }
        }
    }

    /// What is asked of the epochs.
    pub(super) fn questions(&mut self) -> Vec<(u64, Vec<(Partition, Epoch)>)> {
        self.take(|effect| match effect {
            Effect::ConfirmEpochs { freeze, partitions } => Ok((freeze, partitions)),
            other => Err(other),
        })
    }

    /// Answers the claims under way.
    pub(super) fn claimed(&mut self, found: Vec<(Ticket, LedgerRow)>) {
        self.input(Input::Claimed { serial: self.engine.claims.first_serial(), found });
    }

    /// Answers the settlements under way.
    pub(super) fn settled(&mut self) {
        self.input(Input::Settled { serial: self.engine.settlements.first_serial() });
    }

    /// Answers the claims under way, which failed as a whole.
    pub(super) fn claims_failed(&mut self, failure: LedgerFailure) {
        let operation = Operation::Claim(self.engine.claims.first_serial());
        self.input(Input::LedgerFailed { operation, failure });
    }

    pub(super) fn wait(&mut self, wait: Duration) {
        // In small steps: a large one is a process that stood still.
        let until = self.now + wait;
        while self.now < until {
            self.now += Duration::from_millis(500).min(until.saturating_sub(self.now));
            self.input(Input::Tick);
        }
    }

    pub(super) fn take<T>(&mut self, pick: impl Fn(Effect) -> Result<T, Effect>) -> Vec<T> {
        let mut taken = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            match pick(effect) {
                Ok(value) => taken.push(value),
                Err(effect) => self.effects.push(effect),
            }
        }
        taken
    }

    pub(super) fn claims(&mut self) -> Vec<Claim> {
        let batches = self.take(|effect| if let Effect::Claim(batch) = effect { Ok(batch) } else { Err(effect) });
        batches.into_iter().flatten().collect()
    }

    pub(super) fn deliveries(&mut self) -> Vec<Delivery> {
        self.take(|effect| if let Effect::Deliver(delivery) = effect { Ok(delivery) } else { Err(effect) })
    }

    pub(super) fn reports(&mut self) -> Vec<Report> {
        self.take(|effect| if let Effect::Report(report) = effect { Ok(report) } else { Err(effect) })
    }

    pub(super) fn stored(&mut self) -> Option<i64> {
        self.take(|effect| if let Effect::StoreOffset { offset, .. } = effect { Ok(offset.0) } else { Err(effect) })
            .pop()
    }

    /// Answers all claims as a ledger would that knows nothing.
    pub(super) fn grant_claims(&mut self) {
        loop {
            let claims = self.claims();
            if claims.is_empty() {
                return;
            }
            let found = claims.iter().map(|claim| (claim.ticket, ours(claim, true))).collect();
            self.claimed(found);
        }
    }

    pub(super) fn deliver_next(&mut self, result: Result<(), DeliveryFailure>) -> Delivery {
        let started = self.deliveries();
        self.running.extend(started);
        let delivery = self.running.pop_front().expect("a delivery runs");
        self.input(Input::Delivered { results: vec![(delivery.ticket, result)] });
        delivery
    }

    /// Delivers another order, of its own key, at this offset.
    pub(super) fn show_that_the_channel_works(&mut self, offset: i64) {
        self.now += Duration::from_millis(1);
        let records = vec![order(P0, offset, 9_999)];
        self.input(Input::Polled { partition: P0, session: SESSION, records });
        self.grant_claims();
        self.deliver_next(Ok(()));
        self.settled();
    }

    pub(super) fn buried(&mut self) -> Vec<(Reason, u32)> {
        let batches = self.take(|effect| if let Effect::Dead(batch) = effect { Ok(batch) } else { Err(effect) });
        let letters: Vec<_> = batches.into_iter().flatten().collect();
        let buried = letters.iter().map(|letter| letter.settlement.ticket).collect();
        self.input(Input::Buried { buried });
        letters.iter().map(|letter| (letter.reason, letter.attempts)).collect()
    }
}

pub(super) fn ours(claim: &Claim, inserted: bool) -> LedgerRow {
    LedgerRow {
        state: LedgerState::Claimed,
        holder: Holder { epoch: claim.epoch, serial: claim.serial, ..holder(claim.coordinates) },
        fingerprint: claim.fingerprint,
        inserted,
        starts: 0,
        address: RowAddress::default(),
    }
}

/// A copy that an owner before us claimed.
pub(super) fn holder(coordinates: Coordinates) -> Holder {
    Holder { topic: "order_events".into(), coordinates, epoch: Epoch(0), serial: Serial(5) }
}

pub(super) fn fails(class: FailureClass) -> Result<(), DeliveryFailure> {
    Err(DeliveryFailure { class, error: "no".into() })
}

pub(super) const TRANSIENT: FailureClass = FailureClass::Transient { retry_after: None };
