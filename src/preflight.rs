//! What a look at the surroundings found: shared by every area that `herald check` asks.

use std::time::Duration;

use crate::config::Settings;
use crate::kafka;
use crate::postgres::Postgres;

/// One line of `herald check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: `kafka`, `topic`, `group`, `dead letter`, `database`, `ledger`, `parked`, `channel`.
    pub area: &'static str,
    pub verdict: Verdict,
    /// One line.
    pub detail: String,
    /// What to do about a problem, one line each, most likely first.
    pub remedies: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    /// `herald run` starts all the same.
    Warning,
    /// `herald run` refuses to start.
    Problem,
}

impl Finding {
    #[must_use]
    pub fn ok(area: &'static str, detail: impl Into<String>) -> Self {
        Self { area, verdict: Verdict::Ok, detail: detail.into(), remedies: Vec::new() }
    }

    #[must_use]
    pub fn warning(area: &'static str, detail: impl Into<String>, remedies: Vec<String>) -> Self {
        Self { verdict: Verdict::Warning, ..Self::problem(area, detail, remedies) }
    }

    #[must_use]
    pub fn problem(area: &'static str, detail: impl Into<String>, remedies: Vec<String>) -> Self {
        Self { area, verdict: Verdict::Problem, detail: detail.into(), remedies }
    }

    #[must_use]
    pub fn is_problem(&self) -> bool {
        self.verdict == Verdict::Problem
    }
}

impl Verdict {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// How long the source topic keeps its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    Forever,
    Between {
        /// From then on a record may be gone.
        least: Duration,
        /// Until then one can come again: a segment is removed as a whole, and only once its youngest record is old enough.
        most: Duration,
    },
    /// The broker does not tell us.
    Unknown,
}

/// What was found before a start.
#[derive(Clone, Debug)]
pub struct Preflight {
    pub findings: Vec<Finding>,
    pub topic_retention: Retention,
    /// `None` when the topic is missing or could not be asked about.
    pub source_partitions: Option<i32>,
    pub has_dead_letter_topic: bool,
}

/// Looks at everything that a worker cannot start without, and changes nothing.
pub async fn before_start(settings: &Settings, postgres: &Postgres) -> Preflight {
    let kafka = kafka::preflight::inspect(settings).await;
    let source = kafka.source.as_ref();
    let topic_retention = source.map_or(Retention::Unknown, |topic| topic.retention);
    let mut findings = kafka.findings;
    findings.extend(postgres.preflight(settings.ledger.retention, topic_retention).await);
    findings.extend(postgres.parked_order(&settings.decoder()).await);
    Preflight {
        findings,
        topic_retention,
        source_partitions: source.map(|topic| topic.partitions),
        has_dead_letter_topic: kafka.dead_letters.is_some(),
    }
}

impl Preflight {
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.findings.iter().any(Finding::is_problem)
    }
}
