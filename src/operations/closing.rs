//! Closing dead letters for good reasons, and opening them again.

use super::{OperationError, Operations, Selection, Sight};
use crate::core::record::Timestamp;
use crate::postgres::{DeadLetterState, ListedLetter, ReplayTo};

/// What one statement closes.
const CHUNK: usize = 5_000;
/// Of those that were left, as many are told.
const TOLD: u32 = 20;

/// Why a dead letter needs no notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The producer sends it again, corrected.
    FixedAtSource,
    /// What it tells is past.
    Obsolete,
    /// The order was notified by another record.
    Duplicate,
    /// It is no real order.
    TestData,
    /// It cannot be repaired.
    Unrepairable,
    Other,
}

/// Dead letters as they were when they were selected.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub selection: Selection,
    pub ids: Vec<i64>,
}

/// What became of them.
#[derive(Clone, Debug)]
pub struct Closing {
    pub done: Vec<i64>,
    /// Not done, since they are in another state by now: some of them by id, each with its state, who brought it there and when.
    pub left: Vec<(i64, String)>,
    pub left_count: usize,
}

impl CloseReason {
    pub const ALL: [Self; 6] =
        [Self::FixedAtSource, Self::Obsolete, Self::Duplicate, Self::TestData, Self::Unrepairable, Self::Other];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FixedAtSource => "fixed_at_source",
            Self::Obsolete => "obsolete",
            Self::Duplicate => "duplicate",
            Self::TestData => "test_data",
            Self::Unrepairable => "unrepairable",
            Self::Other => "other",
        }
    }
}

impl Operations {
    /// The selected dead letters by id, for the discard that follows.
    pub async fn freeze_to_discard(&self, selection: Selection) -> Result<Frozen, OperationError> {
        let states = [DeadLetterState::Open, DeadLetterState::Quarantined];
        self.freeze("discard", selection.or_in_states(&states)).await
    }

    /// The selected dead letters by id, for the restoration that follows.
    pub async fn freeze_to_restore(&self, selection: Selection) -> Result<Frozen, OperationError> {
        self.freeze("restore", selection.or_in_states(&[DeadLetterState::Discarded])).await
    }

    async fn freeze(&self, action: &'static str, selection: Selection) -> Result<Frozen, OperationError> {
        let act = self.act(action, selection.to_json(), "");
        self.may_change(&act).await?;
        self.may_search(&selection, action, Sight::Masked).await?;
        if selection.is_everything() {
            return Err(self.refuse(&act, "an empty filter would take every dead letter: name ids or a filter").await);
        }
        let ids = self.postgres.letter_ids(&act.filter).await?;
        if ids.is_empty() {
            return Err(self.refuse(&act, "no dead letter is selected").await);
        }
        Ok(Frozen { selection, ids })
    }

    /// Discards what is still open of the frozen dead letters. It can be undone until they expire.
    pub async fn discard(&self, frozen: &Frozen, reason: CloseReason, note: &str) -> Result<Closing, OperationError> {
        let act = self.act("discard", frozen.selection.to_json(), reason.as_str());
        self.may_change(&act).await?;
        if reason == CloseReason::Other && note.trim().is_empty() {
            return Err(self.refuse(&act, "the reason other needs a note that says what it is").await);
        }
        let mut done = Vec::new();
        for chunk in frozen.ids.chunks(CHUNK) {
            done.extend(self.postgres.discard(chunk, &act, note).await?);
        }
        let closing = self.closing(frozen, done).await?;
        if closing.done.is_empty() {
            return Err(self.conflict(&act, told("discarded", &closing.left)).await);
        }
        Ok(closing)
    }

    /// Opens what is discarded of the frozen dead letters again.
    pub async fn restore(&self, frozen: &Frozen, why: &str) -> Result<Closing, OperationError> {
        let act = self.act("restore", frozen.selection.to_json(), why);
        self.may_change(&act).await?;
        let mut done = Vec::new();
        for chunk in frozen.ids.chunks(CHUNK) {
            done.extend(self.postgres.restore(chunk, &act).await?);
        }
        let closing = self.closing(frozen, done).await?;
        if closing.done.is_empty() {
            return Err(self.conflict(&act, told("restored", &closing.left)).await);
        }
        Ok(closing)
    }

    async fn closing(&self, frozen: &Frozen, done: Vec<i64>) -> Result<Closing, OperationError> {
        let left: Vec<i64> = frozen.ids.iter().copied().filter(|id| done.binary_search(id).is_err()).collect();
        let left_count = left.len();
        let left = if left.is_empty() { Vec::new() } else { self.states(left).await? };
        Ok(Closing { done, left, left_count })
    }

    /// Their states, with who brought them there and when.
    pub(super) async fn states(&self, ids: Vec<i64>) -> Result<Vec<(i64, String)>, OperationError> {
        let letters = self.postgres.letter_page(&Selection::of_ids(ids).to_json(), None, TOLD).await?;
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        let prospects = self.postgres.prospects(&ids, ReplayTo::Workers, false).await?;
        let told = |letter: &ListedLetter| {
            let replay = prospects.iter().find(|found| found.id == letter.id).and_then(|found| found.replay.as_ref());
            (letter.id, state(letter, replay))
        };
        Ok(letters.iter().map(told).collect())
    }
}

/// Why nothing was done, with whoever was first.
fn told(what: &str, left: &[(i64, String)]) -> String {
    let whom = |(id, state): &(i64, String)| format!("dead letter {id} cannot be {what}: {state}");
    let lines: Vec<String> = left.iter().map(whom).collect();
    if lines.is_empty() { format!("nothing is left to be {what}") } else { lines.join("\n") }
}

/// The state of a dead letter, with who closed it and when: `it was discarded by ana at 2026-11-23 09:02:11Z (obsolete)`.
fn state(letter: &ListedLetter, replay: Option<&(i64, String, Timestamp)>) -> String {
    match (letter.state, &letter.closed) {
        (DeadLetterState::Discarded, Some(closed)) => format!(
            "it was discarded by {} at {} ({})",
            closed.by.as_deref().unwrap_or("nobody known"),
            closed.at,
            closed.reason.as_deref().unwrap_or("no reason"),
        ),
        (DeadLetterState::Resolved, Some(closed)) => format!("its order was notified at {}", closed.at),
        (DeadLetterState::Replaying, _) => match replay {
            Some((id, by, at)) => format!("a replay has it: r{id} by {by} since {at}"),
            None => "a replay has it".to_owned(),
        },
        (DeadLetterState::Open | DeadLetterState::Quarantined, _) => format!("it is {}", letter.state.as_str()),
        (DeadLetterState::Discarded | DeadLetterState::Resolved, None) => format!("it was {}", letter.state.as_str()),
    }
}
