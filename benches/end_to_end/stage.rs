//! The parts that all measures share, and how much is measured.

use clap::Args;

use crate::ledger::Server;
use crate::support::kafka::{self, Kafka};

#[derive(Clone, Copy, Debug, Args)]
pub struct Amounts {
    /// Orders of each measurement of throughput.
    #[arg(long, default_value_t = 200_000)]
    pub orders: u32,
    /// Partitions of the topic, where it is not one.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,
    /// How often each is measured, in turns with what it is compared with.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Orders of each measurement with slept work.
    #[arg(long, default_value_t = 10_000)]
    pub slept: u32,
    /// Records of the backlog whose memory is measured.
    #[arg(long, default_value_t = 1_000_000)]
    pub backlog: u32,
    /// Parked keys whose memory is measured.
    #[arg(long, default_value_t = 100_000)]
    pub parked: u32,
    /// Records whose latency is measured.
    #[arg(long, default_value_t = 500)]
    pub samples: u32,
}

#[derive(Debug)]
pub struct Stage {
    pub kafka: Kafka,
    pub server: Server,
    pub amounts: Amounts,
}

impl Stage {
    pub async fn set(amounts: Amounts) -> Self {
        Self { kafka: kafka::shared().await.clone(), server: Server::start().await, amounts }
    }
}
