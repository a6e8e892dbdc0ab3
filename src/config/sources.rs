//! Where values come from. The only reader of the process environment and of the file.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use super::problem::{ConfigError, Origin, Problem};
use super::schema::Key;
use super::value::Written;

const DEFAULT_FILE: &str = "herald.toml";

/// Names the file when there is no `--config`.
pub(crate) const FILE_VARIABLE: &str = "HERALD_CONFIG";

/// Everything that may set a value, as plain data.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub file: Option<SourceFile>,
    pub environment: Vec<(String, OsString)>,
    pub flags: Vec<Flag>,
    pub surroundings: Surroundings,
}

#[derive(Clone, Debug)]
pub struct SourceFile {
    /// As it is shown in messages.
    pub path: String,
    pub text: String,
}

/// A key that was set on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag as it was written: `--topic`, `--set`.
    pub name: &'static str,
    /// `area.key`.
    pub key: String,
    pub value: String,
}

/// Who reads what the process writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Surroundings {
    Terminal,
    #[default]
    Unattended,
}

impl Sources {
    /// The sources of this process: its environment, and the file of `--config`, else of `HERALD_CONFIG`, else
    /// `herald.toml` in the working directory if there is one.
    pub fn of_process(config: Option<PathBuf>, flags: Vec<Flag>) -> Result<Self, ConfigError> {
        let environment: Vec<(String, OsString)> =
            std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value)).collect();
        let from_variable = environment
            .iter()
            .find(|(name, value)| name == FILE_VARIABLE && !value.is_empty())
            .map(|(_, value)| PathBuf::from(value));
        let file = match (config, from_variable) {
            (Some(path), _) => Some(read(&path, Origin::Flag("--config".to_owned()))?),
            (None, Some(path)) => Some(read(&path, Origin::Environment(FILE_VARIABLE.to_owned()))?),
            (None, None) if Path::new(DEFAULT_FILE).exists() => Some(read(Path::new(DEFAULT_FILE), Origin::Default)?),
            (None, None) => None,
        };
        let surroundings = if io::stderr().is_terminal() { Surroundings::Terminal } else { Surroundings::Unattended };
        Ok(Self { file, environment, flags, surroundings })
    }
}

fn read(path: &Path, origin: Origin) -> Result<SourceFile, ConfigError> {
    let shown = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(SourceFile { path: shown, text }),
        Err(error) => Err(ConfigError {
            problems: vec![Problem {
                subject: shown,
                what: format!("cannot be read: {error}"),
                origin,
                against: None,
                allowed: "a readable TOML file; herald config example prints one".to_owned(),
            }],
        }),
    }
}

/// One key set by one source.
#[derive(Debug)]
pub(crate) struct Assignment<'k> {
    pub(crate) key: &'k Key,
    /// The option's name below `kafka.options`.
    pub(crate) option: Option<String>,
    pub(crate) written: Written,
    pub(crate) origin: Origin,
}

/// What one source said, and what in it names nothing.
#[derive(Debug, Default)]
pub(crate) struct Layer<'k> {
    pub(crate) assignments: Vec<Assignment<'k>>,
    pub(crate) problems: Vec<Problem>,
}

impl Layer<'_> {
    /// A name that is no key, with the one that was probably meant.
    pub(crate) fn unknown(&mut self, name: &str, nearest: Option<String>, origin: Origin) {
        self.problems.push(Problem {
            subject: name.escape_debug().to_string(),
            what: "is not a key".to_owned(),
            origin,
            against: None,
            allowed: match nearest {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => "herald config example shows every key".to_owned(),
            },
        });
    }
}

/// The candidate most like `name`, as a whole or in its last part; none if all are far off.
pub(crate) fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    const ALIKE: f64 = 0.6;
    let mut best = (ALIKE, None);
    for candidate in candidates {
        let whole = strsim::normalized_damerau_levenshtein(name, &candidate);
        let last = strsim::normalized_damerau_levenshtein(last_part(name), last_part(&candidate));
        // The right key in the wrong area counts, but less than a slip in the right one.
        let score = whole.max(last * 0.9);
        if score > best.0 {
            best = (score, Some(candidate));
        }
    }
    best.1
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
