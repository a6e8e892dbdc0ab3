//! The order service in the field, as far as Herald can see it: FastAPI and kafka-python, in `tests/order_service`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use herald::supervised::{Options, Supervised};
use serde_json::Value;

use super::kafka::Kafka;
use super::wait::{EVENTUALLY, wait_until};
use super::worker::http_client;
use super::{cache, directory, repository, tail};

/// Ends when it is dropped.
#[derive(Debug)]
pub struct OrderService {
    url: String,
    _process: Supervised,
}

impl OrderService {
    /// Starts the service, producing to this topic.
    pub async fn start(kafka: &Kafka, topic: &str) -> Self {
        let directory = directory("order-service");
        let log = directory.join("service.log");
        let mut command = Command::new(cache("venv").join("bin/python"));
        command
            // It tells the port it was given, so there is no race for one.
            .args(["-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "0"])
            .current_dir(repository().join("tests/order_service"))
            .env("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers())
            .env("KAFKA_TOPIC", topic)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUNBUFFERED", "1");
        let options = Options { cleanup: Some(directory), ..Options::logging_to(File::create(&log).unwrap()) };
        let process = Supervised::spawn(&command, options).unwrap();
        let url = wait_until("the order service listens", EVENTUALLY, async || {
            assert!(process.exit_status().is_none(), "it ended:\n{}", tail(&log));
            announced(&log).ok_or_else(|| tail(&log))
        })
        .await;
        Self { url, _process: process }
    }

    /// `POST /orders`; status and answer.
    pub async fn post(&self, order: &Value, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = http_client()
            .post(format!("{}/orders", self.url))
            .header("content-type", "application/json")
            .body(order.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.text().await.unwrap();
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }
}

fn announced(log: &PathBuf) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    let (_, rest) = text.split_once("Uvicorn running on ")?;
    rest.split_whitespace().next().map(str::to_owned)
}
