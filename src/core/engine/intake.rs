//! Partitions and records come in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Engine;
use crate::core::attempts::Attempts;
use crate::core::decode::{Decoded, synthetic_identity};
use crate::core::effect::{Effect, Effects, Outcome, RecordName, Report};
use crate::core::entry::{Blame, Burial, Entry, Origin, Stage};
use crate::core::failure::Reason;
use crate::core::input::{Now, RowAddress, Ticket};
use crate::core::key::LaneKey;
use crate::core::partition::PartitionState;
use crate::core::record::{Partition, Record, Session};
use crate::core::trace::TraceParent;

/// What a record costs besides its payload: entry, lane, queues. An estimate, so that empty records are bounded too.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 512;

impl Engine {
    pub(super) fn assigned(&mut self, partition: Partition, state: PartitionState, effects: &mut Effects) {
        if self.is_shutting_down {
            let session = state.session;
            effects.push(Effect::Release { partition, session });
            return;
        }
        // A session that was never ended can only be one that Kafka took without telling.
        self.lost(&[partition], effects);
        if state.is_careful() {
            let unclean_ends = state.unclean_ends;
            effects.push(Effect::Report(Report::CrashLoop { partition, unclean_ends }));
        }
        self.partitions.insert(partition, state);
    }

    pub(super) fn polled(
        &mut self,
        now: Now,
        partition: Partition,
        session: Session,
        records: Vec<Record>,
        effects: &mut Effects,
    ) {
        for record in records {
            let is_current =
                self.partitions.get(&partition).is_some_and(|state| state.session == session && state.is_active());
            // Whoever owns the partition next polls it again.
            if is_current {
                self.take_in(now, record, effects);
            }
        }
        self.note_fetched(now);
    }

    fn take_in(&mut self, now: Now, record: Record, effects: &mut Effects) {
        let coordinates = record.coordinates;
        let ticket = Ticket(self.next_ticket);
        let Some(state) = self.partitions.get_mut(&coordinates.partition) else { return };
        let Some(sequence) = state.watermark.push(coordinates.offset, ticket) else { return };
        let epoch = state.epoch;
        self.next_ticket += 1;
        self.accounting.polled += 1;

        let (event, lane, burial) = match self.decode(&record) {
            Decoded::Event { event, lane } => (Some(Arc::new(event)), lane, None),
            Decoded::Poison { reason, error } => (None, None, Some(Burial { reason, class: "permanent", error })),
            Decoded::Ignored { event_type } => {
                if let Some(state) = self.partitions.get_mut(&coordinates.partition) {
                    state.watermark.end(sequence);
                }
                self.count(Outcome::Ignored);
                effects.push(Effect::Report(Report::IgnoredEventType { event_type }));
                let name = RecordName {
                    ticket,
                    coordinates,
                    timestamp: record.timestamp,
                    order_id: None,
                    trace: TraceParent::of(&record),
                };
                let outcome = Outcome::Ignored;
                effects.push(Effect::Report(Report::Ended { record: name, outcome, duration: Now::ZERO }));
                return;
            }
        };
        let (identity, fingerprint) = match &event {
            Some(event) => (event.identity.clone(), event.fingerprint),
            None => synthetic_identity(&self.config.topic, &record),
        };
        let bytes = record.size() + ENTRY_OVERHEAD_BYTES;
        let entry = Entry {
            record,
            epoch,
            origin: Origin::Polled { sequence },
            identity,
            fingerprint,
            key: lane.unwrap_or(LaneKey(ticket.0)),
            lane,
            event,
            stage: Stage::Gated,
            orphaned: false,
            polled_at: now,
            bytes,
            was_claimed_before: false,
            starts: 0,
            attempts: 0,
            blame: Blame::None,
            failures: Attempts::default(),
            outages: 0,
            started_at: Now::ZERO,
            failed_at: None,
            seen_failing_at: None,
            parking: None,
            burial,
            busy: None,
            seizure: None,
            address: RowAddress::default(),
        };
        self.admit(ticket, entry);
    }

    fn admit(&mut self, ticket: Ticket, entry: Entry) {
        let partition = entry.partition();
        if let (Some(lane), Some(state)) = (entry.lane, self.partitions.get_mut(&partition)) {
            state.join_lane(lane, ticket);
        }
        self.bytes += entry.bytes;
        self.entries.insert(ticket, Box::new(entry));
        if !self.orphans.contains_key(&partition) {
            self.claim_again(ticket);
        }
    }

    /// A panic in decode is an outcome of the record, not the end of the process.
    pub(super) fn decode(&self, record: &Record) -> Decoded {
        catch_unwind(AssertUnwindSafe(|| self.config.decoder.decode(record)))
            .unwrap_or_else(|_| Decoded::Poison { reason: Reason::Undecodable, error: "decoding panicked".to_owned() })
    }

    pub(super) fn claim_again(&mut self, ticket: Ticket) {
        self.set_stage(ticket, Stage::Claiming);
        self.claims.push(ticket);
    }

    /// An orphan of the partition is gone; after the last one the session that waited begins.
    pub(super) fn orphan_gone(&mut self, partition: Partition) {
        let Some(count) = self.orphans.get_mut(&partition) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.orphans.remove(&partition);
        let Some(state) = self.partitions.get(&partition) else { return };
        let gated: Vec<Ticket> = state.watermark.unfinished().collect();
        for ticket in gated {
            self.claim_again(ticket);
        }
    }
}
