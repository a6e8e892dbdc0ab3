//! How a command fails: what is printed, and the exit code that scripts rely on.

use std::process::ExitCode;

use super::output::Style;
use crate::config::ConfigError;

/// Why a command did not do all that was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    /// Nothing was done, and doing it again changes nothing: preflight, permission, a stale plan.
    #[error("{0}")]
    Refused(String),
    /// Some of it was done.
    #[error("{0}")]
    Partly(String),
}

impl Failure {
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// 2 is also clap's for a command line it cannot read.
    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Configuration(_) => 2,
            Self::Refused(_) => 3,
            Self::Partly(_) => 4,
        }
    }

    /// The lines for standard error. An empty message was told already.
    #[must_use]
    pub fn message(&self, style: Style) -> String {
        let label = style.bad("error:");
        match self {
            Self::Configuration(error) => {
                let problems = error.problems.iter();
                let told: Vec<String> = problems.map(|problem| format!("{label} {problem}\n")).collect();
                match told.len() {
                    1 => told.concat(),
                    count => format!("{}{count} problems in the configuration\n", told.concat()),
                }
            }
            Self::Failed(_) | Self::Refused(_) | Self::Partly(_) => match self.to_string() {
                message if message.is_empty() => message,
                message => format!("{label} {message}\n"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::config::{Origin, Problem};

    fn problem(subject: &str) -> Problem {
        Problem {
            subject: subject.to_owned(),
            what: "\"10\" is not a duration".to_owned(),
            origin: Origin::Environment("HERALD_WEBHOOK__TIMEOUT".to_owned()),
            against: None,
            allowed: "a number with a unit, 100ms to 5m, for example \"10s\"".to_owned(),
        }
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        let problems = vec![problem("webhook.timeout")];
        for (failure, code) in [
            (Failure::Failed(anyhow!("no")), 1),
            (Failure::Configuration(ConfigError { problems }), 2),
            (Failure::Refused("no".to_owned()), 3),
            (Failure::Partly("no".to_owned()), 4),
        ] {
            assert_eq!(failure.code(), code, "{failure:?}");
        }
    }

    #[test]
    fn a_configuration_error_says_where_it_was_set_and_what_is_allowed() {
        let failure = Failure::Configuration(ConfigError { problems: vec![problem("webhook.timeout")] });
        let expected = "\
error: webhook.timeout: \"10\" is not a duration
  set in   environment, HERALD_WEBHOOK__TIMEOUT
  allowed  a number with a unit, 100ms to 5m, for example \"10s\"
";
        assert_eq!(failure.message(Style::Plain), expected);
    }

    #[test]
    fn several_problems_are_told_at_once_and_counted() {
        let failure = Failure::Configuration(ConfigError {
            problems: vec![problem("webhook.timeout"), problem("retry.max_backoff")],
        });
        let message = failure.message(Style::Plain);
        assert_eq!(message.matches("error: ").count(), 2);
        assert!(message.ends_with("2 problems in the configuration\n"), "{message}");
    }

    #[test]
    fn a_cause_stands_on_the_line_of_its_error() {
        let failure = Failure::Failed(anyhow!("connection refused").context("database"));
        assert_eq!(failure.message(Style::Plain), "error: database: connection refused\n");
        assert_eq!(failure.message(Style::Coloured), "\u{1b}[1;31merror:\u{1b}[0m database: connection refused\n");
    }
}
