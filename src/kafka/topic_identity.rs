//! Which topic the name stands for: Kafka gives each an id when it is created, and the safe API hands out none.
//!
//! To librdkafka a topic that was deleted and created again is the same one. It fetches it on from where it was in the one before, past
//! what comes first in the new one; and it takes no leader of a partition whose epoch is lower than that of the last one it heard of
//! (`rd_kafka_topic_metadata_update`, `rd_kafka_toppar_leader_update`), so that it may never fetch it again, and tells nobody.
//!
//! The answer tells librdkafka of the leaders too, as any metadata does.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka_sys as sys;

use super::queue::{Event, Queue};

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Must be dropped before the consumer that its queue is of.
#[derive(Debug)]
pub(super) struct TopicIdentity {
    queue: Queue,
    /// As it was last answered. None of brokers that give topics no ids.
    id: Option<TopicId>,
    /// When to ask. `None` while it is asked.
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TopicId(i64, i64);

impl TopicIdentity {
    pub(super) fn through(queue: Queue) -> Self {
        Self { queue, id: None, due: Some(Instant::now()) }
    }

    /// Whether the name has come to stand for another topic, which is said once.
    pub(super) fn has_changed<C: ConsumerContext>(
        &mut self,
        consumer: &BaseConsumer<C>,
        topic: &str,
        now: Instant,
    ) -> bool {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.ask(consumer, topic);
        }
        let Some(answer) = self.queue.next() else { return false };
        self.due = Some(now + LOOK_EVERY);
        let Some(id) = topic_id(&answer) else { return false };
        self.id.replace(id).is_some_and(|before| before != id)
    }

    fn ask<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, topic: &str) {
        // Kafka's names hold no NUL.
        let name = CString::new(topic).unwrap_or_default();
        let mut names = [name.as_ptr()];
        // SAFETY: the names are alive for the call, which copies them. The collection that is returned belongs to us.
        let topics = unsafe { sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()) };
        let client = consumer.client().native_ptr();
        // SAFETY: client, collection and queue are borrowed or ours, and so alive, for the whole call; what is asked for is copied.
        unsafe { sys::rd_kafka_DescribeTopics(client, topics, ptr::null(), self.queue.as_ptr()) };
        // SAFETY: it is ours, and nobody uses it afterwards.
        unsafe { sys::rd_kafka_TopicCollection_destroy(topics) };
    }
}

/// None when the topic is missing just now, or cannot be asked for.
fn topic_id(answer: &Event) -> Option<TopicId> {
    let mut count = 0;
    // SAFETY: the event is alive. What it holds belongs to it, and is not used after this function. An event of another kind holds none.
    let result = unsafe { sys::rd_kafka_event_DescribeTopics_result(answer.as_ptr()) };
    if result.is_null() {
        return None;
    }
    // SAFETY: not null.
    let topics = unsafe { sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count) };
    if topics.is_null() || count == 0 {
        return None;
    }
    // SAFETY: it points to at least one description.
    let topic = unsafe { *topics };
    // SAFETY: the description is alive. An absent error has the code that says so.
    let code = unsafe { sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic)) };
    if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return None;
    }
    // SAFETY: as before.
    let id = unsafe { sys::rd_kafka_TopicDescription_topic_id(topic) };
    if id.is_null() {
        return None;
    }
    // SAFETY: not null, and it belongs to the description.
    let high = unsafe { sys::rd_kafka_Uuid_most_significant_bits(id) };
    // SAFETY: as before.
    let low = unsafe { sys::rd_kafka_Uuid_least_significant_bits(id) };
    ((high, low) != (0, 0)).then_some(TopicId(high, low))
}
