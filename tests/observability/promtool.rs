//! Prometheus's own checker.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::repository;

/// Runs it beside the rules and gives what it said: `Err` when it complained.
pub fn promtool(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(program("promtool"));
    command.args(arguments).current_dir(repository().join("dashboards/rules"));
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// The same places as in `scripts/setup`.
pub fn program(name: &str) -> PathBuf {
    let cached = repository().join(".cache/prometheus/bin").join(name);
    if cached.exists() { cached } else { PathBuf::from(name) }
}
