//! What the group says of this member, through the C API.
//!
//! * Whether it was taken in. With the consumer protocol librdkafka tells a member that gets no partition nothing: no rebalance comes.
//!   That the group knows it shows in its generation alone, which the safe API does not hand out.
//! * Whether the group takes a certain commit from it. The safe API hands out what became of the commits that librdkafka makes by itself,
//!   and of those that it is told to make nothing, or waits for the answer without end.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka_sys as sys;

pub(super) fn is_taken_in<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    // SAFETY: the client is borrowed, and so alive, for the whole call. What is returned belongs to us.
    let metadata = unsafe { sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr()) };
    if metadata.is_null() {
        return false;
    }
    // SAFETY: not null, and not destroyed before the next line but one.
    let generation = unsafe { sys::rd_kafka_consumer_group_metadata_generation_id(metadata) };
    // SAFETY: it is ours, and nobody uses it afterwards.
    unsafe { sys::rd_kafka_consumer_group_metadata_destroy(metadata) };
    generation > 0
}

/// Commits that are answered here and nowhere else, each with its number. Must be dropped before its consumer.
#[derive(Debug)]
pub(super) struct AnsweredCommits(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: a queue of librdkafka has a lock of its own, and belongs to no thread.
unsafe impl Send for AnsweredCommits {}

impl AnsweredCommits {
    pub(super) fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> KafkaResult<Self> {
        // SAFETY: the client is borrowed, and so alive, for the whole call. The queue that is returned belongs to us.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        NonNull::new(queue).map(Self).ok_or_else(|| KafkaError::ClientCreation("it has no queue".to_owned()))
    }

    /// Returns at once.
    pub(super) fn commit<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        offsets: &TopicPartitionList,
        number: usize,
    ) -> KafkaResult<()> {
        let (client, number) = (consumer.client().native_ptr(), ptr::without_provenance_mut(number));
        // SAFETY: client, list and queue are borrowed, and so alive, for the whole call; the list is copied. The number is handed back
        // and never followed.
        let refused = unsafe { sys::rd_kafka_commit_queue(client, offsets.ptr(), self.0.as_ptr(), None, number) };
        checked(refused)
    }

    /// The next answer that has come. An error does not say that nothing was taken.
    pub(super) fn next(&self) -> Option<(usize, KafkaResult<()>)> {
        // SAFETY: the queue is alive. The event that is returned belongs to us.
        let event = NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.0.as_ptr(), 0) })?;
        // SAFETY: the event is ours, and not destroyed before the last line.
        let number = unsafe { sys::rd_kafka_event_opaque(event.as_ptr()) }.addr();
        // SAFETY: as before.
        let result = checked(unsafe { sys::rd_kafka_event_error(event.as_ptr()) });
        // SAFETY: nobody uses it afterwards.
        unsafe { sys::rd_kafka_event_destroy(event.as_ptr()) };
        Some((number, result))
    }
}

impl Drop for AnsweredCommits {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, its client is alive, and nobody uses it afterwards. Answers that come later are dropped.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

fn checked(code: sys::rd_kafka_resp_err_t) -> KafkaResult<()> {
    match code {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(KafkaError::ConsumerCommit(code.into())),
    }
}
