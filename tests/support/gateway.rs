//! The service that Herald notifies: a real HTTP server that records what it is asked and answers as told.

mod script;
mod server;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

pub use script::Answer;

use crate::support::ports;
use script::Script;
use server::Server;

/// Answers 200 to everything unless told otherwise.
#[derive(Debug)]
pub struct Gateway {
    port: u16,
    shared: Arc<Shared>,
    server: Mutex<Option<Server>>,
}

/// What was asked and what was answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// When all of it had arrived.
    pub received: Instant,
    /// When the answer was given; `None` where there was none (yet).
    pub answered: Option<Instant>,
    /// The status of that answer.
    pub status: Option<u16>,
    /// How many requests for this order came before.
    pub sequence: usize,
    /// Path and query that were asked for.
    pub path: String,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    pub body: Value,
    /// The body as it came.
    pub raw: Bytes,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    script: Mutex<Script>,
}

impl Gateway {
    pub async fn start() -> Self {
        let reserved = ports::reserve();
        let gateway = Self { port: reserved.port(), shared: Arc::default(), server: Mutex::default() };
        reserved.release();
        gateway.up().await;
        gateway
    }

    pub fn url(&self) -> String {
        format!("http://{}/notify", ports::local(self.port))
    }

    /// From now on, answers like this whatever is not scripted by order.
    pub fn answer(&self, answer: Answer) {
        self.shared.script.lock().unwrap().otherwise = answer;
    }

    /// The next requests for this order get these answers, one each; then as all others.
    pub fn answer_order(&self, order_id: &str, answers: impl IntoIterator<Item = Answer>) {
        self.shared.script.lock().unwrap().next_for(order_id, answers);
    }

    /// What was meant for the next requests for an order is not answered any more.
    pub fn forget_next(&self) {
        self.shared.script.lock().unwrap().forget_next();
    }

    /// All requests for this order get this answer once its next answers are used up.
    pub fn always_answer_order(&self, order_id: &str, answer: Answer) {
        self.shared.script.lock().unwrap().always_for(order_id, answer);
    }

    /// All requests so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn requests_for(&self, order_id: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.order_id() == order_id);
        requests
    }

    /// Requests that were answered with success.
    pub fn accepted(&self) -> usize {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|request| request.is_accepted()).count()
    }

    /// Whether a request to this path that came no longer ago than this has no answer yet.
    pub fn is_asked(&self, path: &str, within: Duration) -> bool {
        let requests = self.shared.requests.lock().unwrap();
        let mut recent = requests.iter().rev().take_while(|request| request.received.elapsed() < within);
        recent.any(|request| request.answered.is_none() && request.path.ends_with(path))
    }

    /// Refuses connections and resets those that are open.
    pub async fn down(&self) {
        let server = self.server.lock().unwrap().take();
        if let Some(server) = server {
            server.stop().await;
        }
    }

    /// Accepts connections again, on the same port.
    pub async fn up(&self) {
        if self.server.lock().unwrap().is_none() {
            let server = Server::start(self.port, Arc::clone(&self.shared)).await;
            *self.server.lock().unwrap() = Some(server);
        }
    }
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn idempotency_key(&self) -> Option<&str> {
        self.header("idempotency-key")
    }

    /// Of a number its digits, as in the ledger.
    pub fn order_id(&self) -> String {
        match &self.body["order"]["order_id"] {
            Value::String(id) => id.clone(),
            other => other.to_string(),
        }
    }

    /// The order that it carries, byte for byte.
    pub fn raw_order(&self) -> &[u8] {
        let text = str::from_utf8(&self.raw).unwrap();
        let from = text.split_once(r#""order":"#).unwrap().1;
        from.rsplit_once(r#","occurred_at":"#).unwrap().0.as_bytes()
    }

    pub fn event_type(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default()
    }

    pub fn is_accepted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}
