//! Members that join again with another consumer, where a restarted process would do no better, but lose what it holds.
//!
//! A static member whose place somebody else has is given up by librdkafka for good. It stands back: two workers with the same instance
//! id, by mistake, would take the place from one another as fast as they can, so the waits grow. And a topic that was deleted and created
//! again is fetched by another consumer than before; brokers that do not agree on which topic it is would have that go on and on.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;

use super::Worker;
use crate::core::retry::Schedule;
use crate::http::health::NotReady;
use crate::kafka::consumer::{Consumer, ConsumerCommand, ConsumerError, ConsumerEvent, Joining};

const FIRST_WAIT: Duration = Duration::from_secs(4);
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// By then every member has seen that the topic is another one, and commits nothing of the one before: the longest that librdkafka waits
/// for an answer is a minute.
const REWINDS_FOR: Duration = Duration::from_mins(2);
/// A membership that lasted this long was no quarrel.
const PEACE: Duration = Duration::from_mins(15);

/// How the worker stands in its group.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// Consumers that were started after the first one.
    consumers: u32,
    /// Times in a row that a consumer was given up.
    given_up: u32,
    joined_at: Option<Instant>,
    /// When it joins again.
    waits_until: Option<Instant>,
    rewinds_until: Option<Instant>,
}

impl Membership {
    pub(super) fn is_waiting(&self) -> bool {
        self.waits_until.is_some()
    }

    /// The consumer was given up this moment; gives how long none takes its place.
    fn given_up(&mut self, now: Instant) -> Duration {
        let was_peaceful = self.joined_at.is_some_and(|joined| now.saturating_duration_since(joined) > PEACE);
        self.given_up = if was_peaceful { 1 } else { self.given_up.saturating_add(1) };
        let bound = Schedule::new(FIRST_WAIT, LONGEST_WAIT).bound(self.given_up);
        // At least half, so that a growing wait grows; a chance, so that two of them do not go on in step.
        let wait = bound.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.waits_until = Some(now + wait);
        wait
    }

    /// Whether it is time to join again: gives how.
    fn joins(&mut self, now: Instant) -> Option<Joining> {
        self.waits_until.filter(|until| now >= *until)?;
        self.waits_until = None;
        self.joined_at = Some(now);
        self.consumers = self.consumers.saturating_add(1);
        Some(Joining { number: self.consumers, rewinds_until: self.rewinds_until })
    }
}

impl Worker {
    /// Events of a consumer are to be expected.
    pub(super) fn has_consumer(&self) -> bool {
        !self.stop.is_consumer_gone() && !self.membership.is_waiting()
    }

    /// The topic was created again.
    pub(super) async fn begin_anew(&mut self, error: &ConsumerError) {
        tracing::warn!(%error, "this worker joins the group again, and reads the topic from its beginning");
        self.give_up_consumer().await;
        let now = Instant::now();
        self.membership.given_up(now);
        self.membership.rewinds_until = Some(now + REWINDS_FOR);
        self.health.hold(NotReady::Assignment, error.to_string());
    }

    pub(super) async fn stand_back(&mut self, error: &ConsumerError) {
        self.give_up_consumer().await;
        let wait = self.membership.given_up(Instant::now());
        let instance_id = self.settings.kafka.instance_id.as_deref().unwrap_or_default();
        tracing::error!(
            %error,
            instance_id,
            wait_seconds = wait.as_secs_f64(),
            "the place in the group is taken: this worker stands back and joins again; give each worker an instance id of its own"
        );
        let detail = format!("{error}; kafka.instance_id = \"{instance_id}\"; joins again {} s later", wait.as_secs());
        self.health.hold(NotReady::InstanceId, detail);
    }

    async fn give_up_consumer(&mut self) {
        let held = self.assigned.iter().copied().collect();
        self.lost(held);
        // The next consumer finds out by itself.
        self.brokers_changed(Ok(()));
        self.consumer.send(ConsumerCommand::Close).await;
    }

    /// When the wait is over: the events of the consumer that takes the place of the one that was given up.
    pub(super) async fn join_again(&mut self) -> Option<Receiver<ConsumerEvent>> {
        if self.stop.is_stopping() {
            return None;
        }
        let joining = self.membership.joins(Instant::now())?;
        match Consumer::start(&self.settings, joining) {
            Ok((consumer, events)) => {
                tracing::info!("joining the group again");
                self.consumer = consumer;
                if self.engine.stats().paused.is_some() {
                    self.consumer.send(ConsumerCommand::Pause).await;
                }
                Some(events)
            }
            Err(error) => {
                self.fail(&error.to_string());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_take_the_place_from_one_another_wait_longer_and_longer_until_there_is_peace() {
        let mut membership = Membership::default();
        let mut now = Instant::now();
        let mut bound = FIRST_WAIT;
        for number in 1..20 {
            let wait = membership.given_up(now);
            assert!(wait >= bound / 2 && wait <= bound, "{wait:?} of {bound:?}");
            assert!(membership.joins(now).is_none());
            now += wait;
            assert_eq!(membership.joins(now).unwrap().number, number);
            assert!(!membership.is_waiting());
            now += Duration::from_secs(1);
            bound = (bound * 2).min(LONGEST_WAIT);
        }
        now += PEACE;
        assert!(membership.given_up(now) <= FIRST_WAIT);
    }
}
