//! What Herald promises, shown on real parts: Apache Kafka, PostgreSQL, an HTTP gateway and the binary itself.
//!
//! One file per behaviour. Each test has its own topics, group, database and gateway (see [`support::World`]), so all of them run
//! in parallel; the broker and the database server are started once and end with the run, also when it fails or is killed.
//!
//! `HERALD_TEST_KAFKA` (bootstrap servers) and `HERALD_TEST_DATABASE_URL` name existing ones to use instead.

// The whole crate is a test: the exemptions that clippy.toml grants to tests do not see helper functions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    unreachable_pub
)]

mod answers;
mod architecture;
mod at_most_once;
mod back_pressure;
mod bad_input;
mod breaker;
mod configuration;
mod crash;
mod crash_loop;
mod dead_letters;
mod dlq_topic;
mod fence;
mod freeze;
mod guarantees;
mod harness;
mod joining_and_leaving;
mod ledger;
mod lost_offsets;
mod metrics;
mod notification;
mod odd_records;
mod operations;
mod outages;
mod parking;
mod pgbouncer;
mod preflight;
mod redelivery;
mod refusals;
mod secured_kafka;
mod shutdown;
mod start_offsets;
mod static_membership;
mod support;
mod traces;
