//! What the group says of this member, through the C API.
//!
//! * Whether it was taken in. With the consumer protocol librdkafka tells a member that gets no partition nothing: no rebalance comes.
//!   That the group knows it shows in its generation alone, which the safe API does not hand out.
//! * Whether the group takes a certain commit from it. The safe API hands out what became of the commits that librdkafka makes by itself,
//!   and of those that it is told to make nothing, or waits for the answer without end.
#![allow(unsafe_code)]

use std::ptr;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka_sys as sys;

use super::queue::Queue;

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

/// Commits that are answered here and nowhere else, each with its number.
#[derive(Debug)]
pub(super) struct AnsweredCommits(Queue);

impl AnsweredCommits {
    pub(super) fn through(queue: Queue) -> Self {
        Self(queue)
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
        let answer = self.0.next()?;
        // SAFETY: the event is alive.
        let number = unsafe { sys::rd_kafka_event_opaque(answer.as_ptr()) }.addr();
        // SAFETY: as before.
        let result = checked(unsafe { sys::rd_kafka_event_error(answer.as_ptr()) });
        Some((number, result))
    }
}

fn checked(code: sys::rd_kafka_resp_err_t) -> KafkaResult<()> {
    match code {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(KafkaError::ConsumerCommit(code.into())),
    }
}
