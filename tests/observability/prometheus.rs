//! A real Prometheus.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use herald::supervised::{Options, Supervised};
use serde_json::Value;

use crate::promtool::program;
use crate::support::wait::{SOON, wait_until};
use crate::support::worker::http_client;
use crate::support::{directory, ports, tail};

/// Dropping it ends the process.
#[derive(Debug)]
pub struct Prometheus {
    address: String,
    started: Instant,
    log: PathBuf,
    _process: Supervised,
}

/// One series of an answer.
#[derive(Clone, Debug)]
pub struct Series {
    pub labels: Value,
    pub values: Vec<f64>,
}

impl Prometheus {
    /// With these rule files, scraping these targets every second: (job, host:port).
    pub async fn start(rules: &[(&str, String)], targets: &[(String, String)]) -> Self {
        let directory = directory("prometheus");
        for (name, text) in rules {
            fs::write(directory.join(name), text).unwrap();
        }
        fs::write(directory.join("prometheus.yml"), configuration(rules, targets)).unwrap();
        let port = ports::reserve();
        let address = ports::local(port.port()).to_string();
        let log = directory.join("prometheus.log");
        let mut command = Command::new(program("prometheus"));
        command.current_dir(&directory).args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
        command.arg(format!("--web.listen-address={address}"));
        let options = Options { cleanup: Some(directory.clone()), ..Options::logging_to(File::create(&log).unwrap()) };
        port.release();
        let process = Supervised::spawn(&command, options).unwrap();
        let prometheus = Self { address: format!("http://{address}"), log, started: Instant::now(), _process: process };
        wait_until("Prometheus is ready", SOON, async || {
            let answer = http_client().get(format!("{}/-/ready", prometheus.address)).send().await;
            match answer {
                Ok(answer) if answer.status().is_success() => Ok(()),
                _ => Err(tail(&prometheus.log)),
            }
        })
        .await;
        prometheus
    }

    /// How long it has been scraping.
    pub fn age_seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    pub fn url(&self) -> &str {
        &self.address
    }

    /// All values of the last `seconds`, one every second.
    pub async fn over(&self, expression: &str, seconds: u32) -> Vec<Series> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let parameters = [
            ("query", expression.to_owned()),
            ("start", (now - f64::from(seconds)).to_string()),
            ("end", now.to_string()),
            ("step", "1".to_owned()),
        ];
        let answer = self.ask("query_range", &parameters).await;
        series(&answer, |one| one["values"].as_array().unwrap().iter().map(|pair| number(&pair[1])).collect())
    }

    /// Values at this moment.
    pub async fn at_once(&self, expression: &str) -> Vec<Series> {
        let answer = self.ask("query", &[("query", expression.to_owned())]).await;
        series(&answer, |one| vec![number(&one["value"][1])])
    }

    pub async fn rules(&self) -> Vec<Value> {
        let answer = self.ask("rules", &[]).await;
        let groups = answer["groups"].as_array().unwrap().iter();
        groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }

    async fn ask(&self, what: &str, parameters: &[(&str, String)]) -> Value {
        let mut url = url::Url::parse(&format!("{}/api/v1/{what}", self.address)).unwrap();
        url.query_pairs_mut().extend_pairs(parameters);
        let text = http_client().get(url).send().await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["status"], "success", "{parameters:?}: {text}");
        answer["data"].clone()
    }
}

fn configuration(rules: &[(&str, String)], targets: &[(String, String)]) -> String {
    use std::fmt::Write as _;
    let mut text = "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files:\n".to_owned();
    for (name, _) in rules {
        let _ = writeln!(text, "  - {name}");
    }
    text.push_str("scrape_configs:\n  - job_name: all\n    static_configs:\n");
    for (job, target) in targets {
        let _ = writeln!(text, "      - {{targets: ['{target}'], labels: {{job: {job}}}}}");
    }
    text
}

fn series(answer: &Value, values: impl Fn(&Value) -> Vec<f64>) -> Vec<Series> {
    match answer["resultType"].as_str().unwrap() {
        "scalar" => vec![Series { labels: Value::Null, values: vec![number(&answer["result"][1])] }],
        _ => answer["result"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| Series { labels: one["metric"].clone(), values: values(one) })
            .collect(),
    }
}

fn number(text: &Value) -> f64 {
    match text.as_str().unwrap() {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        text => text.parse().unwrap(),
    }
}
