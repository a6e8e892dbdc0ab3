//! Apache Kafka in KRaft mode, from the jars that `scripts/setup` fetched.

mod broker;
mod client;
mod cluster;
mod seal;
mod secured;

#[allow(unused_imports)] // Tests and benchmarks each need a part of it.
pub use broker::{Broker, description, existing, ours, shared};
pub use client::{Kafka, NewRecord};
#[allow(unused_imports)] // Of the chaos run.
pub use cluster::{BrokerHandle, Cluster, Route};
#[allow(unused_imports)] // Of the behaviour tests.
pub use secured::{Access, Secured};
