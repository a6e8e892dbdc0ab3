//! What operators do to the tables of the ledger, said plainly, and what workers read of it.

use super::tables::{Tables, Waiting};
use super::*;
use crate::core::decode::{Decoded, synthetic_identity};
use crate::core::input::ReplayRow;
use crate::core::key::LaneKey;

impl Tables {
    pub(super) fn is_dead(&self, identity: &Identity) -> bool {
        self.ledger.get(identity).is_some_and(|row| row.state == LedgerState::Dead)
    }

    /// As if a later statement of its owner had written the row.
    pub(super) fn overtake(&mut self, record: &Record) {
        self.ledger.get_mut(&identity_of(record)).expect("it has a row").serial = Serial(u64::MAX);
    }

    /// What an operator does with a letter: it is due now.
    pub(super) fn schedule_replay(&mut self, record: &Record) {
        let identity = identity_of(record);
        let row = self.ledger.get_mut(&identity).expect("a letter has a row");
        (row.state, row.starts) = (LedgerState::Parked, 0);
        row.serial.0 += 1;
        let waiting = Waiting {
            coordinates: record.coordinates,
            key: LaneKey::of(identity.order_id.as_bytes()),
            record: record.clone(),
            attempts: 0,
            due: Now::ZERO,
            first_failed: Now::ZERO,
            failures: Vec::new(),
            is_replay: true,
            is_loaded: false,
        };
        self.parked.insert(identity, waiting);
    }

    /// What an operator cancels: dead again, as far as no worker has read it.
    pub(super) fn cancel_replays(&mut self) {
        let is_untouched = |waiting: &Waiting| waiting.is_replay && !waiting.is_loaded;
        let of_replays: Vec<_> = self.parked.iter().filter(|(_, waiting)| is_untouched(waiting)).collect();
        let cancelled: Vec<Identity> = of_replays.into_iter().map(|(identity, _)| identity.clone()).collect();
        for identity in cancelled {
            self.parked.remove(&identity);
            if let Some(row) = self.ledger.get_mut(&identity).filter(|row| row.state == LedgerState::Parked) {
                row.state = LedgerState::Dead;
            }
        }
    }

    /// The replayed records of these partitions that are due, but for those that are held in memory and those of keys that wait for
    /// a retry. What was settled otherwise is removed.
    pub(super) fn replays(
        &mut self,
        now: Now,
        wanted: &[(Partition, Epoch)],
        held: &[Coordinates],
        room: usize,
    ) -> Vec<ReplayRow> {
        let epoch = |waiting: &Waiting| {
            let wanted = wanted.iter().find(|(partition, _)| *partition == waiting.coordinates.partition);
            wanted.map(|(_, epoch)| *epoch)
        };
        let is_due = |waiting: &Waiting| {
            let waits_behind = || !self.retries(waiting.coordinates.partition, Some(waiting.key)).is_empty();
            let is_held = held.contains(&waiting.coordinates);
            waiting.is_replay && !is_held && waiting.due <= now && epoch(waiting).is_some() && !waits_behind()
        };
        let mut due: Vec<_> = self.parked.iter().filter(|(_, waiting)| is_due(waiting)).collect();
        due.sort_by_key(|(_, waiting)| waiting.due);
        let due: Vec<Identity> = due.into_iter().take(room).map(|(identity, _)| identity.clone()).collect();
        let mut found = Vec::new();
        for identity in due {
            let Some(mut row) = self.parked_row(now, &identity) else {
                self.parked.remove(&identity);
                continue;
            };
            // It may have failed before it became a letter, too.
            row.last_failed_ago = Some(row.first_failed_ago);
            let waiting = self.parked.get_mut(&identity).expect("it is parked");
            waiting.is_loaded = true;
            found.extend(epoch(waiting).map(|epoch| ReplayRow { epoch, key: waiting.key, row }));
        }
        found
    }
}

fn identity_of(record: &Record) -> Identity {
    let decoder = Decoder::new(["ORDER_CREATED", "ORDER_PAID"], OrderingKey::OrderId);
    match decoder.decode(record) {
        Decoded::Event { event, .. } => event.identity,
        Decoded::Poison { .. } | Decoded::Ignored { .. } => synthetic_identity("order_events", record).0,
    }
}
