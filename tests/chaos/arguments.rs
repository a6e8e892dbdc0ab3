//! What a run is told, and what its seed decides.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Breaks everything that can break, at random, and accounts for every record.
#[derive(Clone, Debug, Parser)]
#[command(bin_name = "make chaos", about)]
pub struct Arguments {
    /// How long things are broken; what follows takes as long as it takes, within limits.
    #[arg(long, default_value_t = 3.0)]
    pub minutes: f64,
    /// Repeats a run. Random unless given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Records produced each second.
    #[arg(long, default_value_t = RATE)]
    pub rate: u32,
    /// What order is kept by. From the seed unless given.
    #[arg(long)]
    pub ordering: Option<Ordering>,
    /// The group's protocol. From the seed unless given.
    #[arg(long)]
    pub protocol: Option<Protocol>,
    /// What is done about deliveries of unknown effect.
    #[arg(long, default_value = "at_least_once")]
    pub semantics: Semantics,
    /// The worker's limit of parked records. From the seed unless given: some runs have a low one.
    #[arg(long)]
    pub parked_records: Option<u64>,
    /// One JSON object on standard output instead of the table.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Ordering {
    OrderId,
    UserId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Protocol {
    Classic,
    Consumer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Semantics {
    AtLeastOnce,
    AtMostOnce,
}

pub const RATE: u32 = 40;
/// Soon reached when the gateway is in trouble.
const FEW_PARKED: u64 = 100;
const MANY_PARKED: u64 = 1_000_000;

impl Arguments {
    pub fn seed(&self) -> u64 {
        self.seed.expect("set at the start")
    }

    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }

    pub fn ordering(&self) -> Ordering {
        // Keys with many records are the harder case.
        let of_seed = if self.seed() % 4 == 3 { Ordering::OrderId } else { Ordering::UserId };
        self.ordering.unwrap_or(of_seed)
    }

    pub fn parked_records(&self) -> u64 {
        let of_seed = if self.seed() % 4 == 1 { FEW_PARKED } else { MANY_PARKED };
        self.parked_records.unwrap_or(of_seed)
    }

    pub fn protocol(&self) -> Protocol {
        let of_seed = if self.seed() % 3 == 2 { Protocol::Consumer } else { Protocol::Classic };
        self.protocol.unwrap_or(of_seed)
    }
}

impl Ordering {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrderId => "order_id",
            Self::UserId => "user_id",
        }
    }
}

impl Semantics {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at_least_once",
            Self::AtMostOnce => "at_most_once",
        }
    }
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}
