//! Members that join again with another consumer, where a restarted process would do no better, but lose what it holds.
//!
//! A static member whose place somebody else has is given up by librdkafka for good. It stands back: two workers with the same instance
//! id, by mistake, would take the place from one another as fast as they can, so the waits grow. And a topic that was deleted and created
//! again is fetched by another consumer than before.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;

use super::Worker;
use crate::config::StartFrom;
use crate::core::retry::Schedule;
use crate::http::health::NotReady;
use crate::kafka::consumer::{Consumer, ConsumerCommand, ConsumerError, ConsumerEvent};

const FIRST_WAIT: Duration = Duration::from_secs(4);
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// All members have seen by then that the topic is another one, so that no partition comes from one that has committed its old place.
const BEGINS_ANEW_AFTER: Duration = Duration::from_secs(3);
/// A membership that lasted this long was no quarrel.
const PEACE: Duration = Duration::from_mins(15);

/// How the worker stands in its group.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// Consumers that were started after the first one.
    consumers: u32,
    /// Times in a row that the place was taken.
    taken: u32,
    joined_at: Option<Instant>,
    /// When it joins again.
    waits_until: Option<Instant>,
}

impl Membership {
    pub(super) fn is_waiting(&self) -> bool {
        self.waits_until.is_some()
    }

    /// The place was taken this moment; gives how long it is left to the other.
    fn taken(&mut self, now: Instant) -> Duration {
        let was_peaceful = self.joined_at.is_some_and(|joined| now.saturating_duration_since(joined) > PEACE);
        self.taken = if was_peaceful { 1 } else { self.taken.saturating_add(1) };
        let bound = Schedule::new(FIRST_WAIT, LONGEST_WAIT).bound(self.taken);
        // At least half, so that a growing wait grows; a chance, so that two of them do not go on in step.
        let wait = bound.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.waits_until = Some(now + wait);
        wait
    }

    /// Whether it is time to join again: gives the number of the next consumer.
    fn joins(&mut self, now: Instant) -> Option<u32> {
        self.waits_until.filter(|until| now >= *until)?;
        self.waits_until = None;
        self.joined_at = Some(now);
        self.consumers = self.consumers.saturating_add(1);
        Some(self.consumers)
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
        // All that is in it has come since this worker began.
        self.settings.kafka.start_from = StartFrom::Earliest;
        self.membership.waits_until = Some(Instant::now() + BEGINS_ANEW_AFTER);
        self.health.hold(NotReady::Assignment, error.to_string());
    }

    pub(super) async fn stand_back(&mut self, error: &ConsumerError) {
        self.give_up_consumer().await;
        let wait = self.membership.taken(Instant::now());
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
        let number = self.membership.joins(Instant::now())?;
        match Consumer::start(&self.settings, number) {
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
            let wait = membership.taken(now);
            assert!(wait >= bound / 2 && wait <= bound, "{wait:?} of {bound:?}");
            assert_eq!(membership.joins(now), None);
            now += wait;
            assert_eq!(membership.joins(now), Some(number));
            assert!(!membership.is_waiting());
            now += Duration::from_secs(1);
            bound = (bound * 2).min(LONGEST_WAIT);
        }
        now += PEACE;
        assert!(membership.taken(now) <= FIRST_WAIT);
    }
}
