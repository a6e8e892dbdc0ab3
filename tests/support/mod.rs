//! Real parts, and a [`World`] that gives each test its own corner of them.

// A kit for all behaviours: no single one needs every tool.
#![allow(dead_code, unused_imports)]

pub mod collector;
pub mod configured;
pub mod decoded;
pub mod gateway;
pub mod headers;
pub mod kafka;
pub mod kept;
pub mod letters;
pub mod oracle;
pub mod order_service;
pub mod orders;
pub mod parked;
pub mod pgbouncer;
pub mod ports;
pub mod postgres;
pub mod proxy;
pub mod reading;
pub mod records;
pub mod undisturbed;
pub mod wait;
pub mod worker;
mod world;

pub use world::World;

use std::path::PathBuf;

/// A name nobody else uses: parts may be shared with other runs.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{:08x}", fastrand::u32(..))
}

/// What `scripts/setup` put into `.cache`.
pub fn cache(name: &str) -> PathBuf {
    let path = repository().join(".cache").join(name);
    assert!(path.exists(), "{} is missing: run scripts/setup", path.display());
    path
}

pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A new directory that whoever gets it removes.
pub fn directory(prefix: &str) -> PathBuf {
    tempfile::Builder::new().prefix(&format!("herald-{prefix}-")).tempdir().unwrap().keep()
}

/// The last lines of a log, for the message of a failed assertion.
pub fn tail(log: &std::path::Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
