//! What has to hold after each step: the promises of `core/invariants.rs`, against all that the world has seen.

use super::*;

/// Bytes that a record of the model takes at most, with what it costs beside its payload.
const LARGEST_RECORD: usize = 700;

impl World {
    /// I1: whatever lies below a committed offset has a durable end, or is parked.
    pub(super) fn commit(&mut self, partition: Partition, offset: Offset) {
        let records = &self.log[number(partition)];
        let position = records.iter().position(|record| record.coordinates.offset >= offset).unwrap_or(records.len());
        let before = self.committed[number(partition)];
        invariants::custody(position >= before, || format!("seed {}: a commit went back", self.seed)).unwrap();
        for record in &records[before..position] {
            let detail = || format!("seed {}: {:?} has no custody", self.seed, record.coordinates);
            invariants::custody(self.has_custody(record), detail).unwrap();
        }
        self.committed[number(partition)] = position;
    }

    fn has_custody(&self, record: &Record) -> bool {
        let Some(content) = &self.contents[&record.coordinates] else { return true };
        let (identity, fingerprint) = content;
        // A copy ends when another one is parked: that one will be told.
        let is_parked = self.tables.ledger.get(identity).is_some_and(|row| {
            let waiting = self.tables.parked.get(identity);
            row.state == LedgerState::Parked
                && row.fingerprint == *fingerprint
                && waiting.is_some_and(|waiting| waiting.coordinates == row.coordinates)
        });
        is_parked || self.settled.contains(content)
    }

    /// I2 to I5: what is settled, or may not be repeated, never starts again; one delivery of a key at a time, in its order, by the
    /// owner of its partition; attempts are spent by answers only. I6: it is told what was produced.
    pub(super) fn start_delivery(&mut self, index: usize, delivery: Delivery) {
        let (seed, identity) = (self.seed, &delivery.event.identity);
        let state = self.tables.ledger.get(identity).map(|row| row.state);
        let is_owned = self.owners[number(delivery.coordinates.partition)] == Some(index);
        let is_believed = self.workers[index].lost.contains(&delivery.coordinates.partition);
        // The late success of an owner that went away may settle what its successor has claimed already; and one that stood still when
        // its partition went, and was told of no other owner, may start what its successor has settled.
        let is_late = self.cut_off.contains(identity) || is_believed;
        let is_settled = state == Some(LedgerState::Done) && !is_late;
        let is_once = self.story == Story::AtMostOnce;
        let may_not_be_repeated = is_once && (self.effects.contains(identity) || !self.started.contains(identity));
        let detail = || format!("seed {seed}: {identity:?} starts in the state {state:?}");
        invariants::notified_once(!is_settled && !may_not_be_repeated, detail).unwrap();

        let detail = || format!("seed {seed}: {identity:?} twice at once");
        invariants::one_at_a_time(self.is_alone(index, &delivery), detail).unwrap();
        self.assert_order(&delivery);

        let detail = || format!("seed {seed}: {identity:?} starts in a partition of others");
        invariants::owned(is_owned || is_believed, detail).unwrap();

        let (attempt, spent) = (delivery.attempt, self.spent.get(identity).copied().unwrap_or_default());
        let detail = || format!("seed {seed}: attempt {attempt} after {spent} answers");
        invariants::blamed(attempt <= 1 + spent, detail).unwrap();
        self.assert_told_as_produced(&delivery);
        let identity = identity.clone();
        self.failures.entry((index, identity.clone())).or_default().started = self.now;
        if is_believed {
            self.note_cut_off(identity);
        }
        self.workers[index].deliveries.push(delivery);
    }

    /// Nothing else of its key runs in its partition; and where nothing may be repeated, no copy of it anywhere: a worker that lost
    /// its partition may still wait for an answer.
    fn is_alone(&self, index: usize, delivery: &Delivery) -> bool {
        let (lane, identity) = (self.lane_of(delivery), &delivery.event.identity);
        let is_of_lane = |other: &Delivery| {
            other.coordinates.partition == delivery.coordinates.partition && self.lane_of(other) == lane
        };
        let of_all = self.workers.iter().flat_map(|worker| &worker.deliveries);
        let is_copy = |other: &Delivery| other.event.identity == *identity;
        let runs_here = self.workers[index].deliveries.iter().any(|other| is_of_lane(other) || is_copy(other));
        let runs_anywhere = self.story == Story::AtMostOnce && of_all.into_iter().any(is_copy);
        !runs_here && !runs_anywhere
    }

    fn assert_order(&self, delivery: &Delivery) {
        let (at, lane) = (delivery.coordinates, self.lane_of(delivery));
        let records = &self.log[number(at.partition)];
        let before = records.iter().take_while(|record| record.coordinates.offset < at.offset);
        for earlier in before.filter(|record| self.lanes.get(&record.coordinates) == Some(&lane)) {
            let Some(content) = &self.contents[&earlier.coordinates] else { continue };
            let row = self.tables.ledger.get(&content.0);
            let is_told = self.notified.contains_key(&content.0) || self.settled.contains(content);
            // It has ended as a copy of one that is elsewhere.
            let is_copy = row.is_some_and(|row| row.coordinates != earlier.coordinates);
            let detail = || format!("seed {}: {at:?} overtakes {:?}", self.seed, earlier.coordinates);
            invariants::one_at_a_time(is_told || is_copy || is_bad(&content.0), detail).unwrap();
        }
    }

    fn assert_told_as_produced(&self, delivery: &Delivery) {
        let record = self.produced(delivery.coordinates);
        let Decoded::Event { event, .. } = self.story.decoder().decode(record) else {
            panic!("seed {}: {record:?} is delivered", self.seed)
        };
        assert_eq!((&event.identity, &event.order), (&delivery.event.identity, &delivery.event.order));
    }

    /// I5: nobody is given up on for an outage, for what others did to its worker, or for what never began.
    pub(super) fn is_to_blame(&self, index: usize, letter: &DeadLetter) -> bool {
        let identity = &letter.settlement.identity;
        let failures = self.failures.get(&(index, identity.clone())).copied().unwrap_or_default();
        match letter.reason {
            Reason::Exhausted => self.works_for_others(letter, failures),
            Reason::CrashLoop => self.is_deadly(identity) || self.died_with_it_twice(identity),
            Reason::Uncertain => self.story == Story::AtMostOnce && self.started.contains(identity),
            Reason::Conflict => self.is_in_conflict(letter),
            Reason::Invalid => self.is_invalid(letter),
            Reason::Undecodable => !is_event(identity),
            Reason::Permanent => is_event(identity),
        }
    }

    /// Scheduled, and read by no worker since.
    pub(super) fn is_untried_replay(&self, identity: &Identity) -> bool {
        let is_parked = self.tables.ledger.get(identity).is_some_and(|row| row.state == LedgerState::Parked);
        is_parked && self.tables.parked.get(identity).is_some_and(|waiting| waiting.is_replay && !waiting.is_loaded)
    }

    /// The channel worked for another key between its last two failures, or during the last attempt: one that was cut off may have
    /// failed meanwhile.
    fn works_for_others(&self, letter: &DeadLetter, failures: Failures) -> bool {
        let lane = self.lanes[&letter.record.coordinates];
        let since = failures.before_last.map_or(failures.started, |before| before.min(failures.started));
        let works = |(other, at): &(LaneKey, Now)| *other != lane && *at > since && Some(*at) <= failures.last;
        self.successes.iter().rev().any(works)
    }

    /// Another content of the order was notified, is parked, or was uncertain: it keeps the identity, and this one has its own.
    fn is_in_conflict(&self, letter: &DeadLetter) -> bool {
        let Some((identity, fingerprint)) = &self.contents[&letter.record.coordinates] else { return false };
        let others = self.kept.get(identity);
        *identity != letter.settlement.identity
            && others.is_some_and(|kept| kept.iter().any(|other| other != fingerprint))
    }

    /// The ledger cannot store it.
    fn is_invalid(&self, letter: &DeadLetter) -> bool {
        let content = &self.contents[&letter.record.coordinates];
        content.as_ref().is_some_and(|(identity, _)| is_bad(identity) && *identity != letter.settlement.identity)
    }

    /// Workers are killed from outside or lose their partitions: twice with the same record on its way.
    fn died_with_it_twice(&self, identity: &Identity) -> bool {
        self.story != Story::Deadly && self.unfinished.get(identity).is_some_and(|count| *count >= 2)
    }

    /// I6: the record is kept as it was produced.
    pub(super) fn assert_unchanged(&self, kept: &Record) {
        invariants::unchanged(self.produced(kept.coordinates), kept).unwrap();
    }

    fn produced(&self, at: Coordinates) -> &Record {
        let records = &self.log[number(at.partition)];
        let place = records.binary_search_by_key(&at.offset, |record| record.coordinates.offset);
        &records[place.expect("it was produced")]
    }

    /// I8: what is held is counted, and bounded but for what one answer brings.
    pub(super) fn assert_bounded(&self, index: usize) {
        let (engine, limit) = (&self.workers[index].engine, self.story.max_records());
        invariants::bounded(engine.stats().in_flight, limit + POLL).unwrap();
        let loaded = || engine.entries.values().filter(|entry| entry.is_parked());
        // Those of one statement come when a quarter, or as many as there is room for, are in memory.
        invariants::bounded(loaded().count(), limit / 4 + self.largest_load.max(limit)).unwrap();
        let bytes = |entries: &mut dyn Iterator<Item = &Box<Entry>>| entries.map(|entry| entry.bytes).sum::<usize>();
        let counted = (engine.bytes, engine.loaded.bytes, engine.loaded.records);
        let held = (bytes(&mut engine.entries.values()), bytes(&mut loaded()), loaded().count());
        assert_eq!(counted, held, "seed {}: bytes, of those loaded, and their number", self.seed);
        let most = self.story.max_bytes();
        invariants::bounded(engine.bytes - engine.loaded.bytes, most + POLL * LARGEST_RECORD).unwrap();
        invariants::bounded(engine.loaded.bytes, most + self.largest_load * LARGEST_RECORD).unwrap();
    }

    /// Once the settlement is durable and nobody goes on with what was decided before, it is settled for good.
    pub(super) fn forget_cut_off(&mut self) {
        let is_over = |identity: &Identity| !self.workers.iter().any(|worker| worker.holds(identity));
        let over: Vec<Identity> = self.done_late.iter().filter(|identity| is_over(identity)).cloned().collect();
        for identity in over {
            self.done_late.remove(&identity);
            self.cut_off.remove(&identity);
        }
    }

    pub(super) fn note_cut_off(&mut self, identity: Identity) {
        let row = self.tables.ledger.get(&identity);
        if row.is_some_and(|row| row.state == LedgerState::Done) {
            self.done_late.insert(identity.clone());
        }
        self.ever_cut_off.insert(identity.clone());
        self.cut_off.insert(identity);
    }

    pub(super) fn uncertain(&self) -> usize {
        self.tables.ledger.values().filter(|row| row.state == LedgerState::Uncertain).count()
    }

    /// Every identity has one end, who is settled as notified was notified, and every content was told or is a dead letter.
    pub(super) fn assert_all_told(&self) {
        let seed = self.seed;
        for (identity, row) in &self.tables.ledger {
            let is_ended = matches!(row.state, LedgerState::Done | LedgerState::Dead | LedgerState::Uncertain);
            assert!(is_ended, "seed {seed}: {identity:?} was left behind as {:?}", row.state);
            let is_told = self.told.contains(&(identity.clone(), row.fingerprint));
            assert!(row.state != LedgerState::Done || is_told, "seed {seed}: {identity:?} is settled untold");
            let is_convicted = row.state == LedgerState::Dead && self.convicted.contains(identity);
            let is_deadly = self.is_always_deadly(identity);
            assert!(!is_deadly || is_convicted, "seed {seed}: {identity:?} ended as {:?}", row.state);
        }
        for (at, content) in &self.contents {
            let is_settled = content.as_ref().is_none_or(|content| self.settled.contains(content));
            assert!(is_settled, "seed {seed}: what {at:?} says was neither told nor given up");
        }
    }
}
