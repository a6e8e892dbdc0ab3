//! Answers of librdkafka that come to a queue of our own, through the C API: the safe one hands them out to nobody.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka_sys as sys;

/// Must be dropped before its consumer.
#[derive(Debug)]
pub(super) struct Queue(NonNull<sys::rd_kafka_queue_t>);

/// An answer.
#[derive(Debug)]
pub(super) struct Event(NonNull<sys::rd_kafka_event_t>);

// SAFETY: a queue of librdkafka has a lock of its own, and belongs to no thread.
unsafe impl Send for Queue {}

impl Queue {
    pub(super) fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> KafkaResult<Self> {
        // SAFETY: the client is borrowed, and so alive, for the whole call. The queue that is returned belongs to us.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        NonNull::new(queue).map(Self).ok_or_else(|| KafkaError::ClientCreation("it has no queue".to_owned()))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rd_kafka_queue_t {
        self.0.as_ptr()
    }

    /// The next answer that has come.
    pub(super) fn next(&self) -> Option<Event> {
        // SAFETY: the queue is alive. The event that is returned belongs to us.
        NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.0.as_ptr(), 0) }).map(Event)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, its client is alive, and nobody uses it afterwards. Answers that come later are dropped.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

impl Event {
    pub(super) fn as_ptr(&self) -> *mut sys::rd_kafka_event_t {
        self.0.as_ptr()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is ours, and nobody uses it afterwards.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}
