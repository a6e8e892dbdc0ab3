//! Apache Kafka in KRaft mode, from the jars that `scripts/setup` fetched.

mod broker;
mod client;
mod cluster;

#[allow(unused_imports)] // Tests and benchmarks each need a part of it.
pub use broker::{Broker, description, shared};
pub use client::{Kafka, NewRecord};
#[allow(unused_imports)] // Of the chaos run.
pub use cluster::{BrokerHandle, Cluster, Route};
