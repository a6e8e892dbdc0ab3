//! Whether any broker can be reached at all.
//!
//! What librdkafka reports makes it a suspicion only: one of several brokers that is away is reported as well, and so is all of them
//! being down when all but that one had closed idle connections. What decides is whether any answers. Nor does librdkafka report
//! that they are back: an idle consumer would not know.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::consumer::ConsumerEvent;
use super::poller::Poller;

/// The thread waits for an answer; what was fetched before waits with it.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A connection that breaks off and comes back, or a broker whose tasks others take over, is no outage.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// Under way while it is not known whether a broker answers.
#[derive(Clone, Debug)]
pub(super) struct BrokerSearch {
    missing_since: Instant,
    next_look: Instant,
    is_reported: bool,
    /// What librdkafka said first.
    error: String,
}

impl Poller {
    pub(super) fn suspect_brokers(&mut self, now: Instant, error: &str) {
        self.due.look_for_brokers.get_or_insert_with(|| BrokerSearch {
            missing_since: now,
            next_look: now + ANSWER_TIMEOUT,
            is_reported: false,
            error: error.to_owned(),
        });
    }

    pub(super) fn look_for_brokers(&mut self, now: Instant) {
        let Some(mut search) = self.due.look_for_brokers.take_if(|search| search.next_look <= now) else {
            return;
        };
        let answer = self.consumer.fetch_metadata(Some(&self.topic), ANSWER_TIMEOUT);
        let now = Instant::now();
        match answer {
            Ok(_) => {
                if search.is_reported {
                    self.outbox.push(ConsumerEvent::Brokers(Ok(())));
                }
                return;
            }
            // One is connected and slow: librdkafka's own timeouts say when it is gone.
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut)) => search.missing_since = now,
            Err(_) => {}
        }
        if !search.is_reported && now.duration_since(search.missing_since) >= GONE_AFTER {
            self.outbox.push(ConsumerEvent::Brokers(Err(format!("no broker answers: {}", search.error))));
            search.is_reported = true;
        }
        search.next_look = now + LOOK_EVERY;
        self.due.look_for_brokers = Some(search);
    }
}
