//! The table of dead letters, rebuilt from a dead-letter topic, whoever wrote its records.

use super::{OperationError, Operations, Selection};
use crate::core::decode::{Decoded, Decoder, synthetic_identity};
use crate::core::failure::Reason;
use crate::kafka::foreign_letters::{self, ReadLetter};
use crate::kafka::letter_reader::read_topic;
use crate::postgres::{AuditResult, RebuiltLetter};

/// What was read, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reindexed {
    pub read: u64,
    /// Not in the table before.
    pub added: u64,
    /// Of records that came from other topics, or that another group gave up on.
    pub of_others: u64,
    /// The topic does not have the value: it was too large, or a share group copied none.
    pub without_value: u64,
    /// Nothing says where the record came from.
    pub unreadable: u64,
}

impl Operations {
    /// Reads the topic, `dead_letters.topic` by default, and writes what the table does not have. `any_group` takes what other
    /// groups gave up on, too: for the move from another consumer.
    pub async fn reindex(&self, topic: Option<&str>, any_group: bool) -> Result<Reindexed, OperationError> {
        let topic = topic.unwrap_or(&self.rules().topic);
        let act = self.act("reindex", Selection::default().to_json(), topic);
        self.may_change(&act).await?;
        match self.rebuild(topic, any_group).await {
            Ok(found) => {
                self.postgres.audit_done(&act, found.added, &format!("{} records read", found.read)).await?;
                Ok(found)
            }
            Err(error) => {
                self.audit_not_done(&act, AuditResult::Failed, &error.to_string()).await;
                Err(error)
            }
        }
    }

    async fn rebuild(&self, topic: &str, any_group: bool) -> Result<Reindexed, OperationError> {
        let mut found = Reindexed::default();
        let decoder = self.settings.decoder();
        let mut batches = read_topic(&self.settings.kafka, topic);
        while let Some(batch) = batches.recv().await {
            let mut letters = Vec::new();
            for record in batch.map_err(OperationError::Unavailable)? {
                found.read += 1;
                match foreign_letters::read(&record) {
                    Err(_) => found.unreadable += 1,
                    Ok(letter) if !self.is_ours(&letter, any_group) => found.of_others += 1,
                    Ok(letter) if letter.is_pointer => found.without_value += 1,
                    Ok(letter) => letters.push(rebuilt(&self.settings.kafka.topic, &decoder, letter)),
                }
            }
            found.added += self.postgres.rebuild_letters(&letters, self.settings.ledger.retention).await?;
        }
        Ok(found)
    }

    fn is_ours(&self, letter: &ReadLetter, any_group: bool) -> bool {
        let kafka = &self.settings.kafka;
        letter.topic == kafka.topic && (any_group || letter.group.as_ref().is_none_or(|group| *group == kafka.group))
    }
}

/// With the identity and the reason that a burial here would have given it.
fn rebuilt(topic: &str, decoder: &Decoder, letter: ReadLetter) -> RebuiltLetter {
    let synthetic = synthetic_identity(topic, &letter.record);
    let (identity, reason, error) = match (decoder.decode(&letter.record), letter.reason) {
        (_, Some(reason @ (Reason::Conflict | Reason::Undecodable | Reason::Invalid))) => {
            (synthetic, reason, letter.error)
        }
        (Decoded::Event { event, .. }, reason) => {
            let identity = (event.identity.clone(), event.fingerprint);
            (identity, reason.unwrap_or(Reason::Exhausted), letter.error)
        }
        (Decoded::Poison { reason, error }, _) => (synthetic, reason, error),
        (Decoded::Ignored { event_type }, _) => {
            (synthetic, Reason::Invalid, format!("the event type {event_type} is not configured"))
        }
    };
    RebuiltLetter {
        identity: identity.0,
        fingerprint: identity.1,
        reason,
        error,
        class: letter.class,
        attempts: letter.attempts,
        replays: letter.replays,
        first_failed_at: letter.first_failed_at,
        last_failed_at: letter.last_failed_at,
        record: letter.record,
    }
}
