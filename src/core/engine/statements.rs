//! Statements of the ledger: each operation has a queue, and what is sent says how the records are at that moment.

use std::time::Duration;

use super::Engine;
use crate::core::batch::{BatchFailure, BatchQueue};
use crate::core::effect::{Claim, DeadLetter, Effect, Effects, Parking, Report, Serial, Settlement, Start};
use crate::core::entry::{Burial, Entry, Stage};
use crate::core::failure::{LedgerFailure, Reason};
use crate::core::input::{Now, Operation, Ticket};

impl Engine {
    pub(super) fn queues(&self) -> [&BatchQueue; 6] {
        [&self.claims, &self.yields, &self.starts, &self.settlements, &self.parkings, &self.burials]
    }

    /// The queue of an operation, with the chance that its waits need. Parked keys have none: they are read by when they are due.
    fn queue_mut(&mut self, operation: Operation) -> Option<(&mut BatchQueue, Option<Serial>, &mut fastrand::Rng)> {
        let (queue, serial) = match operation {
            Operation::Claim(serial) => (&mut self.claims, Some(serial)),
            Operation::Yield => (&mut self.yields, None),
            Operation::Start => (&mut self.starts, None),
            Operation::Done(serial) => (&mut self.settlements, Some(serial)),
            Operation::Park => (&mut self.parkings, None),
            Operation::Dead => (&mut self.burials, None),
            Operation::LoadParked => return None,
        };
        Some((queue, serial, &mut self.random))
    }

    pub(super) fn is_ledger_failing(&self) -> bool {
        self.queues().into_iter().any(|queue| queue.is_failing() && !queue.is_empty()) || self.loads.is_failing()
    }

    pub(super) fn send_batches(&mut self, now: Now, effects: &mut Effects) {
        self.serial.0 += 1;
        let claims = self.claims.next(now, self.serial, |ticket| {
            let entry = self.entries.get(&ticket).filter(|entry| entry.stage == Stage::Claiming)?;
            Some((&entry.identity, 0))
        });
        self.confirm_seizures(&claims);
        let entries = &self.entries;
        let describe = |stage: Stage, bytes: fn(&Entry) -> usize| {
            move |ticket: Ticket| {
                let entry = entries.get(&ticket).filter(|entry| entry.stage == stage)?;
                Some((&entry.identity, bytes(entry)))
            }
        };
        let yields = self.yields.next(now, self.serial, describe(Stage::Yielding, |_| 0));
        let settlements = self.settlements.next(now, self.serial, describe(Stage::Settling, |_| 0));
        let starts = self.starts.next(now, self.serial, |ticket| {
            let entry = entries.get(&ticket).filter(|entry| starts_to_write(entry).is_some())?;
            Some((&entry.identity, 0))
        });
        let parkings = self.parkings.next(now, self.serial, describe(Stage::Parking, |entry| entry.bytes));
        let burials = self.burials.next(now, self.serial, |ticket| {
            let entry = entries.get(&ticket).filter(|entry| matches!(entry.stage, Stage::Burying { .. }))?;
            Some((&entry.identity, entry.bytes))
        });
        let row =
            |ticket: &Ticket| entries.get(ticket).map(|entry| RowOf { ticket: *ticket, entry, serial: self.serial });
        if !claims.is_empty() {
            effects.push(Effect::Claim(claims.iter().filter_map(row).map(RowOf::claim).collect()));
        }
        if !yields.is_empty() {
            effects.push(Effect::Yield(yields.iter().filter_map(row).map(RowOf::settlement).collect()));
        }
        if !starts.is_empty() {
            effects.push(Effect::Start(starts.iter().filter_map(row).filter_map(RowOf::start).collect()));
        }
        if !settlements.is_empty() {
            effects.push(Effect::Done(settlements.iter().filter_map(row).map(RowOf::settlement).collect()));
        }
        if !parkings.is_empty() {
            let parking = |row: RowOf<'_>| row.parking(now);
            effects.push(Effect::Park(parkings.iter().filter_map(row).filter_map(parking).collect()));
        }
        if !burials.is_empty() {
            let letter = |row: RowOf<'_>| row.dead_letter(now);
            effects.push(Effect::Dead(burials.iter().filter_map(row).filter_map(letter).collect()));
        }
    }

    pub(super) fn ledger_failed(
        &mut self,
        now: Now,
        operation: Operation,
        failure: LedgerFailure,
        effects: &mut Effects,
    ) {
        self.leave_orphans(operation, effects);
        let schedule = self.outage.clone();
        let Some((queue, serial, random)) = self.queue_mut(operation) else {
            return self.not_loaded(now, failure, effects);
        };
        match queue.failed(now, serial, failure, &schedule, random) {
            BatchFailure::Repeated => {}
            BatchFailure::Held { wait, error } => effects.push(Effect::Report(Report::LedgerHeld { wait, error })),
            BatchFailure::BadRecord { ticket, error } => self.bad_record(now, operation, ticket, error, effects),
        }
    }

    /// What is decided about a record is not tried again for a partition that is gone; that it was notified is a fact.
    fn leave_orphans(&mut self, operation: Operation, effects: &mut Effects) {
        let queue = match operation {
            Operation::Park => &self.parkings,
            Operation::Dead => &self.burials,
            Operation::Claim(_) | Operation::Yield | Operation::Start | Operation::Done(_) | Operation::LoadParked => {
                return;
            }
        };
        let is_orphaned = |ticket: &Ticket| self.entries.get(ticket).is_some_and(|entry| entry.orphaned);
        let orphaned: Vec<Ticket> = queue.under_way().filter(is_orphaned).collect();
        for ticket in orphaned {
            self.leave_to_next_owner(ticket, effects);
        }
    }

    /// The database will never store this one.
    fn bad_record(&mut self, now: Now, operation: Operation, ticket: Ticket, error: String, effects: &mut Effects) {
        let Some(entry) = self.entries.get(&ticket) else { return };
        let has_synthetic_identity = entry.burial.is_some();
        if matches!(operation, Operation::Claim(_)) && !has_synthetic_identity {
            return self.bury_under_own_identity(ticket, Burial { reason: Reason::Invalid, class: "permanent", error });
        }
        // Nothing of a synthetic identity, nor of a row that was claimed, can be bad data: a fault of ours or of the
        // schema. Custody is kept: the record waits as in an outage.
        let wait = self.outage.bound(u32::MAX);
        effects.push(Effect::Report(Report::LedgerHeld { wait, error }));
        let Some((queue, ..)) = self.queue_mut(operation) else { return };
        queue.push(ticket);
        queue.hold(now + wait);
    }
}

/// A record as a statement writes it.
struct RowOf<'a> {
    ticket: Ticket,
    entry: &'a Entry,
    serial: Serial,
}

impl RowOf<'_> {
    fn claim(self) -> Claim {
        let Self { ticket, entry, serial } = self;
        Claim {
            ticket,
            identity: entry.identity.clone(),
            fingerprint: entry.fingerprint,
            coordinates: entry.record.coordinates,
            epoch: entry.epoch,
            serial,
            seize_from: entry.seizure.as_ref().map(|seizure| seizure.holder().clone()),
        }
    }

    fn settlement(self) -> Settlement {
        let Self { ticket, entry, serial } = self;
        Settlement {
            ticket,
            identity: entry.identity.clone(),
            fingerprint: entry.fingerprint,
            coordinates: entry.record.coordinates,
            epoch: entry.epoch,
            serial,
            address: entry.address,
            was_parked: entry.is_parked(),
        }
    }

    fn start(self) -> Option<Start> {
        let starts = starts_to_write(self.entry)?;
        Some(Start { settlement: self.settlement(), starts })
    }

    fn parking(self, now: Now) -> Option<Parking> {
        let entry = self.entry;
        let plan = entry.parking.as_ref()?;
        Some(Parking {
            settlement: Self { serial: plan.serial, ..self }.settlement(),
            key: plan.key,
            attempts: entry.attempts,
            wait: plan.due.saturating_sub(now),
            first_failed_ago: entry.failed_at.map_or(Duration::ZERO, |failed| now.saturating_sub(failed.first)),
            failures: entry.failures.as_of(now),
            error: plan.error.clone(),
            record: entry.record.clone(),
        })
    }

    fn dead_letter(self, now: Now) -> Option<DeadLetter> {
        let entry = self.entry;
        let (burial, Stage::Burying { serial }) = (entry.burial.as_ref()?, entry.stage) else { return None };
        let ago = |at: Option<Now>| at.map_or(Duration::ZERO, |at| now.saturating_sub(at));
        Some(DeadLetter {
            settlement: Self { serial, ..self }.settlement(),
            reason: burial.reason,
            class: burial.class,
            error: burial.error.clone(),
            attempts: entry.attempts,
            first_failed_ago: ago(entry.failed_at.map(|failed| failed.first)),
            last_failed_ago: ago(entry.failed_at.map(|failed| failed.last)),
            failures: entry.failures.as_of(now),
            record: entry.record.clone(),
        })
    }
}

/// What the ledger is to know about the starts of a record.
fn starts_to_write(entry: &Entry) -> Option<u16> {
    match entry.stage {
        Stage::Starting => Some(entry.starts.saturating_add(1)),
        Stage::Failing { .. } => Some(0),
        Stage::Gated
        | Stage::Claiming
        | Stage::Busy { .. }
        | Stage::Behind
        | Stage::Claimed
        | Stage::Yielding
        | Stage::Ready
        | Stage::Delivering
        | Stage::Waiting { .. }
        | Stage::Settling
        | Stage::Parking
        | Stage::Burying { .. } => None,
    }
}
