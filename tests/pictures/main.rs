//! `make pictures`: six minutes of one Herald with three instances, and the dashboards as they look at the end.
//!
//! Everything is real but the person who looks: Kafka, Postgres, the workers, the gateway, operators' commands, Prometheus with the
//! rules as they are shipped. Only the objectives over days are evaluated every few seconds instead of every five minutes, or they
//! would not be there yet.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, unreachable_pub)]

#[allow(dead_code, reason = "made for the drills, which need more of it")]
#[path = "../observability/files.rs"]
mod files;
#[allow(dead_code, reason = "made for the drills, which need more of it")]
#[path = "../observability/prometheus.rs"]
mod prometheus;
#[allow(dead_code, reason = "made for the drills, which need more of it")]
#[path = "../observability/promtool.rs"]
mod promtool;
#[path = "../support/mod.rs"]
mod support;

mod story;

use std::process::Command;

use crate::files::{RULES, path, read};
use crate::prometheus::Prometheus;
use crate::story::Story;

const JOB: &str = "herald";

#[tokio::main]
async fn main() {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "docs/images".to_owned());
    let mut story = Story::begin().await;
    let rules =
        RULES.map(|file| (file, read(&format!("dashboards/rules/{file}")).replace("interval: 5m", "interval: 5s")));
    let targets = story.targets();
    let prometheus = Prometheus::start(&rules, JOB, &targets[0]).await;
    for target in &targets[1..] {
        prometheus.scrape(JOB, target);
    }
    story.go_on().await;
    draw(&prometheus, &directory);
}

fn draw(prometheus: &Prometheus, directory: &str) {
    let mut command = Command::new("python3");
    let seconds = prometheus.age_seconds().to_string();
    command.arg(path("dashboards/pictures/draw.py")).args([prometheus.url(), &seconds, directory]);
    assert!(command.current_dir(path(".")).status().unwrap().success());
}
