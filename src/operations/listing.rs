//! Dead letters by group, by page, and one of them whole.

use std::collections::HashMap;

use super::cover::seen;
use super::payload::{Payload, Sight};
use super::{OperationError, Operations, Selection};
use crate::postgres::{DeadLetterState, LedgerEntry, LetterGroup, ListedLetter, WholeLetter};

/// Some of the selected dead letters.
#[derive(Clone, Debug)]
pub struct Page {
    pub letters: Vec<ListedLetter>,
    /// Of all that are selected.
    pub total: u64,
    /// What to ask for next; absent on the last page.
    pub next_before: Option<i64>,
}

/// A dead letter with its payload as it may be seen, and what its order is in the ledger.
#[derive(Clone, Debug)]
pub struct Shown {
    pub letter: WholeLetter,
    pub payload: Payload,
    pub ledger: Vec<LedgerEntry>,
    /// Other dead letters of the same bug that are not closed.
    pub alike: u64,
}

impl Operations {
    pub async fn groups(&self, selection: &Selection) -> Result<Vec<LetterGroup>, OperationError> {
        self.may_search(selection, "groups", Sight::Masked).await?;
        let mut groups = self.postgres.letter_groups(&selection.to_json()).await?;
        let covered = self.covered_errors(groups.iter().map(|group| group.sample_id).collect()).await?;
        for group in &mut groups {
            replace(&mut group.sample_error, covered.get(&group.sample_id));
        }
        Ok(groups)
    }

    /// Open dead letters that expire within a day.
    pub async fn expiring(&self) -> Result<u64, OperationError> {
        let day = std::time::Duration::from_hours(24);
        Ok(self.postgres.open_letters_older_than(self.rules().retention.saturating_sub(day)).await?)
    }

    /// The newest selected dead letters with an id below `before`.
    pub async fn page(&self, selection: &Selection, before: Option<i64>, limit: u32) -> Result<Page, OperationError> {
        self.may_search(selection, "list", Sight::Masked).await?;
        let filter = selection.to_json();
        let (letters, total) =
            tokio::join!(self.postgres.letter_page(&filter, before, limit), self.postgres.count_letters(&filter));
        let (mut letters, total) = (letters?, total?);
        let covered = self.covered_errors(letters.iter().map(|letter| letter.id).collect()).await?;
        for letter in &mut letters {
            replace(&mut letter.error, covered.get(&letter.id));
        }
        let is_full = u32::try_from(letters.len()).is_ok_and(|found| found == limit);
        let next_before = letters.last().filter(|_| is_full).map(|last| last.id);
        Ok(Page { letters, total, next_before })
    }

    /// One dead letter whole. To see masked fields is written to the audit.
    pub async fn show(&self, id: i64, sight: Sight) -> Result<Shown, OperationError> {
        let letter = self.letter(id).await?;
        let mask = self.mask(&Selection::of_ids(vec![id]), sight, 1).await?;
        let alike = Selection { group: Some(letter.listed.group.clone()), ..Selection::default() }
            .or_in_states(&DeadLetterState::NOT_CLOSED);
        let order_id = &letter.listed.order_id;
        let filter = alike.to_json();
        let (ledger, alike) =
            tokio::join!(self.postgres.ledger_entries(order_id), self.postgres.count_letters(&filter));
        let (letter, payload) = seen(letter, mask);
        Ok(Shown { payload, ledger: ledger?, alike: alike?, letter })
    }

    /// The errors of these letters as they may be seen; none where nothing is masked.
    async fn covered_errors(&self, ids: Vec<i64>) -> Result<HashMap<i64, String>, OperationError> {
        let mask = &self.rules().mask;
        if mask.is_empty() || ids.is_empty() {
            return Ok(HashMap::new());
        }
        let limit = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let letters = self.postgres.whole_letters(&Selection::of_ids(ids).to_json(), i64::MIN, limit).await?;
        let covered = letters.into_iter().map(|letter| seen(letter, mask).0.listed);
        Ok(covered.map(|letter| (letter.id, letter.error)).collect())
    }

    /// Refuses to look for a text in what is masked: whoever guesses would find it.
    pub(super) async fn may_search(
        &self,
        selection: &Selection,
        action: &'static str,
        sight: Sight,
    ) -> Result<(), OperationError> {
        if selection.text.is_none() || sight == Sight::Unmasked || self.rules().mask.is_empty() {
            return Ok(());
        }
        // The audit does not keep what was looked for, either.
        let selection = Selection { text: Some("***".to_owned()), ..selection.clone() };
        let act = self.act(action, selection.to_json(), "");
        Err(self.refuse(&act, "dead_letters.mask is set: --text would find what it hides").await)
    }

    pub(super) async fn letter(&self, id: i64) -> Result<WholeLetter, OperationError> {
        let filter = Selection::of_ids(vec![id]).to_json();
        let found = self.postgres.whole_letters(&filter, i64::MIN, 1).await?.pop();
        let missing = || format!("there is no dead letter {id} of {}", self.settings.kafka.topic);
        found.ok_or_else(|| OperationError::Refused(missing()))
    }

    /// The fields to mask.
    pub(super) async fn mask(
        &self,
        selection: &Selection,
        sight: Sight,
        letters: u64,
    ) -> Result<&[String], OperationError> {
        let mask = &self.rules().mask;
        match sight {
            Sight::Masked => Ok(mask),
            Sight::Unmasked if mask.is_empty() => Ok(mask),
            Sight::Unmasked => {
                let act = self.act("unmask", selection.to_json(), "");
                self.postgres.audit_done(&act, letters, &mask.join(" ")).await?;
                Ok(&[])
            }
        }
    }
}

fn replace(error: &mut String, covered: Option<&String>) {
    if let Some(covered) = covered {
        error.clone_from(covered);
    }
}
