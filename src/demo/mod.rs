//! Everything embedded, no set-up.

pub mod postgres;
