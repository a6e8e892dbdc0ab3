//! What the answers of the ledger mean: claims, settlements, burials.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Duration;

use super::Engine;
use crate::core::claim::{Verdict, judge};
use crate::core::decode::synthetic_identity;
use crate::core::effect::{ClaimResult, Effect, Effects, Outcome, Report, Serial};
use crate::core::entry::{Burial, Busy, Entry, Origin, Seizure, Stage};
use crate::core::failure::Reason;
use crate::core::input::{Holder, LedgerRow, Now, Ticket};
use crate::core::watermark::Whereabouts;

/// From then on it is asked whether the copy that holds a claim is gone for good.
const INSPECT_HOLDER_AFTER: Duration = Duration::from_secs(5);

/// What this worker knows of the copy that holds a claim.
#[derive(Clone, Copy)]
enum HolderHere {
    /// Nothing: only its partition's offsets and owners can tell.
    Unknown,
    /// It may go on with its claim.
    Alive,
    /// No record goes on with the claim: it can be taken at once.
    Gone,
    /// It is a later copy that only waits for its turn: its claim can be taken at once.
    Waiting(Ticket),
}

impl Engine {
    pub(super) fn claimed(&mut self, now: Now, serial: Serial, found: Vec<(Ticket, LedgerRow)>, effects: &mut Effects) {
        let mut rows: foldhash::HashMap<Ticket, LedgerRow> = found.into_iter().collect();
        let mut fenced = Vec::new();
        for ticket in self.claims.succeeded(Some(serial)) {
            // Handed back meanwhile: the next owner takes the claim over.
            let Some(entry) = self.entries.get(&ticket).filter(|entry| entry.stage == Stage::Claiming) else {
                continue;
            };
            let partition = entry.partition();
            match rows.remove(&ticket) {
                Some(row) => {
                    self.epoch_seen(now, partition);
                    self.found(now, ticket, &row, effects);
                }
                None => fenced.push(partition),
            }
        }
        for partition in fenced {
            self.fenced(partition, effects);
        }
    }

    fn found(&mut self, now: Now, ticket: Ticket, row: &LedgerRow, effects: &mut Effects) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        // It was meant for this claim: the holder of then may rightly have it when this one claims again.
        entry.seizure = None;
        entry.address = row.address;
        let is_given_up = entry.burial.is_some();
        let verdict = judge(row, &self.config.topic, entry.record.coordinates, entry.fingerprint);
        effects.extend(claim_result(&verdict).map(|result| Effect::Report(Report::Claimed(result))));
        let is_convicted = verdict == Verdict::Takeover && self.taken_over(ticket, row.starts);
        match verdict {
            Verdict::Fresh | Verdict::Takeover if is_given_up || is_convicted => self.queue_burial(ticket),
            Verdict::Fresh | Verdict::Takeover => self.take_place(ticket),
            Verdict::Busy => self.wait_for_holder(now, ticket, &row.holder, effects),
            Verdict::Duplicate => self.end(now, ticket, Outcome::Duplicate, effects),
            Verdict::Dead => self.seize(ticket, Seizure::Dead(row.holder.clone())),
            Verdict::Conflict => self.give_up_conflict(ticket),
        }
    }

    fn wait_for_holder(&mut self, now: Now, ticket: Ticket, holder: &Holder, effects: &mut Effects) {
        let is_head = self.is_head_of_lane(ticket);
        let may_seize = matches!(self.holder_here(ticket, holder), HolderHere::Gone | HolderHere::Waiting(_));
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        let busy = entry.busy.get_or_insert(Busy { since: now, tries: 0, is_inspecting: false });
        busy.tries = busy.tries.saturating_add(1);
        let (waited, tries) = (now.saturating_sub(busy.since), busy.tries);
        if !is_head {
            return self.set_stage(ticket, Stage::Behind);
        }
        if may_seize {
            return self.seize(ticket, Seizure::Claimed(holder.clone()));
        }
        if waited >= INSPECT_HOLDER_AFTER {
            if !busy.is_inspecting {
                busy.is_inspecting = true;
                effects.push(Effect::InspectHolder { ticket, holder: holder.clone() });
            }
            self.yield_claims_behind(ticket);
        }
        // At least half of the bound: asking at once again cannot help.
        let wait = self.busy.bound(tries) / 2 + self.busy.wait(tries, None, &mut self.random) / 2;
        let until = now + wait;
        self.set_stage(ticket, Stage::Busy { until });
        self.timers.push(Reverse((until, ticket)));
    }

    fn holder_here(&self, ticket: Ticket, holder: &Holder) -> HolderHere {
        if holder.topic != self.config.topic {
            return HolderHere::Unknown;
        }
        let partition = holder.coordinates.partition;
        let may_run_still = self.orphans.contains_key(&partition);
        let (Some(entry), Some(state)) = (self.entries.get(&ticket), self.partitions.get(&partition)) else {
            return if may_run_still { HolderHere::Alive } else { HolderHere::Unknown };
        };
        // A later owner claimed it: the partition is ours no more, and we have not heard of it.
        if holder.epoch > state.epoch {
            return HolderHere::Unknown;
        }
        match state.watermark.locate(holder.coordinates.offset) {
            Whereabouts::Unknown => HolderHere::Unknown,
            // An owner before us left it behind. Memory may be full of copies that wait for such ones, so that none is ever fetched.
            Whereabouts::NotYet => {
                if state.is_active() && !may_run_still {
                    HolderHere::Gone
                } else {
                    HolderHere::Alive
                }
            }
            // It ended without this claim, or what is there now is another record: the topic was recreated.
            Whereabouts::Gone => HolderHere::Gone,
            Whereabouts::Unfinished(other) => {
                let Some(holder) = self.entries.get(&other) else { return HolderHere::Alive };
                if holder.identity != entry.identity {
                    return HolderHere::Gone;
                }
                // A later copy may have claimed an identity whose earlier copy was dead, and its worker died before either
                // offset was committed. In one lane each would wait for the other for ever, and so in a ring of lanes.
                let waits = matches!(holder.stage, Stage::Claimed | Stage::Behind);
                let is_later = holder.record.coordinates > entry.record.coordinates;
                if waits && is_later { HolderHere::Waiting(other) } else { HolderHere::Alive }
            }
        }
    }

    /// In a statement of its own: a claim that was given up and comes late, when its record has ended, is not the one that judged.
    fn seize(&mut self, ticket: Ticket, seizure: Seizure) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.seizure = Some(seizure);
        }
        self.claim_again(ticket);
    }

    /// What may be seized is decided when the statement is sent: a holder of this worker may have come to its turn meanwhile. One that
    /// claims from here on is sent behind. Nobody goes on with a dead one.
    pub(super) fn confirm_seizures(&mut self, claims: &[Ticket]) {
        for ticket in claims {
            let seizure = self.entries.get(ticket).and_then(|entry| entry.seizure.clone());
            let Some(Seizure::Claimed(holder)) = seizure else { continue };
            match self.holder_here(*ticket, &holder) {
                HolderHere::Waiting(other) => self.set_stage(other, Stage::Behind),
                HolderHere::Gone | HolderHere::Unknown => {}
                HolderHere::Alive => {
                    if let Some(entry) = self.entries.get_mut(ticket) {
                        entry.seizure = None;
                    }
                }
            }
        }
    }

    /// The holder may wait for a claim that is held behind this record: in a ring of lanes of different workers each would wait
    /// for the other for ever. One that was found to be another's may be ours all the same, or again: a claim that was given up comes late
    /// and takes what was yielded since. Nobody waits for a replay: a copy of one ends at once.
    fn yield_claims_behind(&mut self, head: Ticket) {
        let Some(entry) = self.entries.get(&head) else { return };
        let (Some(lane), Some(state)) = (entry.lane, self.partitions.get(&entry.partition())) else { return };
        let may_be_awaited = |entry: &Entry| {
            matches!((entry.stage, entry.origin), (Stage::Claimed | Stage::Behind, Origin::Polled { .. }))
        };
        let is_claimed = |ticket: &Ticket| self.entries.get(ticket).is_some_and(|entry| may_be_awaited(entry));
        let claimed: Vec<Ticket> = state.lane(lane).filter(is_claimed).collect();
        for ticket in claimed {
            self.set_stage(ticket, Stage::Yielding);
            self.yields.push(ticket);
        }
    }

    pub(super) fn yielded(&mut self) {
        for ticket in self.yields.succeeded(None) {
            if self.entries.get(&ticket).is_none_or(|entry| entry.stage != Stage::Yielding) {
                continue;
            }
            self.set_stage(ticket, Stage::Behind);
            if self.is_head_of_lane(ticket) {
                self.claim_again(ticket);
            }
        }
    }

    pub(super) fn holder_inspected(&mut self, ticket: Ticket, abandoned: Option<Holder>) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        if let Some(busy) = &mut entry.busy {
            busy.is_inspecting = false;
        }
        if let (Stage::Busy { .. }, Some(holder)) = (entry.stage, abandoned) {
            self.seize(ticket, Seizure::Claimed(holder));
        }
    }

    /// The other content keeps the identity that they share.
    fn give_up_conflict(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get(&ticket) else { return };
        let error = format!("order {} came before with other content, which counts", entry.identity.order_id);
        self.bury_under_own_identity(ticket, Burial { reason: Reason::Conflict, class: "permanent", error });
    }

    /// Gives the record up under an identity of its own. No other copy has it, so nothing is claimed: an owner after a crash may find
    /// that the record can be told after all, and would leave the claim behind.
    pub(super) fn bury_under_own_identity(&mut self, ticket: Ticket, burial: Burial) {
        let topic = self.config.topic.clone();
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        (entry.identity, entry.fingerprint) = synthetic_identity(&topic, &entry.record);
        self.bury(ticket, burial);
    }

    /// Gives the record up. Its identity is ours, so the burial needs no claim.
    ///
    /// It keeps its place in the lane until it is buried: an owner after a crash would deliver it again, behind those that
    /// had passed it.
    pub(super) fn bury(&mut self, ticket: Ticket, burial: Burial) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        entry.burial = Some(burial);
        self.queue_burial(ticket);
    }

    pub(super) fn queue_burial(&mut self, ticket: Ticket) {
        let serial = Serial(self.serial.0 + 1);
        self.set_stage(ticket, Stage::Burying { serial });
        self.burials.push(ticket);
    }

    pub(super) fn settled(&mut self, now: Now, serial: Serial, effects: &mut Effects) {
        for ticket in self.settlements.succeeded(Some(serial)) {
            self.end(now, ticket, Outcome::Notified, effects);
        }
    }

    pub(super) fn buried(&mut self, now: Now, buried: &[Ticket], effects: &mut Effects) {
        let buried: HashSet<Ticket> = buried.iter().copied().collect();
        for ticket in self.burials.succeeded(None) {
            if buried.contains(&ticket) {
                self.end_buried(now, ticket, effects);
            } else {
                self.ask_ledger(now, ticket, effects);
            }
        }
    }

    fn end_buried(&mut self, now: Now, ticket: Ticket, effects: &mut Effects) {
        let Some(entry) = self.entries.get(&ticket) else { return };
        if let Some(burial) = &entry.burial {
            effects.push(Effect::Report(Report::Buried {
                record: entry.name(ticket),
                reason: burial.reason,
                attempts: entry.attempts,
                error: burial.error.clone(),
            }));
        }
        self.end(now, ticket, Outcome::DeadLettered, effects);
    }
}

/// What is counted. Of a dead row only the claim that follows is.
fn claim_result(verdict: &Verdict) -> Option<ClaimResult> {
    match verdict {
        Verdict::Fresh => Some(ClaimResult::Fresh),
        Verdict::Takeover => Some(ClaimResult::Takeover),
        Verdict::Busy => Some(ClaimResult::Busy),
        Verdict::Duplicate => Some(ClaimResult::Duplicate),
        Verdict::Conflict => Some(ClaimResult::Conflict),
        Verdict::Dead => None,
    }
}
