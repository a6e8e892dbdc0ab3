//! `herald dlq reindex`: the table, rebuilt from a dead-letter topic.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::table::number;
use crate::operations::Operations;

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// Another topic than dead_letters.topic: of Spring Kafka, Kafka Connect, Kafka Streams or a share group
    #[arg(long, value_name = "TOPIC")]
    of_topic: Option<String>,
    /// Also what other consumer groups gave up on
    #[arg(long)]
    any_group: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(arguments: &Arguments, operations: &Operations) -> Result<(), Failure> {
    let found = operations.reindex(arguments.of_topic.as_deref(), arguments.any_group).await?;
    if arguments.json {
        let json = json!({
            "read": found.read,
            "added": found.added,
            "of_others": found.of_others,
            "without_value": found.without_value,
            "unreadable": found.unreadable,
        });
        return print(&format!("{json}\n"));
    }
    let mut text = format!("{} records read, {} dead letters added\n", number(found.read), number(found.added));
    for (count, what) in [
        (found.of_others, "are of another topic or another group"),
        (found.without_value, "have no value: it was too large, or was not copied"),
        (found.unreadable, "do not say where they came from"),
    ] {
        if count > 0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} {what}", number(count));
        }
    }
    print(&text)
}
