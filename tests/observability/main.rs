//! What an SRE relies on, checked against the binary and a real Prometheus: dashboards, rules, runbooks, and drills that raise alerts.
//!
//! A target of its own: the drills watch clocks, and the behaviour tests would take the machine from them.

// The whole crate is a test: the exemptions that clippy.toml grants to tests do not see helper functions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    unreachable_pub
)]

mod dashboards;
mod deployment;
mod drill;
mod drills;
mod files;
mod prometheus;
mod promtool;
mod proof;
mod rules;
mod runbooks;
mod speed;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
