//! `herald dlq list`: dead letters, the newest first, page by page.

use chrono::Utc;
use clap::Args;

use super::groups::short_group;
use super::selection::SelectionArguments;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_lines};
use crate::cli::table::{Align, Table, number, short_time};
use crate::operations::{Operations, Page};
use crate::postgres::{DeadLetterState, ListedLetter};

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// These dead letters
    ids: Vec<i64>,
    #[command(flatten)]
    selection: SelectionArguments,
    /// How many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Those with a lower id: the next page
    #[arg(long, value_name = "ID")]
    before: Option<i64>,
    /// One JSON object for each dead letter
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(arguments: Arguments, operations: &Operations) -> Result<(), Failure> {
    let selection = arguments.selection.selection(arguments.ids).or_in_states(&DeadLetterState::NOT_CLOSED);
    let page = operations.page(&selection, arguments.before, arguments.limit).await?;
    if arguments.json {
        return print_lines(page.letters.iter().map(ListedLetter::to_json));
    }
    if page.total == 0 {
        return print("no dead letters\n");
    }
    if page.letters.is_empty() {
        return print(&format!("none of {} dead letters is on this page\n", number(page.total)));
    }
    print(&format!("{}{}\n", table(&page.letters), closing(&page)))
}

fn table(letters: &[ListedLetter]) -> String {
    let today = Utc::now().date_naive();
    let mut table = Table::new(&[
        ("id", Align::Right),
        ("state", Align::Left),
        ("reason", Align::Left),
        ("last", Align::Left),
        ("order", Align::Left),
        ("from", Align::Left),
        ("group", Align::Left),
        ("replays", Align::Right),
        ("error", Align::Rest),
    ]);
    for letter in letters {
        let at = letter.coordinates;
        table.row(vec![
            letter.id.to_string(),
            letter.state.as_str().to_owned(),
            letter.reason.to_string(),
            short_time(letter.last_failed_at, today),
            order(letter),
            format!("{}@{}", at.partition, at.offset),
            short_group(&letter.group).to_owned(),
            number(letter.replays),
            letter.error.clone(),
        ]);
    }
    table.render()
}

/// Poison has no order.
fn order(letter: &ListedLetter) -> String {
    if letter.event_type == crate::core::decode::SYNTHETIC_EVENT_TYPE {
        return "–".to_owned();
    }
    crate::cli::table::cut(&letter.order_id, 20)
}

fn closing(page: &Page) -> String {
    let shown = format!("{} of {}", number(i64::try_from(page.letters.len()).unwrap_or(i64::MAX)), number(page.total));
    match page.next_before {
        None => shown,
        Some(before) => format!("{shown} · the next: --before {before}"),
    }
}
