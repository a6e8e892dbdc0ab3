//! What the statements of the ledger answer, and that an answer may be lost.

use super::*;

/// A statement that was given up, and is carried out when its worker is further.
pub(super) enum Late {
    Yield(Vec<Settlement>),
    Start(Vec<Start>),
    Park(Vec<Parking>),
}

impl World {
    pub(super) fn carry_out_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let chosen = self.random.usize(0..self.late.len());
        match self.late.swap_remove(chosen) {
            Late::Yield(batch) => batch.iter().for_each(|settlement| self.tables.yield_claim(settlement)),
            Late::Start(batch) => {
                let started = batch.iter().filter(|start| self.tables.start(start) && start.starts > 0);
                self.started.extend(started.map(|start| start.settlement.identity.clone()));
            }
            Late::Park(batch) => batch.iter().for_each(|parking| {
                self.tables.park(self.now, parking);
            }),
        }
        *self.counts.entry("late statements").or_default() += 1;
    }

    /// It may be carried out all the same, later.
    fn comes_late(&mut self, late: Late) {
        if self.random.bool() {
            self.late.push(late);
        }
    }

    pub(super) fn answer_claims(&mut self, index: usize) {
        let Some(batch) = self.workers[index].claims.take() else { return };
        if self.statement_fails() {
            return self.fail(index, Operation::Claim);
        }
        let found: Vec<_> = batch.iter().filter_map(|claim| Some((claim.ticket, self.tables.claim(claim)?))).collect();
        // The answer of a statement that was executed may be lost.
        if self.statement_fails() {
            return self.fail(index, Operation::Claim);
        }
        self.input(index, Input::Claimed { found });
    }

    pub(super) fn answer_yields(&mut self, index: usize) {
        let Some(batch) = self.workers[index].yields.take() else { return };
        if self.statement_fails() {
            self.comes_late(Late::Yield(batch));
            return self.fail(index, Operation::Yield);
        }
        for settlement in &batch {
            self.tables.yield_claim(settlement);
        }
        self.input(index, Input::Yielded);
    }

    pub(super) fn answer_starts(&mut self, index: usize) {
        let Some(batch) = self.workers[index].starts.take() else { return };
        if self.statement_fails() {
            self.comes_late(Late::Start(batch));
            return self.fail(index, Operation::Start);
        }
        let started: Vec<_> = batch.iter().filter(|start| self.tables.start(start)).collect();
        self.started.extend(started.iter().map(|start| start.settlement.identity.clone()));
        let started = started.into_iter().map(|start| start.settlement.ticket).collect();
        if self.statement_fails() {
            return self.fail(index, Operation::Start);
        }
        self.input(index, Input::Started { started });
    }

    pub(super) fn answer_settlements(&mut self, index: usize) {
        let Some(batch) = self.workers[index].settlements.take() else { return };
        if self.statement_fails() {
            return self.fail(index, Operation::Done);
        }
        for settlement in batch {
            self.tables.done(&settlement);
            self.settled.insert(settlement.identity);
        }
        if self.statement_fails() {
            return self.fail(index, Operation::Done);
        }
        self.input(index, Input::Settled);
    }

    pub(super) fn answer_burials(&mut self, index: usize) {
        let Some(batch) = self.workers[index].burials.take() else { return };
        if self.statement_fails() {
            return self.fail(index, Operation::Dead);
        }
        let mut buried = Vec::new();
        for letter in batch {
            self.assert_blame(&letter);
            self.assert_unchanged(&letter.record);
            if self.tables.bury(&letter) {
                let identity = letter.settlement.identity;
                if letter.reason == Reason::CrashLoop {
                    self.convicted.insert(identity.clone());
                }
                self.settled.insert(identity);
                buried.push(letter.settlement.ticket);
            }
        }
        if self.statement_fails() {
            return self.fail(index, Operation::Dead);
        }
        self.input(index, Input::Buried { buried });
    }

    pub(super) fn answer_parkings(&mut self, index: usize) {
        let Some(batch) = self.workers[index].parkings.take() else { return };
        if self.statement_fails() {
            self.comes_late(Late::Park(batch));
            return self.fail(index, Operation::Park);
        }
        let now = self.now;
        let parked: Vec<_> = batch.iter().filter(|parking| self.tables.park(now, parking)).collect();
        for parking in &parked {
            self.assert_unchanged(&parking.record);
        }
        let parked = parked.into_iter().map(|parking| parking.settlement.ticket).collect();
        if self.statement_fails() {
            return self.fail(index, Operation::Park);
        }
        self.input(index, Input::Parked { parked });
    }

    pub(super) fn answer_load(&mut self, index: usize) {
        let Some(keys) = self.workers[index].load.take() else { return };
        if self.statement_fails() {
            return self.fail(index, Operation::LoadParked);
        }
        let lanes = keys.into_iter().filter_map(|key| self.tables.load(self.now, key)).collect();
        // A read may be old when it is answered.
        self.input(index, Input::ParkedLoaded { lanes });
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
}
