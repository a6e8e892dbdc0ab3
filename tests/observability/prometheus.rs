//! A real Prometheus.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use herald::supervised::{Options, Supervised};
use serde_json::{Value, json};

use crate::promtool::program;
use crate::support::wait::{SOON, wait_until};
use crate::support::worker::http_client;
use crate::support::{directory, ports, tail};

/// Dropping it ends the process.
#[derive(Debug)]
pub struct Prometheus {
    address: String,
    started: Instant,
    directory: PathBuf,
    /// As [`TARGETS`] has them.
    targets: Mutex<Vec<Value>>,
    log: PathBuf,
    _process: Supervised,
}

/// Read by Prometheus whenever it changes.
const TARGETS: &str = "targets.json";

/// One series of an answer.
#[derive(Clone, Debug)]
pub struct Series {
    pub labels: Value,
    pub values: Vec<f64>,
}

impl Prometheus {
    /// With these rule files, scraping every second: at first this target of this job.
    pub async fn start(rules: &[(&str, String)], job: &str, target: &str) -> Self {
        let directory = directory("prometheus");
        for (name, text) in rules {
            fs::write(directory.join(name), text).unwrap();
        }
        fs::write(directory.join("prometheus.yml"), configuration(rules)).unwrap();
        let targets = Mutex::new(Vec::new());
        add_target(&directory, &targets, job, target);
        let port = ports::reserve();
        let address = ports::local(port.port()).to_string();
        let log = directory.join("prometheus.log");
        let mut command = Command::new(program("prometheus"));
        command.current_dir(&directory).args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
        command.arg(format!("--web.listen-address={address}"));
        let options = Options { cleanup: Some(directory.clone()), ..Options::logging_to(File::create(&log).unwrap()) };
        port.release();
        let process = Supervised::spawn(&command, options).unwrap();
        let address = format!("http://{address}");
        let prometheus = Self { address, log, started: Instant::now(), directory, targets, _process: process };
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

    /// From now on this target is scraped as well.
    pub fn scrape(&self, job: &str, target: &str) {
        add_target(&self.directory, &self.targets, job, target);
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
        let mut url = url::Url::parse(&format!("{}/api/v1/{what}", self.url())).unwrap();
        url.query_pairs_mut().extend_pairs(parameters);
        let text = http_client().get(url).send().await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["status"], "success", "{parameters:?}: {text}");
        answer["data"].clone()
    }
}

fn add_target(directory: &Path, targets: &Mutex<Vec<Value>>, job: &str, target: &str) {
    let mut targets = targets.lock().unwrap();
    targets.push(json!({"targets": [target], "labels": {"job": job}}));
    let written = directory.join("targets.new");
    fs::write(&written, json!(*targets).to_string()).unwrap();
    // At once, so that nobody reads half of it.
    fs::rename(written, directory.join(TARGETS)).unwrap();
}

fn configuration(rules: &[(&str, String)]) -> String {
    use std::fmt::Write as _;
    let mut text = "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files:\n".to_owned();
    for (name, _) in rules {
        let _ = writeln!(text, "  - {name}");
    }
    let discovery = format!("{{files: [{TARGETS}], refresh_interval: 1s}}");
    let _ = writeln!(text, "scrape_configs:\n  - job_name: all\n    file_sd_configs: [{discovery}]");
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
