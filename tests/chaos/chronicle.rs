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
    Killed {
        life: Life,
        when: When,
    },
    Frozen {
        life: Life,
        length: Length,
        when: When,
    },
    Terminated(Life),
    /// Others come and go, one after another.
    Visits,
    /// Many others come and go at the same time.
    Storm,
    BrokerKilled {
        broker: usize,
    },
    BrokerStopped {
        broker: usize,
    },
    /// Beside one that is down already.
    SecondBrokerDown {
        broker: usize,
    },
    PostgresCrashed,
    Locked {
        table: &'static str,
    },
    DatabasePath {
        slot: usize,
        mode: Mode,
        held_back: HeldBack,
    },
    KafkaPath {
        slot: usize,
        mode: Mode,
    },
    Gateway(Weather),
    /// All that is as large as a letter.
    DlqRefuses,
    /// Deleted, and created again.
    DlqGone,
}

/// What a worker was doing when it was killed or frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Whenever,
    /// Postgres was carrying out a statement of it.
    InStatement,
    /// It was not ready yet.
    Starting,
    StandingStill,
}

/// Beside how long Kafka waits for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Short,
    Long,
}

/// What becomes in the end of that which a broken way held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBack {
    Arrives,
    IsLost,
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
    pub fn lasts(&self, time: Duration) -> bool {
        self.to.is_none_or(|to| to - self.from >= time)
    }

    pub fn overlaps(&self, from: Instant, to: Instant) -> bool {
        self.from <= to && self.to.is_none_or(|end| end >= from)
    }
}

/// A part and what was done to it.
pub type Kind = (&'static str, &'static str);

/// All kinds of faults. A run of a few minutes has each of them.
pub const KINDS: [Kind; 41] = [
    ("workers", "killed"),
    ("workers", "killed in a statement"),
    ("workers", "killed at the start"),
    ("workers", "killed while frozen"),
    ("workers", "frozen shortly"),
    ("workers", "frozen for long"),
    ("workers", "frozen in a statement"),
    ("workers", "told to end"),
    ("visitors", "one after another"),
    ("visitors", "in a storm"),
    ("brokers", "killed"),
    ("brokers", "stopped"),
    ("brokers", "two at once"),
    ("Postgres", "crashes"),
    ("Postgres", "processed_orders locked"),
    ("Postgres", "parked_events locked"),
    ("Postgres", "dead_letters locked"),
    ("Postgres", "partition_epochs locked"),
    ("ways to Postgres", "cut"),
    ("ways to Postgres", "silent"),
    ("ways to Postgres", "silent, then cut"),
    ("ways to Postgres", "without answers"),
    ("ways to Postgres", "without answers, then cut"),
    ("ways to Postgres", "slow"),
    ("ways to Postgres", "slow, then cut"),
    ("ways to Kafka", "cut"),
    ("ways to Kafka", "silent"),
    ("ways to Kafka", "without answers"),
    ("ways to Kafka", "slow"),
    ("gateway", "down"),
    ("gateway", "401"),
    ("gateway", "429"),
    ("gateway", "500"),
    ("gateway", "502"),
    ("gateway", "503"),
    ("gateway", "slow"),
    ("gateway", "hangs"),
    ("gateway", "resets"),
    ("gateway", "flickers"),
    ("DLQ topic", "refuses"),
    ("DLQ topic", "deleted"),
];

/// How often each kind of fault happened.
pub fn counts(entries: &[Entry]) -> BTreeMap<Kind, usize> {
    let mut counts: BTreeMap<Kind, usize> = KINDS.into_iter().map(|kind| (kind, 0)).collect();
    for entry in entries {
        *counts.get_mut(&entry.fault.kind()).expect("every kind is listed") += 1;
    }
    counts
}

impl Fault {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Killed { when, .. } => (
                "workers",
                match when {
                    When::Whenever => "killed",
                    When::InStatement => "killed in a statement",
                    When::Starting => "killed at the start",
                    When::StandingStill => "killed while frozen",
                },
            ),
            Self::Frozen { when: When::InStatement, .. } => ("workers", "frozen in a statement"),
            Self::Frozen { length: Length::Short, .. } => ("workers", "frozen shortly"),
            Self::Frozen { length: Length::Long, .. } => ("workers", "frozen for long"),
            Self::Terminated(_) => ("workers", "told to end"),
            Self::Visits => ("visitors", "one after another"),
            Self::Storm => ("visitors", "in a storm"),
            Self::BrokerKilled { .. } => ("brokers", "killed"),
            Self::BrokerStopped { .. } => ("brokers", "stopped"),
            Self::SecondBrokerDown { .. } => ("brokers", "two at once"),
            Self::PostgresCrashed => ("Postgres", "crashes"),
            Self::Locked { table } => (
                "Postgres",
                match *table {
                    "processed_orders" => "processed_orders locked",
                    "parked_events" => "parked_events locked",
                    "dead_letters" => "dead_letters locked",
                    _ => "partition_epochs locked",
                },
            ),
            Self::DatabasePath { mode, held_back, .. } => (
                "ways to Postgres",
                match (mode, held_back) {
                    (_, HeldBack::Arrives) => mode.kind(),
                    (Mode::Silent, HeldBack::IsLost) => "silent, then cut",
                    (Mode::Mute, HeldBack::IsLost) => "without answers, then cut",
                    (Mode::Slow(_), HeldBack::IsLost) => "slow, then cut",
                    (Mode::Pass | Mode::Cut, HeldBack::IsLost) => "cut",
                },
            ),
            Self::KafkaPath { mode, .. } => ("ways to Kafka", mode.kind()),
            Self::Gateway(weather) => ("gateway", weather.kind()),
            Self::DlqRefuses => ("DLQ topic", "refuses"),
            Self::DlqGone => ("DLQ topic", "deleted"),
        }
    }
}

impl Weather {
    fn kind(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Status(401) => "401",
            Self::Status(429) => "429",
            Self::Status(500) => "500",
            Self::Status(502) => "502",
            Self::Status(_) => "503",
            Self::Slow(_) => "slow",
            Self::Hangs => "hangs",
            Self::Resets => "resets",
            Self::Flickers => "flickers",
        }
    }
}

impl Mode {
    fn kind(self) -> &'static str {
        match self {
            Self::Pass => "whole",
            Self::Cut => "cut",
            Self::Silent => "silent",
            Self::Mute => "without answers",
            Self::Slow(_) => "slow",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = |subject: &str, what: &str| write!(f, "{subject:<16} {what}");
        match self {
            Self::Killed { life, when } => told(&life.to_string(), &format!("killed (kill -9){when}")),
            Self::Frozen { life, when, .. } => told(&life.to_string(), &format!("frozen{when}")),
            Self::Terminated(life) => told(&life.to_string(), "told to end"),
            Self::BrokerKilled { broker } => told(&format!("broker {broker}"), "killed (kill -9)"),
            Self::BrokerStopped { broker } => told(&format!("broker {broker}"), "stopped"),
            Self::Visits => told("visitors", "come and go"),
            Self::Storm => told("visitors", "come and go in a storm"),
            Self::SecondBrokerDown { broker } => told(&format!("broker {broker}"), "ended too"),
            Self::PostgresCrashed => told("postgres", "crashed"),
            Self::Locked { table } => told("postgres", &format!("{table} locked")),
            Self::DatabasePath { slot, mode, held_back } => {
                told(&format!("worker {slot}"), &format!("way to Postgres {mode}{held_back}"))
            }
            Self::KafkaPath { slot, mode } => told(&format!("worker {slot}"), &format!("way to Kafka {mode}")),
            Self::Gateway(weather) => told("gateway", &weather.to_string()),
            Self::DlqRefuses => told("dlq topic", "refuses"),
            Self::DlqGone => told("dlq topic", "deleted"),
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

    /// What its connections to Postgres are called.
    pub fn name(self) -> String {
        format!("worker-{}", self.number)
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

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whenever => "",
            Self::InStatement => " in a statement",
            Self::Starting => " at the start",
            Self::StandingStill => " while frozen",
        })
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arrives => "",
            Self::IsLost => ", then cut",
        })
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
