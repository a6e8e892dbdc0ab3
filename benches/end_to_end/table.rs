//! What is printed: one table, a line for each measure.

use herald::cli::output::Style;
use serde_json::{Value, json};

/// One measure, and what it is to be compared with.
#[derive(Clone, Debug)]
pub struct Row {
    pub measure: String,
    /// What Herald did.
    pub herald: String,
    /// What that is compared with.
    pub against: String,
    pub ratio: f64,
    pub goal: Goal,
}

/// What the ratio is to be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// It says something, and nothing was promised.
    None,
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtLeast(goal) => format!("≥ {goal}"),
            Self::AtMost(goal) => format!("≤ {goal}"),
            Self::None => "-".to_owned(),
        }
    }

    fn is_reached(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtLeast(goal) => Some(ratio >= goal),
            Self::AtMost(goal) => Some(ratio <= goal),
            Self::None => None,
        }
    }
}

pub fn columns() -> String {
    format!("  {:<42}{:>20}  {:<42}{:>8}{:>8}", "measure", "herald", "against", "ratio", "goal")
}

impl Row {
    pub fn line(&self, style: Style) -> String {
        let Self { measure, herald, against, ratio, goal } = self;
        let ratio_text = if *ratio < 9.95 { format!("{ratio:.2}") } else { format!("{ratio:.0}") };
        let verdict = match goal.is_reached(*ratio) {
            Some(true) => style.good("✓"),
            Some(false) => "not reached".to_owned(),
            None => String::new(),
        };
        let line =
            format!("  {measure:<42}{herald:>20}  {against:<42}{ratio_text:>8}{goal:>8} {verdict}", goal = goal.text());
        line.trim_end().to_owned()
    }

    pub fn json(&self) -> Value {
        let Self { measure, herald, against, ratio, goal } = self;
        let (goal, is_reached) = (goal.text(), goal.is_reached(*ratio));
        json!({"measure": measure, "herald": herald, "against": against, "ratio": ratio, "goal": goal, "reached": is_reached})
    }
}

/// `12,345/s`
pub fn per_second(speed: f64) -> String {
    format!("{}/s", grouped(speed))
}

/// `12,345`
pub fn grouped(number: f64) -> String {
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

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(values, 0.5)
}

/// The value that this part of all values does not exceed.
pub fn percentile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len() - 1;
    // Positions are small.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let place = (last as f64 * part).round() as usize;
    sorted[place]
}
