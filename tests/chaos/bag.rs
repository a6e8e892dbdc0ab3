//! Kinds of a fault, dealt so that none is left out: each once in a random order, then all again.

use std::time::{Duration, Instant};

use fastrand::Rng;

#[derive(Clone, Debug)]
pub struct Bag<T> {
    all: Vec<T>,
    /// Drawn so far.
    drawn: usize,
    round: Vec<T>,
}

impl<T: Clone> Bag<T> {
    pub fn of(all: impl Into<Vec<T>>) -> Self {
        Self { all: all.into(), drawn: 0, round: Vec::new() }
    }

    pub fn draw(&mut self, rng: &mut Rng) -> T {
        if self.round.is_empty() {
            self.round.clone_from(&self.all);
            rng.shuffle(&mut self.round);
        }
        self.drawn += 1;
        self.round.pop().expect("a bag holds something")
    }

    /// What could not be done: it comes next.
    pub fn put_back(&mut self, kind: T) {
        self.drawn -= 1;
        self.round.push(kind);
    }

    /// How long the next fault may take, with the pause before it, so that each kind comes once before this time.
    pub fn share(&self, until: Instant) -> Duration {
        let never_drawn = self.all.len().saturating_sub(self.drawn);
        let time = until.saturating_duration_since(Instant::now());
        u32::try_from(never_drawn).ok().and_then(|count| time.checked_div(count)).unwrap_or(Duration::MAX)
    }
}
