//! What the statements of the ledger answer, and that an answer may be lost.

use super::*;

/// A statement that was given up, and is carried out when its worker is further, or gone.
pub(super) enum Late {
    Raise {
        partition: Partition,
        owner: u64,
        start: Offset,
    },
    EndClean(Partition, Epoch),
    Claim(Vec<Claim>),
    Yield(Vec<Settlement>),
    Start(Vec<Start>),
    /// Of this worker.
    Done(u64, Vec<Settlement>),
    Park(Vec<Parking>),
    /// Of this worker; and whether each record was to blame when that was decided.
    Bury(u64, Vec<(DeadLetter, bool)>),
    Load(Vec<ParkedKey>),
}

/// Of several under way any may be answered first.
fn any_of<T>(random: &mut fastrand::Rng, under_way: &mut Vec<T>) -> Option<T> {
    (!under_way.is_empty()).then(|| under_way.swap_remove(random.usize(0..under_way.len())))
}

/// Of these orders the ledger stores nothing.
pub(super) fn is_bad(identity: &Identity) -> bool {
    is_event(identity) && ["11", "32"].contains(&&*identity.order_id)
}

impl World {
    pub(super) fn carry_out_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let chosen = self.random.usize(0..self.late.len());
        let before = self.rows();
        match self.late.swap_remove(chosen) {
            Late::Raise { partition, owner, start } => self.raise_by(partition, owner, start),
            Late::EndClean(partition, epoch) => self.tables.end_clean(partition, epoch),
            // Refused as a whole.
            Late::Claim(batch) if batch.iter().any(|claim| is_bad(&claim.identity)) => {}
            Late::Claim(batch) => drop(self.claim(&batch)),
            Late::Yield(batch) => self.yield_claims(&batch),
            Late::Start(batch) => drop(self.start(&batch)),
            Late::Done(owner, batch) => {
                self.done(batch);
                self.enter_unheard(owner, before);
            }
            Late::Park(batch) => drop(self.park(&batch)),
            Late::Bury(owner, batch) => {
                self.bury(batch);
                self.enter_unheard(owner, before);
            }
            Late::Load(keys) => drop(self.load(keys)),
        }
        self.count("late statements");
    }

    /// It may be carried out all the same, later.
    pub(super) fn comes_late(&mut self, late: Late) {
        if self.random.bool() {
            self.late.push(late);
        }
    }

    /// What a worker that goes away had sent.
    pub(super) fn leave_statements(&mut self, index: usize, gone: &Worker) {
        let owner = gone.owner;
        let blamed = gone.burials.clone().map(|letters| self.with_blame(index, letters));
        let claims = gone.claims.iter().cloned().map(Late::Claim);
        let settlements = gone.settlements.iter().cloned().map(|batch| Late::Done(owner, batch));
        let others = [
            gone.yields.clone().map(Late::Yield),
            gone.starts.clone().map(Late::Start),
            gone.parkings.clone().map(Late::Park),
            blamed.map(|batch| Late::Bury(owner, batch)),
            gone.load.clone().map(Late::Load),
        ];
        for late in claims.chain(settlements).chain(others.into_iter().flatten()) {
            self.comes_late(late);
        }
    }

    pub(super) fn answer_claims(&mut self, index: usize) {
        let Some(batch) = any_of(&mut self.random, &mut self.workers[index].claims) else { return };
        let serial = batch[0].serial;
        let operation = Operation::Claim(serial);
        if self.statement_fails() {
            self.comes_late(Late::Claim(batch));
            return self.fail(index, operation);
        }
        if batch.iter().any(|claim| is_bad(&claim.identity)) {
            self.count("bad data");
            let failure = LedgerFailure::BadData("22021".into());
            return self.input(index, Input::LedgerFailed { operation, failure });
        }
        let found = self.claim(&batch);
        // The answer of a statement that was executed may be lost.
        if self.statement_fails() {
            return self.fail(index, operation);
        }
        self.input(index, Input::Claimed { serial, found });
    }

    fn claim(&mut self, batch: &[Claim]) -> Vec<(Ticket, LedgerRow)> {
        batch.iter().filter_map(|claim| Some((claim.ticket, self.tables.claim(claim)?))).collect()
    }

    pub(super) fn answer_yields(&mut self, index: usize) {
        let Some(batch) = self.workers[index].yields.take() else { return };
        if self.statement_fails() {
            self.comes_late(Late::Yield(batch));
            return self.fail(index, Operation::Yield);
        }
        self.yield_claims(&batch);
        if self.statement_fails() {
            return self.fail(index, Operation::Yield);
        }
        self.input(index, Input::Yielded);
    }

    fn yield_claims(&mut self, batch: &[Settlement]) {
        for settlement in batch {
            self.tables.yield_claim(settlement);
        }
    }

    pub(super) fn answer_starts(&mut self, index: usize) {
        let Some(batch) = self.workers[index].starts.take() else { return };
        if self.statement_fails() {
            self.comes_late(Late::Start(batch));
            return self.fail(index, Operation::Start);
        }
        let started = self.start(&batch);
        if self.statement_fails() {
            return self.fail(index, Operation::Start);
        }
        self.input(index, Input::Started { started });
    }

    fn start(&mut self, batch: &[Start]) -> Vec<Ticket> {
        let started: Vec<_> = batch.iter().filter(|start| self.tables.start(start)).collect();
        self.started.extend(started.iter().map(|start| start.settlement.identity.clone()));
        started.into_iter().map(|start| start.settlement.ticket).collect()
    }

    pub(super) fn answer_settlements(&mut self, index: usize) {
        let Some(batch) = any_of(&mut self.random, &mut self.workers[index].settlements) else { return };
        let (owner, serial) = (self.workers[index].owner, batch[0].serial);
        if self.statement_fails() {
            self.comes_late(Late::Done(owner, batch));
            return self.fail(index, Operation::Done(serial));
        }
        let before = self.rows();
        self.done(batch);
        if self.statement_fails() {
            self.enter_unheard(owner, before);
            return self.fail(index, Operation::Done(serial));
        }
        let left = before - self.rows();
        self.input(index, Input::Settled { serial });
        self.enter_settled(index, left);
    }

    fn done(&mut self, batch: Vec<Settlement>) {
        for settlement in batch {
            self.tables.done(&settlement);
            let Settlement { identity, fingerprint, .. } = settlement;
            // Other content may have taken the claim, and be parked: that one is told, too.
            let is_done = self.tables.ledger.get(&identity).is_some_and(|row| row.state == LedgerState::Done);
            if is_done && self.cut_off.contains(&identity) {
                self.done_late.insert(identity.clone());
            }
            self.kept.entry(identity.clone()).or_default().insert(fingerprint);
            self.settled.insert((identity, fingerprint));
        }
    }

    pub(super) fn answer_burials(&mut self, index: usize) {
        let Some(letters) = self.workers[index].burials.take() else { return };
        let (owner, batch) = (self.workers[index].owner, self.with_blame(index, letters));
        if self.statement_fails() {
            self.comes_late(Late::Bury(owner, batch));
            return self.fail(index, Operation::Dead);
        }
        let before = self.rows();
        let buried = self.bury(batch);
        if self.statement_fails() {
            self.enter_unheard(owner, before);
            return self.fail(index, Operation::Dead);
        }
        let left = before - self.rows();
        self.input(index, Input::Buried { buried });
        self.enter_settled(index, left);
    }

    fn with_blame(&self, index: usize, letters: Vec<DeadLetter>) -> Vec<(DeadLetter, bool)> {
        let with_blame = |letter: DeadLetter| {
            let is_to_blame = self.is_to_blame(index, &letter);
            (letter, is_to_blame)
        };
        letters.into_iter().map(with_blame).collect()
    }

    fn bury(&mut self, batch: Vec<(DeadLetter, bool)>) -> Vec<Ticket> {
        let mut buried = Vec::new();
        for (letter, is_to_blame) in batch {
            self.assert_unchanged(&letter.record);
            let is_untried = self.is_untried_replay(&letter.settlement.identity);
            // What a worker decided that has lost the partition since is of no account.
            if self.tables.bury(&letter) {
                assert!(!is_untried, "seed {}: {letter:?} is buried, and its replay was not tried", self.seed);
                let detail =
                    || format!("seed {}: {:?} is given up as {}", self.seed, letter.settlement.identity, letter.reason);
                invariants::blamed(is_to_blame, detail).unwrap();
                buried.push(letter.settlement.ticket);
                self.note_buried(letter);
            }
        }
        buried
    }

    fn note_buried(&mut self, letter: DeadLetter) {
        let Settlement { identity, fingerprint, .. } = letter.settlement;
        match letter.reason {
            Reason::CrashLoop => drop(self.convicted.insert(identity)),
            Reason::Uncertain => drop(self.kept.entry(identity).or_default().insert(fingerprint)),
            Reason::Conflict => self.count("conflicts"),
            Reason::Exhausted | Reason::Undecodable | Reason::Invalid | Reason::Permanent => {}
        }
        self.settled.extend(self.contents[&letter.record.coordinates].clone());
    }

    pub(super) fn answer_parkings(&mut self, index: usize) {
        let Some(batch) = self.workers[index].parkings.take() else { return };
        if self.statement_fails() {
            self.comes_late(Late::Park(batch));
            return self.fail(index, Operation::Park);
        }
        let parked = self.park(&batch);
        if self.statement_fails() {
            return self.fail(index, Operation::Park);
        }
        self.input(index, Input::Parked { parked });
    }

    fn park(&mut self, batch: &[Parking]) -> Vec<Ticket> {
        let before = self.rows();
        let mut parked = Vec::new();
        for parking in batch {
            self.assert_unchanged(&parking.record);
            let Settlement { ticket, identity, fingerprint, .. } = &parking.settlement;
            if self.tables.park(self.now, parking) {
                self.kept.entry(identity.clone()).or_default().insert(*fingerprint);
                parked.push(*ticket);
            }
        }
        self.enter_parked(before);
        parked
    }

    pub(super) fn answer_load(&mut self, index: usize) {
        let Some(keys) = self.workers[index].load.take() else { return };
        if self.statement_fails() {
            self.comes_late(Late::Load(keys));
            return self.fail(index, Operation::LoadParked);
        }
        let lanes = self.load(keys);
        if self.statement_fails() {
            return self.fail(index, Operation::LoadParked);
        }
        self.note_load(lanes.iter().map(|lane| lane.rows.len()).sum());
        // A read may be old when it is answered.
        self.input(index, Input::ParkedLoaded { lanes });
    }

    fn load(&mut self, keys: Vec<ParkedKey>) -> Vec<LoadedLane> {
        let before = self.rows();
        let lanes: Vec<_> = keys.into_iter().filter_map(|key| self.tables.load(self.now, key)).collect();
        self.enter_removed(before);
        for lane in &lanes {
            for row in &lane.rows {
                self.assert_unchanged(&row.record);
            }
            if lane.rest == Rest::More {
                self.count("read in parts");
            }
        }
        lanes
    }

    fn note_load(&mut self, rows: usize) {
        self.largest_load = self.largest_load.max(rows);
    }

    /// An operator schedules letters or cancels what is scheduled, or a worker reads those that are due.
    pub(super) fn replay(&mut self, index: usize) {
        // What was read may be old when it comes.
        if let Some(replays) = self.workers[index].replays.take() {
            self.input(index, Input::ReplaysLoaded { replays });
        }
        let before = self.rows();
        if self.is_calm || self.random.bool() {
            let engine = &self.workers[index].engine;
            let ((wanted, room), held) = (engine.replays_wanted(), engine.replays_held().collect::<Vec<_>>());
            let replays = self.tables.replays(self.now, &wanted, &held, room);
            self.enter_removed(before);
            for replay in &replays {
                self.assert_unchanged(&replay.row.record);
            }
            if self.statement_fails() {
                return;
            }
            self.note_load(replays.len());
            *self.counts.entry("replays loaded").or_default() += replays.len();
            if self.random.u8(0..3) == 0 {
                self.workers[index].replays = Some(replays);
                return;
            }
            return self.input(index, Input::ReplaysLoaded { replays });
        }
        if self.random.u8(0..4) == 0 {
            self.tables.cancel_replays();
            *self.counts.entry("replays cancelled").or_default() += usize::try_from(before - self.rows()).unwrap();
            return self.enter_removed(before);
        }
        let is_letter = |record: &&Record| {
            let content = self.contents[&record.coordinates].as_ref();
            content.is_some_and(|(identity, fingerprint)| {
                let row = self.tables.ledger.get(identity);
                let is_its_own = |row: &Row| (row.coordinates, row.fingerprint) == (record.coordinates, *fingerprint);
                is_event(identity) && self.tables.is_dead(identity) && row.is_some_and(is_its_own)
            })
        };
        let letters: Vec<Record> = self.log.iter().flatten().filter(is_letter).cloned().collect();
        for letter in letters.iter().filter(|_| self.random.bool()) {
            self.tables.schedule_replay(letter);
            let (identity, fingerprint) = self.contents[&letter.coordinates].clone().unwrap();
            self.kept.entry(identity).or_default().insert(fingerprint);
        }
        self.enter_parked(before);
    }

    pub(super) fn statement_fails(&mut self) -> bool {
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
}
