//! The pure part: no I/O, no clock, no randomness but its seed, no async runtime, no client library.

pub mod dead_letter;
pub mod effect;
pub mod event;
pub mod failure;
pub mod input;
pub mod record;
