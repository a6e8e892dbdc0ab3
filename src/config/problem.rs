//! What is wrong with a configuration, said so that a reader can mend it.

use std::fmt;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// A required value that nobody set.
    Nowhere,
    File {
        path: String,
        line: usize,
    },
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Nowhere => f.write_str("nowhere"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            // Whoever sets a variable may have put a line break into its name.
            Self::Environment(name) => write!(f, "environment, {}", name.escape_debug()),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key as `area.key`, or what else is wrong: an unknown name, a file.
    pub subject: String,
    /// The value and what is wrong with it, secrets redacted.
    pub what: String,
    pub origin: Origin,
    /// The value of another key that this one does not go with, and where that was set.
    pub against: Option<String>,
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.subject, self.what)?;
        writeln!(f, "  set in   {}", self.origin)?;
        if let Some(against) = &self.against {
            writeln!(f, "  against  {against}")?;
        }
        write!(f, "  allowed  {}", self.allowed)
    }
}

/// Everything that is wrong with a configuration, in the order of its sources. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(problems))]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

fn list(problems: &[Problem]) -> String {
    let listed: Vec<String> = problems.iter().map(Problem::to_string).collect();
    listed.join("\n")
}

#[cfg(test)]
#[path = "problem_tests.rs"]
mod tests;
