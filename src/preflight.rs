//! What a look at the surroundings found: shared by every area that `herald check` asks.

/// One line of `herald check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: `kafka`, `topic`, `dead letter`, `database`, `ledger`, `channel`.
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
    /// `herald run` refuses to start.
    Problem,
}

impl Finding {
    #[must_use]
    pub fn ok(area: &'static str, detail: impl Into<String>) -> Self {
        Self {
            area,
            verdict: Verdict::Ok,
            detail: detail.into(),
            remedies: Vec::new(),
        }
    }

    #[must_use]
    pub fn problem(area: &'static str, detail: impl Into<String>, remedies: Vec<String>) -> Self {
        Self {
            area,
            verdict: Verdict::Problem,
            detail: detail.into(),
            remedies,
        }
    }

    #[must_use]
    pub fn is_problem(&self) -> bool {
        self.verdict == Verdict::Problem
    }
}
