//! Replays to the topic: this process publishes the records as they were, for every group that reads it.
//!
//! A letter is taken, published, and then marked. A process that dies between leaves a letter that is published again by whoever
//! resumes: the same identity, so that the ledger makes it one notification here.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::replay::replay_json;
use super::{OperationError, Operations};
use crate::core::failure::LedgerFailure;
use crate::core::record::Record;
use crate::kafka::readers::{self, Reader};
use crate::kafka::source_topic::{RepublishError, SourceTopic};
use crate::postgres::{Act, AuditResult, Publication, Replay, ReplayState, ReplayTo, TakenLetter, Taking};

/// Letters that are published side by side.
const MAX_BATCH: f64 = 200.0;
/// Batches each second, as far as their size allows.
const BATCHES: f64 = 4.0;
/// Until a letter that another process has taken is ended, or taken over.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A mark that is lost is a record that is published twice.
const MARK_ATTEMPTS: u32 = 10;

/// A replay that this process publishes.
pub struct Publishing {
    replay: i64,
    topic: SourceTopic,
    next_at: Instant,
}

impl Operations {
    /// The consumer groups that a replay to the topic reaches.
    pub async fn readers(&self) -> Result<Vec<Reader>, OperationError> {
        readers::readers(&self.settings.kafka).await.map_err(OperationError::Unavailable)
    }

    /// Executes a plan that goes to the topic, and that reaches these groups. It goes on as far as [`Self::publish_next`] is called.
    pub async fn begin_publishing(&self, id: i64, reached: &[Reader]) -> Result<Publishing, OperationError> {
        let groups: Vec<&str> = reached.iter().map(|reader| reader.group.as_str()).collect();
        let filter = json!({"replay": id, "to_topic": self.settings.kafka.topic, "groups": groups}).to_string();
        let act = self.act("replay", filter, "");
        self.may_change(&act).await?;
        self.goes_to(&act, id, ReplayTo::Topic).await?;
        let topic = self.open_topic(&act).await?;
        self.begin(id, ReplayState::Publishing, &act).await?;
        Ok(Publishing { replay: id, topic, next_at: Instant::now() })
    }

    /// Goes on with a replay to the topic that was paused.
    pub async fn resume_publishing(&self, id: i64) -> Result<Publishing, OperationError> {
        let act = self.act("resume", replay_json(id), "");
        self.may_change(&act).await?;
        self.goes_to(&act, id, ReplayTo::Topic).await?;
        let topic = self.open_topic(&act).await?;
        self.change(id, "resume", &[ReplayState::Paused], ReplayState::Publishing).await?;
        Ok(Publishing { replay: id, topic, next_at: Instant::now() })
    }

    async fn open_topic(&self, act: &Act) -> Result<SourceTopic, OperationError> {
        match SourceTopic::open(&self.settings.kafka).await {
            Ok(topic) => Ok(topic),
            Err(why) => {
                self.audit_not_done(act, AuditResult::Failed, &why).await;
                Err(OperationError::Unavailable(why))
            }
        }
    }

    /// Publishes the next letters when they are due by the replay's rate, and tells how far it has come. It is over when its state is
    /// another than publishing. When the topic does not answer, the replay is paused.
    pub async fn publish_next(&self, publishing: &mut Publishing) -> Result<Replay, OperationError> {
        let id = publishing.replay;
        let replay = self.replay(id).await?;
        if replay.state != ReplayState::Publishing {
            return Ok(replay);
        }
        tokio::time::sleep_until(publishing.next_at).await;
        let rate = replay.progress.rate;
        let taken = self.postgres.take_to_publish(id, batch(rate)).await?;
        if taken.is_empty() {
            return self.nothing_taken(id).await;
        }
        publishing.next_at = Instant::now() + Duration::from_secs(1).mul_f64(count(taken.len()) / rate);
        let (ends, outage) = publish(&publishing.topic, taken).await;
        self.mark(id, &ends).await?;
        if let Some(why) = outage {
            self.change(id, "pause", &[ReplayState::Publishing], ReplayState::Paused).await?;
            let how = format!("r{id} is paused: herald dlq replays resume r{id}");
            return Err(OperationError::Unavailable(format!("{why}\n{how}")));
        }
        self.replay(id).await
    }

    async fn nothing_taken(&self, id: i64) -> Result<Replay, OperationError> {
        let replay = self.replay(id).await?;
        let is_over = replay.progress.planned == 0 && replay.progress.scheduled == 0;
        if is_over {
            self.postgres.end_replay(id, ReplayState::Done, &self.operator).await?;
            return self.replay(id).await;
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        Ok(replay)
    }

    async fn mark(&self, id: i64, ends: &[(Taking, Publication)]) -> Result<(), LedgerFailure> {
        let mut marked = self.postgres.end_publishing(id, ends).await;
        for _ in 1..MARK_ATTEMPTS {
            if !matches!(marked, Err(LedgerFailure::Outage(_) | LedgerFailure::Conflict(_))) {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            marked = self.postgres.end_publishing(id, ends).await;
        }
        marked
    }
}

/// How each letter ended, and why the topic did not take some of them.
async fn publish(topic: &SourceTopic, taken: Vec<TakenLetter>) -> (Vec<(Taking, Publication)>, Option<String>) {
    let mut ends = Vec::with_capacity(taken.len());
    let (mut takings, mut records): (Vec<Taking>, Vec<Record>) = (Vec::new(), Vec::new());
    for letter in taken {
        match letter.record {
            Some(record) => {
                takings.push(letter.taking);
                records.push(record);
            }
            None => ends.push((letter.taking, Publication::LeftOut("the dead letter cannot be read".to_owned()))),
        }
    }
    let mut outage = None;
    for (taking, published) in takings.into_iter().zip(topic.publish(&records).await) {
        let end = match published {
            Ok(at) => Publication::Published(at),
            Err(RepublishError::Refused(why)) => Publication::LeftOut(why),
            Err(RepublishError::Unavailable(why)) => {
                outage = Some(why);
                Publication::GivenBack
            }
        };
        ends.push((taking, end));
    }
    (ends, outage)
}

fn batch(rate: f64) -> u32 {
    let wanted = (rate / BATCHES).clamp(1.0, MAX_BATCH);
    (1..=200).rev().find(|size| f64::from(*size) <= wanted).unwrap_or(1)
}

fn count(letters: usize) -> f64 {
    f64::from(u32::try_from(letters).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_a_quarter_of_a_second_and_never_large() {
        for (rate, expected) in [(0.1, 1), (4.0, 1), (50.0, 12), (400.0, 100), (10_000.0, 200)] {
            assert_eq!(batch(rate), expected, "{rate}");
        }
    }
}
