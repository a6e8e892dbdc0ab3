//! Apache Kafka in KRaft mode, from the jars that `scripts/setup` fetched.

mod broker;
mod client;

#[allow(unused_imports)] // Tests and benchmarks each need a part of it.
pub use broker::{Broker, description, shared};
pub use client::{Kafka, NewRecord};
