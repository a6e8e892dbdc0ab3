//! What was broken when: told while it happens, and remembered for the verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::proxy::Mode;

/// One worker process, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// Counts all processes of the run.
    pub number: usize,
    /// Which of the workers it is; `None` for one that only comes and goes.
    pub slot: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Killed(Life),
    Frozen(Life),
    Terminated(Life),
    BrokerKilled { broker: usize },
    BrokerStopped { broker: usize },
    PostgresCrashed,
    Locked { table: &'static str },
    DatabasePath { slot: usize, mode: Mode },
    KafkaPath { slot: usize, mode: Mode },
    Gateway(Weather),
    DlqRefuses,
}

/// What the gateway does to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Down,
    Status(u16),
    Slow(Duration),
    Hangs,
    Resets,
    /// Fails one request out of a few.
    Flickers,
}

/// A fault with its time.
#[derive(Clone, Debug)]
pub struct Entry {
    pub fault: Fault,
    pub from: Instant,
    /// Absent while it lasts.
    pub to: Option<Instant>,
}

/// Refers to an entry that has not ended.
#[derive(Debug)]
pub struct Mark(usize);

#[derive(Debug)]
pub struct Chronicle {
    start: Instant,
    to_stderr: bool,
    entries: Mutex<Vec<Entry>>,
}

impl Chronicle {
    pub fn new(to_stderr: bool) -> Self {
        Self { start: Instant::now(), to_stderr, entries: Mutex::default() }
    }

    /// A fault that is over at once.
    pub fn note(&self, fault: Fault) {
        let mark = self.begin(fault, None);
        self.close(&mark);
    }

    /// A fault that lasts, as far as planned for this long.
    pub fn begin(&self, fault: Fault, planned: Option<Duration>) -> Mark {
        let lasts = planned.map_or(String::new(), |time| format!(" for {:.1} s", time.as_secs_f64()));
        self.tell(&format!("{fault}{lasts}"));
        let mut entries = self.entries.lock().unwrap();
        entries.push(Entry { fault, from: Instant::now(), to: None });
        Mark(entries.len() - 1)
    }

    #[allow(clippy::needless_pass_by_value, reason = "what has ended cannot end again")]
    pub fn end(&self, mark: Mark) {
        self.close(&mark);
    }

    /// A line with the time.
    pub fn tell(&self, text: &str) {
        let seconds = self.start.elapsed().as_secs();
        self.say(&format!("  {:02}:{:02}  {text}", seconds / 60, seconds % 60));
    }

    pub fn say(&self, line: &str) {
        if self.to_stderr {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }

    fn close(&self, mark: &Mark) {
        self.entries.lock().unwrap()[mark.0].to = Some(Instant::now());
    }
}

impl Entry {
    pub fn overlaps(&self, from: Instant, to: Instant) -> bool {
        self.from <= to && self.to.is_none_or(|end| end >= from)
    }
}

/// How often each kind of fault happened.
pub fn counts(entries: &[Entry]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for entry in entries {
        *counts.entry(entry.fault.kind()).or_default() += 1;
    }
    counts
}

impl Fault {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Killed(_) => "workers killed",
            Self::Frozen(_) => "workers frozen",
            Self::Terminated(_) => "workers terminated",
            Self::BrokerKilled { .. } => "brokers killed",
            Self::BrokerStopped { .. } => "brokers stopped",
            Self::PostgresCrashed => "Postgres crashes",
            Self::Locked { .. } => "tables locked",
            Self::DatabasePath { .. } => "ways to Postgres broken",
            Self::KafkaPath { .. } => "ways to Kafka broken",
            Self::Gateway(_) => "gateway faults",
            Self::DlqRefuses => "DLQ topic refusing",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = |subject: &str, what: &str| write!(f, "{subject:<16} {what}");
        match self {
            Self::Killed(life) => told(&life.to_string(), "killed (kill -9)"),
            Self::Frozen(life) => told(&life.to_string(), "frozen"),
            Self::Terminated(life) => told(&life.to_string(), "told to end"),
            Self::BrokerKilled { broker } => told(&format!("broker {broker}"), "killed (kill -9)"),
            Self::BrokerStopped { broker } => told(&format!("broker {broker}"), "stopped"),
            Self::PostgresCrashed => told("postgres", "crashed"),
            Self::Locked { table } => told("postgres", &format!("{table} locked")),
            Self::DatabasePath { slot, mode } => told(&format!("worker {slot}"), &format!("way to Postgres {mode}")),
            Self::KafkaPath { slot, mode } => told(&format!("worker {slot}"), &format!("way to Kafka {mode}")),
            Self::Gateway(weather) => told("gateway", &weather.to_string()),
            Self::DlqRefuses => told("dlq topic", "refuses"),
        }
    }
}

impl Life {
    /// What a worker adds to the gateway's address.
    pub fn query(self) -> String {
        match self.slot {
            Some(slot) => format!("life={}&slot={slot}", self.number),
            None => format!("life={}", self.number),
        }
    }

    /// Whose request it was.
    pub fn of_path(path: &str) -> Option<Self> {
        let (_, query) = path.split_once('?')?;
        let value = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.parse().ok());
        Some(Self { number: value("life=")?, slot: value("slot=") })
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            Some(slot) => write!(f, "worker {slot} (#{})", self.number),
            None => write!(f, "visitor (#{})", self.number),
        }
    }
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("down"),
            Self::Status(code) => write!(f, "answers {code}"),
            Self::Slow(delay) => write!(f, "slow, {:.1} s an answer", delay.as_secs_f64()),
            Self::Hangs => f.write_str("hangs"),
            Self::Resets => f.write_str("resets connections"),
            Self::Flickers => f.write_str("fails one request out of a few"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("whole"),
            Self::Cut => f.write_str("cut"),
            Self::Silent => f.write_str("silent"),
            Self::Mute => f.write_str("without answers"),
            Self::Slow(delay) => write!(f, "slowed by {} ms", delay.as_millis()),
        }
    }
}
