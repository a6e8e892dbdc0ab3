//! The rules by which `make chaos` judges: what each finds, and what each lets pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    unreachable_pub,
    dead_code
)]

mod arguments;
mod bag;
mod chronicle;
mod content;
mod crew;
mod faults;
mod judge;
mod load;
mod lookout;
mod stage;
mod rules {
    mod clock;
    mod order;
    mod repeats;
    mod story;
}
#[path = "../support/mod.rs"]
mod support;

pub use arguments::{Arguments, Ordering, Semantics};
