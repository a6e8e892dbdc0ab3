//! Whether Kafka takes this consumer for the owner of its partitions, at a time of the worker's choice.
//!
//! A worker that stood still hears of its loss when Kafka says so, and that may be after Postgres answered. A group takes commits from
//! its members of this generation alone: one that was sent after the question, and was taken, is the answer. One that is refused
//! makes librdkafka find out what was lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaResult;
use tokio::sync::oneshot;

use super::consumer::Assignment;
use super::context;
use super::membership::AnsweredCommits;
use super::poller::Poller;
use crate::core::record::{Offset, Partition};

/// A refusal is mostly a rebalance that is about to end.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What was asked, and what Kafka was asked for it.
#[derive(Debug)]
pub(super) struct Confirmations {
    questions: BTreeMap<usize, Question>,
    last_number: usize,
    commits: AnsweredCommits,
}

#[derive(Debug)]
struct Question {
    assignments: Vec<Assignment>,
    answer: oneshot::Sender<Vec<Assignment>>,
    /// When to ask Kafka. `None` while it is asked: librdkafka answers every commit, though it may keep one for as long as no coordinator
    /// answers, or as a rebalance takes.
    due: Option<Instant>,
}

impl Confirmations {
    pub(super) fn through(commits: AnsweredCommits) -> Self {
        Self { questions: BTreeMap::new(), last_number: 0, commits }
    }

    pub(super) fn ask(&mut self, assignments: Vec<Assignment>, answer: oneshot::Sender<Vec<Assignment>>) {
        self.last_number += 1;
        self.questions.insert(self.last_number, Question { assignments, answer, due: Some(Instant::now()) });
    }
}

impl Poller {
    pub(super) fn confirm(&mut self, now: Instant) {
        while let Some((number, result)) = self.confirmations.commits.next() {
            self.kafka_answered(now, number, result);
        }
        for (number, mut question) in std::mem::take(&mut self.confirmations.questions) {
            self.drop_taken(&mut question);
            if question.assignments.is_empty() {
                question.answered();
                continue;
            }
            if question.due.take_if(|due| *due <= now).is_some()
                && let Err(error) = self.ask_kafka(number, &question.assignments)
            {
                self.unconfirmed(&error.to_string());
                question.due = Some(now + RETRY_AFTER);
            }
            self.confirmations.questions.insert(number, question);
        }
    }

    /// Of what was taken away, or is wanted back, Kafka has said enough.
    fn drop_taken(&self, question: &mut Question) {
        question.assignments.retain(|one| {
            self.assignments.is_current(one.partition, one.session) && !self.assignments.is_revoking(one.partition)
        });
    }

    /// Commits where they begin, which the group has already or is to have.
    fn ask_kafka(&self, number: usize, assignments: &[Assignment]) -> KafkaResult<()> {
        let starts: BTreeMap<Partition, Offset> = assignments.iter().map(|one| (one.partition, one.start)).collect();
        let list = context::list_at(&self.topic, &starts)?;
        self.confirmations.commits.commit(&self.consumer, &list, number)
    }

    fn kafka_answered(&mut self, now: Instant, number: usize, result: KafkaResult<()>) {
        let Some(mut question) = self.confirmations.questions.remove(&number) else { return };
        if let Err(error) = result {
            self.unconfirmed(&error.to_string());
            question.due = Some(now + RETRY_AFTER);
            self.confirmations.questions.insert(number, question);
            return;
        }
        self.drop_taken(&mut question);
        question.answered();
    }

    fn unconfirmed(&mut self, error: &str) {
        self.outbox.error("group", format!("the ownership of partitions is not confirmed yet: {error}"));
    }
}

impl Question {
    fn answered(self) {
        // Nobody waits any more when the worker is ending.
        let _ = self.answer.send(self.assignments);
    }
}
