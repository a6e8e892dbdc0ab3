//! Whether the group has taken this member in.
//!
//! With the consumer protocol librdkafka tells a member that gets no partition nothing: no rebalance comes. That the group knows it
//! shows in its generation alone, which the safe API does not hand out.
#![allow(unsafe_code)]

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
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
