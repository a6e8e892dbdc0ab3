//! The stub gateway: answers each order as the plan says, keeps what it accepted, and can be taken off the network.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::plan::{Behaviour, Flaky, Plan};

/// The effect comes first and the answer a while later, so that a worker that is killed leaves notifications without an answer.
const ANSWER_AFTER: Duration = Duration::from_millis(5);
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    books: Arc<Books>,
    listening: Option<Listening>,
}

#[derive(Debug)]
struct Listening {
    close: oneshot::Sender<()>,
    served: JoinHandle<io::Result<()>>,
}

/// What was asked and what was answered, for each order.
#[derive(Debug)]
struct Books {
    plan: Arc<Plan>,
    orders: Mutex<HashMap<u64, Deliveries>>,
    notified: AtomicU64,
    requests: AtomicU64,
}

/// The deliveries of one order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    pub requests: u32,
    /// Requests that were answered with 200.
    pub accepted: u32,
    /// The idempotency keys of those. A gateway that honours the key has one effect for each.
    pub keys: HashSet<String>,
    /// Requests that were accepted with other content than the plan's.
    pub altered: u32,
}

#[derive(Deserialize)]
struct Notification {
    order: Value,
}

impl Gateway {
    pub async fn open(plan: Arc<Plan>) -> io::Result<Self> {
        let books = Arc::new(Books {
            plan,
            orders: Mutex::default(),
            notified: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let (address, listening) = listen((Ipv4Addr::LOCALHOST, 0).into(), &books).await?;
        Ok(Self { address, books, listening: Some(listening) })
    }

    pub fn url(&self) -> String {
        format!("http://{}/notifications", self.address)
    }

    /// Refuses connections from here on. Requests that were read are answered first, so that the outage itself makes no
    /// notification whose effect is unknown.
    pub async fn close(&mut self) -> io::Result<()> {
        let Some(listening) = self.listening.take() else {
            return Ok(());
        };
        // The server may have ended by itself; what it ended with is told by its task.
        let _ = listening.close.send(());
        tokio::time::timeout(CLOSE_LIMIT, listening.served)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the stub gateway did not close"))?
            .map_err(io::Error::other)?
    }

    /// Accepts connections again, at the same address.
    pub async fn reopen(&mut self) -> io::Result<()> {
        if self.listening.is_none() {
            let (_, listening) = listen(self.address, &self.books).await?;
            self.listening = Some(listening);
        }
        Ok(())
    }

    /// Orders that were accepted at least once.
    pub fn notified(&self) -> u64 {
        self.books.notified.load(Ordering::Relaxed)
    }

    /// All requests for an order so far.
    pub fn requests(&self) -> u64 {
        self.books.requests.load(Ordering::Relaxed)
    }

    pub fn deliveries(&self) -> HashMap<u64, Deliveries> {
        self.books.orders().clone()
    }
}

impl Books {
    fn orders(&self) -> MutexGuard<'_, HashMap<u64, Deliveries>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, headers: &HeaderMap, body: &Bytes) -> StatusCode {
        let Ok(notification) = serde_json::from_slice::<Notification>(body) else {
            return StatusCode::BAD_REQUEST;
        };
        let Some(order) = notification.order.get("order_id").and_then(Value::as_u64) else {
            return StatusCode::BAD_REQUEST;
        };
        let mut orders = self.orders();
        let deliveries = orders.entry(order).or_default();
        deliveries.requests += 1;
        let status = match self.plan.behaviour(order) {
            Behaviour::FailFirst(Flaky { status, times }) if deliveries.requests <= times => status,
            Behaviour::Accept | Behaviour::FailFirst(_) => 200,
            Behaviour::Always(status) => status,
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        if status == 200 {
            self.notified.fetch_add(u64::from(deliveries.accepted == 0), Ordering::Relaxed);
            deliveries.accept(headers, || self.is_as_planned(order, &notification));
        }
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn is_as_planned(&self, order: u64, notification: &Notification) -> bool {
        serde_json::from_str::<Value>(&self.plan.order_json(order)).is_ok_and(|planned| planned == notification.order)
    }
}

impl Deliveries {
    fn accept(&mut self, headers: &HeaderMap, is_as_planned: impl FnOnce() -> bool) {
        self.accepted += 1;
        self.altered += u32::from(!is_as_planned());
        let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
        // Without a key a gateway cannot tell a repetition from another notification.
        let key = key.map_or_else(|| format!("no key, request {}", self.requests), str::to_owned);
        self.keys.insert(key);
    }
}

async fn listen(address: SocketAddr, books: &Arc<Books>) -> io::Result<(SocketAddr, Listening)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/notifications", post(notify)).with_state(Arc::clone(books));
    let (close, closed) = oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let until_closed = async {
            // Dropping the gateway closes it too.
            let _ = closed.await;
        };
        axum::serve(listener, router).with_graceful_shutdown(until_closed).await
    });
    Ok((address, Listening { close, served }))
}

async fn notify(State(books): State<Arc<Books>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let status = books.decide(&headers, &body);
    tokio::time::sleep(ANSWER_AFTER).await;
    status
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn send(gateway: &Gateway, order: &str, key: &str) -> io::Result<u16> {
        let body = format!(r#"{{"id":"x","order":{order}}}"#);
        let request = format!(
            "POST /notifications HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{key}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(gateway.address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap())
    }

    fn flaky_order(plan: &Plan) -> (u64, Flaky) {
        (1..)
            .find_map(|order| match plan.behaviour(order) {
                Behaviour::FailFirst(flaky) => Some((order, flaky)),
                _ => None,
            })
            .unwrap()
    }

    #[tokio::test]
    async fn each_order_is_answered_as_planned() {
        let plan = Arc::new(Plan::new(100, 1));
        let gateway = Gateway::open(Arc::clone(&plan)).await.unwrap();
        let (flaky, Flaky { status, times }) = flaky_order(&plan);
        for request in 0..=times {
            let expected = if request < times { status } else { 200 };
            assert_eq!(send(&gateway, &plan.order_json(flaky), "").await.unwrap(), expected);
        }
        for (order, expected) in [(101, 400), (102, 422), (103, 500), (104, 500)] {
            assert_eq!(send(&gateway, &plan.order_json(order), "").await.unwrap(), expected);
        }
        assert_eq!(send(&gateway, "{}", "").await.unwrap(), 400);
        assert_eq!(gateway.notified(), 1);
        assert_eq!(gateway.requests(), u64::from(times) + 5);
    }

    #[tokio::test]
    async fn repetitions_count_by_their_idempotency_key_and_altered_content_is_seen() {
        let plan = Arc::new(Plan::new(100, 1));
        let gateway = Gateway::open(Arc::clone(&plan)).await.unwrap();
        let order = (1..=100).find(|&order| plan.behaviour(order) == Behaviour::Accept).unwrap();
        let good = plan.order_json(order);
        for key in ["idempotency-key: a\r\n", "Idempotency-Key: a\r\n", "idempotency-key: b\r\n", "", ""] {
            assert_eq!(send(&gateway, &good, key).await.unwrap(), 200);
        }
        let altered = good.replace("CREATED", "PAID");
        assert_eq!(send(&gateway, &altered, "idempotency-key: a\r\n").await.unwrap(), 200);
        let deliveries = gateway.deliveries();
        let found = &deliveries[&order];
        assert_eq!((found.requests, found.accepted, found.keys.len(), found.altered), (6, 6, 4, 1));
    }

    #[tokio::test]
    async fn a_closed_gateway_refuses_connections_until_it_is_opened_again() {
        let plan = Arc::new(Plan::new(100, 1));
        let mut gateway = Gateway::open(Arc::clone(&plan)).await.unwrap();
        assert!(send(&gateway, &plan.order_json(1), "").await.is_ok());
        gateway.close().await.unwrap();
        let refused = send(&gateway, &plan.order_json(1), "").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        gateway.reopen().await.unwrap();
        assert!(send(&gateway, &plan.order_json(1), "").await.is_ok());
    }
}
