//! Herald, a notification worker for Kafka. ARCHITECTURE.md is the long form of this map.
//!
//! * [`core`]: every decision about a record, pure: inputs in, effects out.
//! * [`worker`]: the loop between the core and the world.
//! * [`kafka`], [`postgres`], [`channels`]: what is consumed from, written to and notified by; each keeps its client library to itself.
//! * [`telemetry`], [`http`]: metrics, logs and spans; where they and the health are served.
//! * [`operations`]: what operators can do; [`cli`] asks it and shows the answers.
//! * [`config`]: what is configured, checked once; [`preflight`]: what a start refuses to go on with.
//! * [`demo`], [`supervised`]: everything embedded, and the child processes that it needs.

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
