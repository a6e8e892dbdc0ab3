//! How much of Postgres's own speed is left when everything that is promised is kept.
//!
//! Two measures in one run on one machine, in turns: the bare loop (claims and settlements in batches, nothing else) and the
//! worker itself (`herald run` on a real Kafka, with a channel that does nothing). Their ratio is what can be compared between
//! machines; the numbers alone cannot.

// A program for one purpose: what goes wrong ends it, as in a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    unreachable_pub
)]

mod bare;
mod ledger;
mod machine;
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;
mod worker;

use clap::Parser;
use herald::cli::output::Style;

use ledger::Server;
use machine::Machine;
use report::{Report, Round};
use support::kafka::Kafka;
use support::{kafka, unique};

/// Measures the worker against the bare loop of claims and settlements.
#[derive(Debug, Parser)]
#[command(bin_name = "make bench", about)]
struct Arguments {
    /// Orders of each measurement.
    #[arg(long, default_value_t = 200_000)]
    orders: u32,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// How often each is measured, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// One JSON object on standard output instead of the table.
    #[arg(long)]
    json: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The topics all measurements of the worker share; each is a group of its own.
#[derive(Debug)]
pub struct Source {
    pub kafka: Kafka,
    pub topic: String,
    pub dlq_topic: String,
    pub orders: u32,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let say = |line: &str| {
        if arguments.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    };
    say(&report::heading(arguments.orders, arguments.partitions, arguments.rounds));
    let server = Server::start().await;
    let machine = Machine::look(&server.facts().await);
    say(&machine.table());
    let source = produce(&arguments).await;

    say(&report::columns());
    let mut rounds = Vec::new();
    for number in 1..=arguments.rounds {
        let round = Round {
            bare: bare::measure(&server, arguments.orders, arguments.partitions).await,
            worker: worker::measure(&server, &source).await,
        };
        say(&round.line(number, arguments.orders));
        rounds.push(round);
    }
    let report = Report { machine, orders: arguments.orders, partitions: arguments.partitions, rounds };
    if arguments.json {
        println!("{}", report.json());
    } else {
        println!("{}", report.summary(Style::of(&std::io::stdout())));
    }
}

async fn produce(arguments: &Arguments) -> Source {
    let kafka = kafka::shared().await.clone();
    let topic = unique("orders");
    let dlq_topic = format!("{topic}.dlq");
    tokio::join!(
        kafka.create_topic(&topic, arguments.partitions),
        kafka.create_topic(&dlq_topic, arguments.partitions)
    );
    let records = (0..arguments.orders).zip((0..arguments.partitions).cycle());
    let records = records.map(|(order, partition)| {
        let event = support::orders::created(u64::from(order));
        support::orders::record(&event).in_partition(partition)
    });
    kafka.produce(&topic, records.collect()).await;
    Source { kafka, topic, dlq_topic, orders: arguments.orders }
}
