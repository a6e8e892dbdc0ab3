//! The pure part: no I/O, no clock, no randomness but its seed, no async runtime, no client library.
//!
//! In reading order: what is held, how it fails, what comes in and goes out, then the parts, then the engine.

pub mod record;
pub mod trace;
pub mod key;
pub mod event;
pub mod json;
pub mod decode;
pub mod failure;
pub mod replay;
pub mod semantics;
pub mod dead_letter;
pub mod attempts;

pub mod input;
pub mod effect;
pub mod invariants;

pub mod retry;
pub mod breaker;
pub mod evidence;
pub mod parked;
pub mod watermark;
pub mod batch;
pub mod claim;
mod entry;
mod partition;
pub mod engine;
