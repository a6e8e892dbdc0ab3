//! Everything embedded, no set-up: a story that is told with a real worker, and an account of every record of it.
//!
//! `plan` is the truth, `broker`, `postgres` and `gateway` are the parts that a worker needs, `worker` is one and `pages` what it
//! says of itself, `story` plays the
//! plan and kills it, `accounts` compares what was found with the plan, `report` and `screen` tell.

pub mod plan;
pub mod broker;
pub mod gateway;
pub mod ledger;
pub mod postgres;
mod pages;
pub mod worker;
mod producing;
pub mod accounts;
pub mod report;
pub mod screen;
pub mod story;

pub use report::Report;
pub use screen::{Screen, Target};
pub use story::{Options, Story};
