//! The closing table, and the same as one JSON object.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::accounts::Accounts;
use crate::cli::output::Style;
use crate::cli::table::number;
use crate::core::failure::Reason;

const WIDTH: usize = 100;
/// Where the notes of the right half begin.
const NOTE_COLUMN: usize = 53;

/// What a demo ended with.
#[derive(Clone, Debug)]
pub struct Report {
    pub accounts: Accounts,
    pub elapsed: Duration,
    pub seed: u64,
    pub open_at_kill: u64,
    /// From the kill to the next request at the gateway.
    pub recovery: Option<Duration>,
    pub metrics_url: String,
    pub database_url: String,
    pub bootstrap_servers: String,
}

#[derive(Serialize)]
struct Json<'a> {
    balanced: bool,
    produced: u64,
    notified: u64,
    duplicates: u64,
    ignored: u64,
    dead_letters: u64,
    dead_letters_by_reason: BTreeMap<&'static str, u64>,
    lost: u64,
    waiting: u64,
    notified_twice: u64,
    redelivered_with_same_key: u64,
    open_claims_at_kill: u64,
    recovery_seconds: Option<f64>,
    problems: &'a [String],
    elapsed_seconds: f64,
    seed: u64,
}

impl Report {
    pub fn balances(&self) -> bool {
        self.accounts.balance()
    }

    /// One object on one line.
    pub fn json(&self) -> serde_json::Result<String> {
        let accounts = &self.accounts;
        serde_json::to_string(&Json {
            balanced: self.balances(),
            produced: accounts.produced,
            notified: accounts.notified,
            duplicates: accounts.duplicates,
            ignored: accounts.ignored,
            dead_letters: accounts.dead_letter_count(),
            dead_letters_by_reason: accounts
                .dead_letters
                .iter()
                .map(|(reason, count)| (reason.as_str(), *count))
                .collect(),
            lost: accounts.lost,
            waiting: accounts.waiting,
            notified_twice: accounts.notified_twice,
            redelivered_with_same_key: accounts.redelivered,
            open_claims_at_kill: self.open_at_kill,
            recovery_seconds: self.recovery.map(seconds),
            problems: &accounts.problems,
            elapsed_seconds: seconds(self.elapsed),
            seed: self.seed,
        })
    }

    /// The closing table.
    pub fn table(&self, style: Style) -> String {
        let accounts = &self.accounts;
        let mut reasons = by_reason(&accounts.dead_letters).into_iter();
        let first_reasons = reasons.next().unwrap_or_default();
        let dead_letters = ("dead letters", accounts.dead_letter_count());
        let mut lines = vec![
            row(("produced", accounts.produced), ("notified", accounts.notified), self.how_notified()),
            row(("duplicates", accounts.duplicates), dead_letters, &first_reasons),
        ];
        lines.extend(reasons.map(|more| format!("{:NOTE_COLUMN$}{more}", "")));
        lines.push(row(("ignored", accounts.ignored), ("lost", accounts.lost), ""));
        lines.push(half_row("notified twice", accounts.notified_twice, ""));
        if accounts.redelivered > 0 {
            lines.push(half_row("redelivered", accounts.redelivered, "with the same idempotency key after the kill"));
        }
        if accounts.waiting > 0 {
            lines.push(half_row("waiting", accounts.waiting, "not passed by the group's offset"));
        }
        for problem in &accounts.problems {
            lines.push(format!("  {} {problem}", style.bad("✗")));
        }
        lines.push(self.verdict(style));
        lines.join("\n")
    }

    /// Where to look while the parts still run.
    pub fn places(&self) -> String {
        format!(
            "  look around   {}\n                psql {}\n                Kafka {}\n  Ctrl-C ends everything",
            self.metrics_url, self.database_url, self.bootstrap_servers
        )
    }

    fn how_notified(&self) -> &'static str {
        match (self.accounts.notified_twice, self.accounts.redelivered) {
            (0, 0) => "each exactly once",
            (0, _) => "each once, by its idempotency key",
            _ => "",
        }
    }

    fn verdict(&self, style: Style) -> String {
        if self.balances() {
            format!("  every record accounted for {}", style.good("✓"))
        } else {
            format!("  the account does not balance {}", style.bad("✗"))
        }
    }
}

fn row((left, left_count): (&str, u64), (right, right_count): (&str, u64), note: &str) -> String {
    let line = format!("  {left:<11}{:>8}        {right:<14}{:>8}  {note}", number(left_count), number(right_count));
    line.trim_end().to_owned()
}

fn half_row(right: &str, count: u64, note: &str) -> String {
    let line = format!("{:29}{right:<14}{:>8}  {note}", "", number(count));
    line.trim_end().to_owned()
}

/// `5 undecodable · 4 invalid`, in as many lines as it takes.
fn by_reason(letters: &BTreeMap<Reason, u64>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (reason, count) in letters {
        let part = format!("{} {reason}", number(*count));
        match lines.last_mut() {
            Some(line) if NOTE_COLUMN + line.chars().count() + part.len() + 3 <= WIDTH => {
                line.push_str(" · ");
                line.push_str(&part);
            }
            _ => lines.push(part),
        }
    }
    lines
}

/// To the millisecond.
fn seconds(duration: Duration) -> f64 {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let dead_letters = [
            (Reason::Undecodable, 5),
            (Reason::Invalid, 4),
            (Reason::Conflict, 1),
            (Reason::Permanent, 2),
            (Reason::Exhausted, 2),
        ];
        Report {
            accounts: Accounts {
                produced: 1_042_014,
                notified: 1_000_000,
                duplicates: 38_000,
                ignored: 4_000,
                dead_letters: dead_letters.into(),
                redelivered: 31,
                ..Accounts::default()
            },
            elapsed: Duration::from_micros(21_456_789),
            seed: 1,
            open_at_kill: 37,
            recovery: Some(Duration::from_millis(3_400)),
            metrics_url: "http://127.0.0.1:9464/metrics".to_owned(),
            database_url: "postgres://postgres@127.0.0.1:40000/herald".to_owned(),
            bootstrap_servers: "127.0.0.1:40001".to_owned(),
        }
    }

    #[test]
    fn the_table_is_aligned_and_fits_100_columns() {
        let table = report().table(Style::Plain);
        let expected = "  produced   1,042,014        notified      1,000,000  each once, by its idempotency key
  duplicates   38,000        dead letters        14  5 undecodable · 4 invalid · 1 conflict
                                                     2 permanent · 2 exhausted
  ignored       4,000        lost                 0
                             notified twice       0
                             redelivered         31  with the same idempotency key after the kill
  every record accounted for ✓";
        assert!(table.lines().all(|line| line.chars().count() <= WIDTH));
        assert_eq!(table, expected);
    }

    #[test]
    fn the_json_is_one_line_and_says_whether_the_account_balances() {
        let mut report = report();
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["balanced"], true);
        assert_eq!(json["dead_letters"], 14);
        assert_eq!(json["dead_letters_by_reason"]["undecodable"], 5);
        assert_eq!(json["elapsed_seconds"].to_string(), "21.456");
        report.accounts.lost = 1;
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["balanced"], false);
    }
}
