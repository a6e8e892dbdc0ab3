//! `herald dlq audit`: what operators did, and what was refused.

use clap::Args;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::{print, print_lines};
use crate::cli::table::{Align, Table, number};
use crate::operations::Operations;
use crate::postgres::AuditRow;

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// How many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Those with a lower id: the next page
    #[arg(long, value_name = "ID")]
    before: Option<i64>,
    /// One JSON object for each act
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(arguments: &Arguments, operations: &Operations) -> Result<(), Failure> {
    let rows = operations.audit(arguments.before, arguments.limit).await?;
    if arguments.json {
        return print_lines(rows.iter().map(as_json));
    }
    let mut table = Table::new(&[
        ("id", Align::Right),
        ("when", Align::Left),
        ("who", Align::Left),
        ("what", Align::Left),
        ("result", Align::Left),
        ("letters", Align::Right),
        ("why", Align::Rest),
    ]);
    for row in rows {
        let why = [row.reason, row.detail, row.filter].into_iter().filter(|text| !text.is_empty() && text != "{}");
        table.row(vec![
            row.id.to_string(),
            row.at.to_string(),
            row.operator,
            row.action,
            row.result,
            number(row.letters),
            why.collect::<Vec<_>>().join(" · "),
        ]);
    }
    print(&table.render())
}

fn as_json(row: &AuditRow) -> serde_json::Value {
    let filter: serde_json::Value = serde_json::from_str(&row.filter).unwrap_or_default();
    json!({
        "id": row.id,
        "at": row.at.rfc3339(),
        "operator": row.operator,
        "action": row.action,
        "filter": filter,
        "letters": row.letters,
        "reason": row.reason,
        "result": row.result,
        "detail": row.detail,
    })
}
