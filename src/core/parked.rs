//! What one session of a partition knows of its parked records: which keys are blocked, when each is due, and which of its records
//! are in memory. The records themselves are in `parked_events`.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::entry::Blame;
use super::input::{Now, ParkedLane, Ticket};
use super::key::LaneKey;

/// The keys that have parked records. Later records of such a key are parked behind them.
#[derive(Debug, Default)]
pub struct ParkedLanes {
    lanes: HashMap<LaneKey, Lane>,
    /// The lanes that can be loaded, by when they are due.
    due: BTreeSet<(Now, LaneKey)>,
    /// Of all lanes together.
    rows: u64,
    /// Keys that nothing is parked of any more, since this was last asked.
    unblocked: Vec<LaneKey>,
}

/// How a record failed that is parked since.
#[derive(Clone, Copy, Debug)]
pub struct LastFailure {
    pub at: Now,
    pub blame: Blame,
}

#[derive(Debug, Default)]
struct Lane {
    /// Rows of the table, as far as this session knows.
    rows: u64,
    /// Records that are being parked and are not durable as such yet.
    joining: u32,
    stored: Stored,
    /// Of the first record, if it failed in this session.
    last_failure: Option<LastFailure>,
    /// Records in memory that have not ended, in offset order.
    loaded: VecDeque<Ticket>,
    /// How many of them, from the front, were delivered and wait to be settled.
    passed: usize,
}

/// What the table holds of a key beyond what is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stored {
    #[default]
    Nothing,
    Rows {
        due: Now,
    },
    /// Being read; what joins meanwhile may be read or not.
    Loading {
        joined_meanwhile: bool,
    },
}

impl ParkedLanes {
    /// The state of the table when the session began.
    pub fn new(now: Now, keys: Vec<ParkedLane>) -> Self {
        let mut lanes = Self::default();
        for ParkedLane { key, due_in, rows } in keys {
            lanes.change(key, |lane| {
                lane.rows = rows;
                lane.stored = Stored::Rows { due: now + due_in };
            });
        }
        lanes
    }

    #[must_use]
    pub fn is_blocked(&self, key: LaneKey) -> bool {
        self.lanes.contains_key(&key)
    }

    /// Keys that are blocked.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.lanes.len()
    }

    /// Rows of the table, as far as this session knows, and records that are on their way into it.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    #[must_use]
    pub fn next_due(&self) -> Option<Now> {
        self.due.first().map(|(due, _)| *due)
    }

    /// A polled record of this key is about to be parked.
    pub fn joins(&mut self, key: LaneKey) {
        self.change(key, |lane| lane.joining += 1);
    }

    /// It is in the table. Behind others its own due time does not matter.
    pub fn joined(&mut self, key: LaneKey, due: Now) {
        self.change(key, |lane| {
            lane.rows += 1;
            lane.joining = lane.joining.saturating_sub(1);
            lane.stored = match lane.stored {
                Stored::Nothing => Stored::Rows { due },
                Stored::Rows { due } => Stored::Rows { due },
                Stored::Loading { .. } => Stored::Loading { joined_meanwhile: true },
            };
        });
    }

    /// The first record of the key was parked because it failed; one behind it comes without such a time.
    pub fn note_failure(&mut self, key: LaneKey, failure: Option<LastFailure>) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.last_failure = failure.or(lane.last_failure);
        }
    }

    /// Of the first record of the key, in this session.
    #[must_use]
    pub fn last_failure(&self, key: LaneKey) -> Option<LastFailure> {
        self.lanes.get(&key)?.last_failure
    }

    /// It will not be in the table.
    pub fn joins_not(&mut self, key: LaneKey) {
        self.change(key, |lane| lane.joining = lane.joining.saturating_sub(1));
    }

    /// Takes the key that is due first: it is being loaded from here on.
    pub fn take_first_due(&mut self) -> Option<LaneKey> {
        let (_, key) = *self.due.first()?;
        self.change(key, |lane| lane.stored = Stored::Loading { joined_meanwhile: false });
        Some(key)
    }

    /// What the table held of a key that was being loaded; `is_all` when nothing was behind.
    pub fn loaded(&mut self, key: LaneKey, now: Now, tickets: Vec<Ticket>, is_all: bool) {
        self.change(key, |lane| {
            let is_all = is_all && lane.stored == Stored::Loading { joined_meanwhile: false };
            lane.stored = if is_all { Stored::Nothing } else { Stored::Rows { due: now } };
            if is_all {
                // Others may have removed some.
                lane.rows = tickets.len() as u64;
            }
            lane.loaded = tickets.into();
            lane.passed = 0;
        });
    }

    /// The table could not be read: again at this time.
    pub fn not_loaded(&mut self, key: LaneKey, retry_at: Now) {
        self.change(key, |lane| lane.stored = Stored::Rows { due: retry_at });
    }

    /// The first record of a key that is in memory: the only one that may be delivered.
    #[must_use]
    pub fn head(&self, key: LaneKey) -> Option<Ticket> {
        self.lanes.get(&key)?.head()
    }

    /// The delivery of the record is over, though it has not ended; gives the one to deliver next.
    pub fn pass(&mut self, key: LaneKey, ticket: Ticket) -> Option<Ticket> {
        let lane = self.lanes.get_mut(&key)?;
        if lane.head() == Some(ticket) {
            lane.passed += 1;
        }
        lane.head()
    }

    /// The record is in the table no more; gives the one to deliver next.
    pub fn ended(&mut self, key: LaneKey, ticket: Ticket) -> Option<Ticket> {
        let mut head = None;
        self.change(key, |lane| {
            let Some(place) = lane.loaded.iter().position(|other| *other == ticket) else { return };
            lane.rows = lane.rows.saturating_sub(1);
            lane.last_failure = None;
            lane.loaded.remove(place);
            lane.passed -= usize::from(place < lane.passed);
            head = lane.head();
        });
        head
    }

    /// Rows of a key that were found settled by somebody else, and removed.
    pub fn removed(&mut self, key: LaneKey, rows: u64) {
        self.change(key, |lane| lane.rows = lane.rows.saturating_sub(rows));
    }

    /// The records of a key that are in memory and were not delivered are left to the table, which is read again at this time;
    /// gives their tickets.
    pub fn put_back(&mut self, key: LaneKey, due: Now) -> VecDeque<Ticket> {
        let mut tickets = VecDeque::new();
        self.change(key, |lane| {
            tickets = lane.loaded.split_off(lane.passed);
            lane.stored = Stored::Rows { due };
        });
        tickets
    }

    /// The keys that nothing is parked of any more.
    pub fn take_unblocked(&mut self) -> Vec<LaneKey> {
        std::mem::take(&mut self.unblocked)
    }

    /// Records in memory that have not ended.
    pub fn in_memory(&self) -> impl Iterator<Item = Ticket> {
        self.lanes.values().flat_map(|lane| lane.loaded.iter().copied())
    }

    /// A lane can be loaded when nothing of it is in memory or on its way into the table; it is gone when it is empty.
    fn change(&mut self, key: LaneKey, change: impl FnOnce(&mut Lane)) {
        let lane = self.lanes.entry(key).or_default();
        if let Some(due) = lane.loadable_at() {
            self.due.remove(&(due, key));
        }
        self.rows -= lane.records();
        change(lane);
        self.rows += if lane.is_empty() { 0 } else { lane.records() };
        if let Some(due) = lane.loadable_at() {
            self.due.insert((due, key));
        } else if lane.is_empty() {
            self.lanes.remove(&key);
            self.unblocked.push(key);
        }
    }
}

impl Lane {
    fn head(&self) -> Option<Ticket> {
        self.loaded.get(self.passed).copied()
    }

    fn loadable_at(&self) -> Option<Now> {
        match self.stored {
            Stored::Rows { due } if self.joining == 0 && self.loaded.is_empty() => Some(due),
            Stored::Rows { .. } | Stored::Nothing | Stored::Loading { .. } => None,
        }
    }

    fn records(&self) -> u64 {
        self.rows + u64::from(self.joining)
    }

    fn is_empty(&self) -> bool {
        self.joining == 0 && self.loaded.is_empty() && self.stored == Stored::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: LaneKey = LaneKey(7);

    fn stored(keys: &[(LaneKey, Now, u64)]) -> ParkedLanes {
        let lane = |&(key, due_in, rows): &(LaneKey, Now, u64)| ParkedLane { key, due_in, rows };
        ParkedLanes::new(Now::ZERO, keys.iter().map(lane).collect())
    }

    fn at(seconds: u64) -> Now {
        Now::from_secs(seconds)
    }

    #[test]
    fn a_key_is_blocked_from_the_first_record_that_joins_until_the_last_has_ended() {
        let mut lanes = ParkedLanes::default();
        lanes.joins(KEY);
        assert!(lanes.is_blocked(KEY));
        lanes.joins(KEY);
        lanes.joined(KEY, at(30));
        assert_eq!(lanes.next_due(), None, "the second one may come before the first");
        lanes.joined(KEY, at(0));
        assert_eq!((lanes.next_due(), lanes.rows()), (Some(at(30)), 2));
        assert_eq!(lanes.take_first_due(), Some(KEY));
        assert_eq!(lanes.take_first_due(), None);
        lanes.loaded(KEY, at(31), vec![Ticket(1), Ticket(2)], true);
        assert_eq!(lanes.pass(KEY, Ticket(1)), Some(Ticket(2)));
        assert_eq!(lanes.ended(KEY, Ticket(1)), Some(Ticket(2)));
        assert_eq!(lanes.ended(KEY, Ticket(2)), None);
        assert!(!lanes.is_blocked(KEY));
        assert_eq!(lanes.rows(), 0);
    }

    #[test]
    fn what_joined_meanwhile_is_loaded_after_what_is_in_memory_has_ended() {
        let mut lanes = stored(&[(KEY, at(1), 1)]);
        lanes.take_first_due();
        lanes.loaded(KEY, at(1), vec![Ticket(1)], true);
        lanes.joins(KEY);
        lanes.joined(KEY, at(0));
        assert_eq!(lanes.pass(KEY, Ticket(1)), None);
        assert_eq!(lanes.next_due(), None, "the first waits for its settlement");
        lanes.ended(KEY, Ticket(1));
        assert_eq!(lanes.take_first_due(), Some(KEY));
        lanes.not_loaded(KEY, at(5));
        assert_eq!(lanes.next_due(), Some(at(5)));
        lanes.take_first_due();
        lanes.loaded(KEY, at(5), Vec::new(), true);
        assert!(!lanes.is_blocked(KEY));
    }

    #[test]
    fn what_joins_while_the_key_is_read_is_not_forgotten() {
        let mut lanes = stored(&[(KEY, at(0), 1)]);
        lanes.take_first_due();
        lanes.joins(KEY);
        lanes.joined(KEY, at(0));
        lanes.loaded(KEY, at(0), vec![Ticket(1)], true);
        lanes.ended(KEY, Ticket(1));
        assert_eq!((lanes.next_due(), lanes.rows()), (Some(at(0)), 1));
    }

    #[test]
    fn a_record_that_is_parked_again_takes_those_behind_it_along() {
        let mut lanes = stored(&[(KEY, at(0), 3), (LaneKey(8), at(0), 1)]);
        assert_eq!([lanes.take_first_due(), lanes.take_first_due()], [Some(KEY), Some(LaneKey(8))]);
        lanes.loaded(KEY, at(0), vec![Ticket(1), Ticket(2)], false);
        assert_eq!(lanes.put_back(KEY, at(60)), [Ticket(1), Ticket(2)]);
        assert_eq!((lanes.next_due(), lanes.head(KEY)), (Some(at(60)), None));
        assert_eq!((lanes.rows(), lanes.keys()), (4, 2));
    }
}
