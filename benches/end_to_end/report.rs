//! What was measured, as a table and as JSON.

use std::time::Duration;

use herald::cli::output::Style;
use serde_json::json;

use crate::machine::Machine;
use crate::worker::Measured;

/// What the worker is to keep of the bare loop's speed.
const GOAL: f64 = 0.5;

/// Both measures, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub bare: Duration,
    pub worker: Measured,
}

#[derive(Debug)]
pub struct Report {
    pub machine: Machine,
    pub orders: u32,
    pub partitions: i32,
    pub rounds: Vec<Round>,
}

pub fn heading(orders: u32, partitions: i32, rounds: u32) -> String {
    let orders = grouped(f64::from(orders));
    format!(
        "herald bench · real Kafka, private PostgreSQL, a channel that does nothing\n  \
         measured      {orders} orders in {partitions} partitions, each measure {rounds} times in turns\n"
    )
}

pub fn columns() -> String {
    format!(
        "  {:<9}{:>12}{:>14}{:>9}{:>14}{:>14}{:>15}",
        "round", "bare loop", "worker", "ratio", "worker's CPU", "rows/claim", "rows/settling"
    )
}

impl Round {
    pub fn line(&self, number: u32, orders: u32) -> String {
        let speeds = Speeds::of(self, orders);
        let Measured { cpu_seconds, rows_per_claim, rows_per_settlement, .. } = self.worker;
        let (cpu, claim, done) = (format!("{cpu_seconds:.1} s"), grouped(rows_per_claim), grouped(rows_per_settlement));
        format!("{}{cpu:>14}{claim:>14}{done:>15}", speeds.columns(&number.to_string()))
    }
}

impl Report {
    /// The closing lines of the table.
    pub fn summary(&self, style: Style) -> String {
        let median = self.median();
        let verdict = if median.ratio() >= GOAL {
            format!("{} the goal of {GOAL:.2} is reached", style.good("✓"))
        } else {
            format!("the goal of {GOAL:.2} is not reached")
        };
        format!("{}  {verdict}\n{}", median.columns("median"), self.best().columns("best"))
    }

    pub fn json(&self) -> serde_json::Value {
        let speeds = |speeds: Speeds| {
            json!({
                "bare_events_per_second": speeds.bare.round(),
                "worker_events_per_second": speeds.worker.round(),
                "ratio": speeds.ratio(),
            })
        };
        let round = |round: &Round| {
            let worker = &round.worker;
            json!({
                "bare_seconds": round.bare.as_secs_f64(),
                "worker_seconds": worker.settled.as_secs_f64(),
                "worker_committed_seconds": worker.committed.as_secs_f64(),
                "worker_cpu_seconds": worker.cpu_seconds,
                "worker_rows_per_claim": worker.rows_per_claim,
                "worker_rows_per_settlement": worker.rows_per_settlement,
            })
        };
        json!({
            "orders": self.orders,
            "partitions": self.partitions,
            "goal": GOAL,
            "median": speeds(self.median()),
            "best": speeds(self.best()),
            "rounds": self.rounds.iter().map(round).collect::<Vec<_>>(),
            "machine": self.machine,
        })
    }

    fn median(&self) -> Speeds {
        self.each(|mut sorted| {
            sorted.sort_by(f64::total_cmp);
            let middle = sorted.len() / 2;
            if sorted.len().is_multiple_of(2) {
                f64::midpoint(sorted[middle - 1], sorted[middle])
            } else {
                sorted[middle]
            }
        })
    }

    /// The shortest time is the one least disturbed.
    fn best(&self) -> Speeds {
        self.each(|speeds| speeds.into_iter().fold(0.0, f64::max))
    }

    fn each(&self, choose: impl Fn(Vec<f64>) -> f64) -> Speeds {
        let all = || self.rounds.iter().map(|round| Speeds::of(round, self.orders));
        Speeds {
            bare: choose(all().map(|speeds| speeds.bare).collect()),
            worker: choose(all().map(|speeds| speeds.worker).collect()),
        }
    }
}

/// Events per second.
#[derive(Clone, Copy, Debug)]
struct Speeds {
    bare: f64,
    worker: f64,
}

impl Speeds {
    fn of(round: &Round, orders: u32) -> Self {
        let speed = |took: Duration| f64::from(orders) / took.as_secs_f64();
        Self { bare: speed(round.bare), worker: speed(round.worker.settled) }
    }

    fn ratio(self) -> f64 {
        self.worker / self.bare
    }

    fn columns(self, name: &str) -> String {
        let per_second = |speed: f64| format!("{}/s", grouped(speed));
        format!("  {name:<9}{:>12}{:>14}{:>9.2}", per_second(self.bare), per_second(self.worker), self.ratio())
    }
}

/// `12,345`
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
