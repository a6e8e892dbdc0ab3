//! Herald, a notification worker for Kafka.

pub mod config;
pub mod core;
