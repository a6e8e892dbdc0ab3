//! An OTLP endpoint, in `tests/otlp_collector`: it decodes what it gets with OpenTelemetry's own definitions.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use herald::supervised::{Options, Supervised};
use serde_json::Value;

use super::wait::{EVENTUALLY, wait_until};
use super::{cache, directory, repository, tail};

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Collector {
    pub endpoint: String,
    output: PathBuf,
    _process: Supervised,
}

impl Collector {
    pub async fn start() -> Self {
        let directory = directory("collector");
        let output = directory.join("spans");
        let mut command = Command::new(cache("venv").join("bin/python"));
        command.arg(repository().join("tests/otlp_collector/collector.py")).env("PYTHONDONTWRITEBYTECODE", "1");
        let options = Options { cleanup: Some(directory), ..Options::logging_to(File::create(&output).unwrap()) };
        let process = Supervised::spawn(&command, options).unwrap();
        let port = wait_until("the collector listens", EVENTUALLY, async || {
            assert!(process.exit_status().is_none(), "it ended:\n{}", tail(&output));
            lines(&output).first().and_then(|line| line["port"].as_u64()).ok_or_else(|| tail(&output))
        })
        .await;
        Self { endpoint: format!("http://127.0.0.1:{port}"), output, _process: process }
    }

    /// All spans so far, in the order in which they came.
    pub fn spans(&self) -> Vec<Value> {
        lines(&self.output).into_iter().filter(|line| line["span_id"].is_string()).collect()
    }
}

fn lines(output: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(output).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
