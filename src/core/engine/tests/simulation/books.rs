//! I7, the second sum: what was parked was settled from there, or was found settled otherwise, or is parked still.

use super::*;

/// Of all workers together, those that are gone included.
#[derive(Default)]
pub(super) struct Books {
    /// Rows that came into the table: retries, those behind them, replays.
    came: u64,
    /// Reported as ended.
    settled: u64,
    /// Found settled otherwise when they were read.
    removed: u64,
    /// Left the table by a statement whose answer died with its worker.
    pub(super) unheard: u64,
    /// Reported as ended though their row had left already: two had the effect of one, since an owner was cut off.
    again: u64,
    /// Reported since the last entry.
    pub(super) reported: Vec<Identity>,
}

impl World {
    /// How many are parked, to be told later what a statement changed.
    pub(super) fn rows(&self) -> u64 {
        self.tables.parked.len() as u64
    }

    pub(super) fn enter_parked(&mut self, before: u64) {
        self.books.came += self.rows() - before;
    }

    pub(super) fn enter_removed(&mut self, before: u64) {
        self.books.removed += before - self.rows();
    }

    /// These left the table by a statement of this worker, whose answer was lost.
    pub(super) fn enter_unheard(&mut self, owner: u64, before: u64) {
        let left = before - self.rows();
        let sender = self.workers.iter_mut().find(|worker| worker.owner == owner);
        *sender.map_or(&mut self.books.unheard, |worker| &mut worker.unheard) += left;
    }

    /// The answer arrived: all that left by this statement were reported, and those perhaps that had left by one before it.
    pub(super) fn enter_settled(&mut self, index: usize, left: u64) {
        let reported = std::mem::take(&mut self.books.reported);
        let count = reported.len() as u64;
        assert!(count >= left, "seed {}: of {left} that were settled from parking {count} were reported", self.seed);
        let heard_late = (count - left).min(self.workers[index].unheard);
        let again = count - left - heard_late;
        let may_be_repeated = reported.iter().filter(|identity| self.ever_cut_off.contains(*identity)).count() as u64;
        assert!(again <= may_be_repeated, "seed {}: {reported:?} were settled from parking twice", self.seed);
        self.workers[index].unheard -= heard_late;
        self.books.settled += count;
        self.books.again += again;
    }

    pub(super) fn assert_parking_closes(&self) {
        let Books { came, settled, removed, unheard, again, reported } = &self.books;
        assert!(reported.is_empty(), "seed {}: {reported:?} were settled from parking without a statement", self.seed);
        let unheard = unheard + self.workers.iter().map(|worker| worker.unheard).sum::<u64>();
        invariants::parking_closes(came + again, settled + removed + unheard, self.rows()).unwrap();
    }
}
