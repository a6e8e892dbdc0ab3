//! Herald, a notification worker for Kafka.

pub mod channels;
pub mod cli;
pub mod config;
pub mod core;
pub mod demo;
pub mod http;
pub mod kafka;
pub mod operations;
pub mod postgres;
pub mod preflight;
pub mod supervised;
pub mod telemetry;
pub mod worker;
