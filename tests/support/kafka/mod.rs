//! Apache Kafka in KRaft mode, from the jars that `scripts/setup` fetched.

mod broker;
mod client;

pub use broker::{Broker, description, shared};
pub use client::{Kafka, NewRecord};
