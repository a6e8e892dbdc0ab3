//! What has to hold after each step: the promises of `core/invariants.rs`, against all that the world has seen.

use super::*;

impl World {
    /// I1: whatever lies below a committed offset has a durable end, or is parked.
    pub(super) fn commit(&mut self, partition: Partition, offset: Offset) {
        let records = &self.log[number(partition)];
        let position = records.iter().position(|record| record.coordinates.offset >= offset).unwrap_or(records.len());
        let before = self.committed[number(partition)];
        invariants::custody(position >= before, || format!("seed {}: a commit went back", self.seed)).unwrap();
        for record in &records[..position] {
            let at = record.coordinates;
            let has_custody = self.identities[&at].iter().any(|identity| {
                let row = self.tables.ledger.get(identity);
                // A copy ends when another one is parked: that one will be told.
                let is_parked = row.is_some_and(|row| {
                    row.state == LedgerState::Parked
                        && self
                            .tables
                            .parked
                            .get(identity)
                            .is_some_and(|waiting| waiting.coordinates == row.coordinates)
                });
                self.settled.contains(identity) || is_parked
            });
            let detail = || format!("seed {}: {at:?} has no custody", self.seed);
            invariants::custody(has_custody || self.identities[&at].is_empty(), detail).unwrap();
        }
        self.committed[number(partition)] = position;
    }

    /// I2 to I5: what is settled, or may not be repeated, never starts again; one delivery of an identity at a time, in the order
    /// of its key, by the owner of its partition; attempts are spent by answers only.
    pub(super) fn start_delivery(&mut self, index: usize, delivery: Delivery) {
        let (seed, identity) = (self.seed, &delivery.event.identity);
        let state = self.tables.ledger.get(identity).map(|row| row.state);
        // The late success of an owner that went away may settle what its successor has claimed already.
        let is_settled = state == Some(LedgerState::Done) && !self.cut_off.contains(identity);
        let is_once = self.story == Story::AtMostOnce;
        let may_not_be_repeated = is_once && (self.effects.contains(identity) || !self.started.contains(identity));
        let detail = || format!("seed {seed}: {identity:?} starts in the state {state:?}");
        invariants::notified_once(!is_settled && !may_not_be_repeated, detail).unwrap();

        // A worker that lost its partition may still wait for an answer.
        let rivals = self.workers.iter().enumerate().filter(|(other, _)| is_once || *other == index);
        let is_alone = rivals.flat_map(|(_, worker)| &worker.deliveries).all(|other| other.event.identity != *identity);
        invariants::one_at_a_time(is_alone, || format!("seed {seed}: {identity:?} twice at once")).unwrap();

        let is_owned = self.workers[index].sessions.contains_key(&delivery.coordinates.partition);
        invariants::owned(is_owned, || format!("seed {seed}: {identity:?} starts in a partition of others")).unwrap();

        let (attempt, spent) = (delivery.attempt, self.spent.get(identity).copied().unwrap_or_default());
        let detail = || format!("seed {seed}: attempt {attempt} after {spent} answers");
        invariants::blamed(attempt <= 1 + spent, detail).unwrap();
        self.assert_order(&delivery);
        self.first_started.entry(identity.clone()).or_insert(self.now);
        self.workers[index].deliveries.push(delivery);
    }

    fn assert_order(&self, delivery: &Delivery) {
        let at = delivery.coordinates;
        let records = &self.log[number(at.partition)];
        let before = records.iter().take_while(|record| record.coordinates.offset < at.offset);
        for earlier in before {
            let Some(identity) = self.identities[&earlier.coordinates].first() else { continue };
            if identity.order_id != delivery.event.identity.order_id {
                continue;
            }
            let row = self.tables.ledger.get(identity);
            let is_told = self.notified.contains_key(identity) || self.settled.contains(identity);
            // It has ended as a copy of one that is elsewhere.
            let is_copy = row.is_some_and(|row| row.coordinates != earlier.coordinates);
            let detail = || format!("seed {}: {at:?} overtakes {:?}", self.seed, earlier.coordinates);
            invariants::one_at_a_time(is_told || is_copy, detail).unwrap();
        }
    }

    /// I5: nobody is given up on for an outage, for what others did to its worker, or for what never began.
    pub(super) fn assert_blame(&self, letter: &DeadLetter) {
        let identity = &letter.settlement.identity;
        let is_to_blame = match letter.reason {
            Reason::Exhausted => self.works_for_others(identity),
            Reason::CrashLoop => self.is_deadly(identity) || self.died_with_it_twice(identity),
            Reason::Uncertain => self.story == Story::AtMostOnce && self.started.contains(identity),
            Reason::Undecodable | Reason::Invalid | Reason::Conflict | Reason::Permanent => true,
        };
        let detail = || format!("seed {}: {identity:?} is given up as {}", self.seed, letter.reason);
        invariants::blamed(is_to_blame, detail).unwrap();
    }

    /// The channel worked for another key since this one was first tried.
    fn works_for_others(&self, identity: &Identity) -> bool {
        let key = LaneKey::of(identity.order_id.as_bytes());
        let since = self.first_started[identity];
        self.successes.iter().any(|(other, at)| *other != key && *at >= since)
    }

    /// Workers are killed from outside or lose their partitions: twice with the same record on its way.
    fn died_with_it_twice(&self, identity: &Identity) -> bool {
        self.story != Story::Deadly && self.unfinished.get(identity).is_some_and(|count| *count >= 2)
    }

    /// I6: the record is kept as it was produced.
    pub(super) fn assert_unchanged(&self, kept: &Record) {
        let records = &self.log[number(kept.coordinates.partition)];
        let original = records.iter().find(|record| record.coordinates == kept.coordinates).unwrap();
        invariants::unchanged(original, kept).unwrap();
    }

    pub(super) fn uncertain(&self) -> usize {
        self.tables.ledger.values().filter(|row| row.state == LedgerState::Uncertain).count()
    }

    /// Every identity has one end, and who is settled as notified was notified.
    pub(super) fn assert_all_told(&self) {
        let seed = self.seed;
        for (identity, row) in &self.tables.ledger {
            let is_ended = matches!(row.state, LedgerState::Done | LedgerState::Dead | LedgerState::Uncertain);
            assert!(is_ended, "seed {seed}: {identity:?} was left behind as {:?}", row.state);
            let is_notified = self.notified.contains_key(identity);
            assert!(row.state != LedgerState::Done || is_notified, "seed {seed}: {identity:?} is settled untold");
            let is_convicted = row.state == LedgerState::Dead && self.convicted.contains(identity);
            let is_deadly = self.is_always_deadly(identity);
            assert!(!is_deadly || is_convicted, "seed {seed}: {identity:?} ended as {:?}", row.state);
        }
    }
}

/// The identities under which a record may have ended: its own, and the synthetic one of a conflict or of poison.
pub(super) fn identities(record: &Record) -> Vec<Identity> {
    let synthetic = synthetic_identity("order_events", record).0;
    match decoder().decode(record) {
        Decoded::Event { event, .. } => vec![event.identity, synthetic],
        Decoded::Poison { .. } => vec![synthetic],
        Decoded::Ignored { .. } => Vec::new(),
    }
}
