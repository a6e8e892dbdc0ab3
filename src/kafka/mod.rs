//! Reaching the Kafka cluster: the consumer thread, the dead-letter producer, lag and preflight.
