//! The admin listener: health and metrics.

pub mod health;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::warn;

use self::health::Health;

/// How long requests may go on after the stop; none of ours takes longer, but a client may read slowly.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

const INDEX: &str = "\
herald, a notification worker for Kafka

/livez    200 while the worker turns
/readyz   200 while it makes progress, otherwise the reasons
/metrics  Prometheus metrics
";

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("http.address: {0} is in use; stop the other process or set another address")]
    InUse(SocketAddr),
    #[error("http.address: cannot listen on {address}: {error}")]
    Other { address: SocketAddr, error: io::Error },
}

/// A listener that is bound and not served yet: a port in use is found before the worker starts.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    shown: Shown,
}

#[derive(Clone, Debug)]
struct Shown {
    health: Arc<Health>,
    registry: Registry,
}

impl AdminServer {
    pub async fn bind(address: SocketAddr, health: Arc<Health>, registry: Registry) -> Result<Self, BindError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bound.await.map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address),
            _ => BindError::Other { address, error },
        })?;
        Ok(Self { listener, address, shown: Shown { health, registry } })
    }

    /// The bound address, with the port that was found where the configured one is 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` resolves, then lets running requests end, for two seconds at most.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let (stopping, stopped) = oneshot::channel();
        let stop = async move {
            stop.await;
            let _ = stopping.send(());
        };
        let serving = axum::serve(self.listener, router(self.shown)).with_graceful_shutdown(stop);
        let overdue = async {
            // An error is a stop that was dropped: the server has ended by itself.
            let _ = stopped.await;
            tokio::time::sleep(STOP_TIMEOUT).await;
        };
        tokio::select! {
            served = serving => served,
            () = overdue => {
                warn!("admin requests cut off: they did not end in time");
                Ok(())
            }
        }
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/", get(async || INDEX))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shown)
}

async fn livez(State(shown): State<Shown>) -> Response {
    let liveness = shown.health.liveness();
    json(liveness.live, &liveness)
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let readiness = shown.health.readiness();
    json(readiness.ready, &readiness)
}

async fn metrics(State(shown): State<Shown>) -> Response {
    match TextEncoder::new().encode_to_string(&shown.registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn json(good: bool, body: &impl Serialize) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    match serde_json::to_string(body) {
        Ok(text) => (status, headers, text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, timeout};

    use super::health::NotReady;
    use super::*;
    use crate::telemetry::{Subject, Telemetry};

    struct Running {
        health: Arc<Health>,
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        serving: JoinHandle<io::Result<()>>,
    }

    async fn start(turn_bound: Duration) -> Running {
        let health = Arc::new(Health::new(turn_bound));
        let registry = Registry::new();
        let (topic, channel) = ("order_events", "log");
        Telemetry::new(&registry, Subject { topic, channel }).unwrap();
        let any_port = "127.0.0.1:0".parse().unwrap();
        let server = AdminServer::bind(any_port, Arc::clone(&health), registry).await.unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        Running { health, address, stop, serving }
    }

    async fn fetch(address: SocketAddr, path: &str) -> reqwest::Response {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
        let request = client.get(format!("http://{address}{path}"));
        request.send().await.unwrap()
    }

    async fn fetch_json(address: SocketAddr, path: &str) -> (u16, Value) {
        let response = fetch(address, path).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap())
    }

    #[tokio::test]
    async fn a_worker_that_turns_is_alive_and_one_that_hangs_is_not() {
        let running = start(Duration::from_millis(200)).await;
        let (status, body) = fetch_json(running.address, "/livez").await;
        assert_eq!((status, body), (200, json!({"live": true, "reasons": []})));

        let deadline = Instant::now() + Duration::from_secs(10);
        let body = loop {
            running.health.worker_turned();
            let (status, body) = fetch_json(running.address, "/livez").await;
            if status == 503 {
                break body;
            }
            assert!(Instant::now() < deadline, "still alive");
        };
        assert_eq!(body["live"], false);
        assert_eq!(body["reasons"].as_array().unwrap().len(), 1);
        assert_eq!(body["reasons"][0]["reason"], "consumer");

        running.health.consumer_turned();
        running.health.worker_turned();
        assert_eq!(fetch_json(running.address, "/livez").await.0, 200);
    }

    #[tokio::test]
    async fn readiness_says_what_is_missing() {
        let running = start(Duration::from_secs(10)).await;
        let (status, body) = fetch_json(running.address, "/readyz").await;
        let missing = json!([{"reason": "assignment", "detail": "no answer of the group yet"}]);
        assert_eq!((status, body), (503, json!({"ready": false, "reasons": missing})));

        running.health.resolve(NotReady::Assignment);
        let (status, body) = fetch_json(running.address, "/readyz").await;
        assert_eq!((status, body), (200, json!({"ready": true, "reasons": []})));

        running.health.hold(NotReady::Dlq, "authorization \"denied\"");
        running.health.hold(NotReady::Postgres, "connection refused");
        running.health.hold(NotReady::Postgres, "connection reset");
        let (status, body) = fetch_json(running.address, "/readyz").await;
        let missing = json!([
            {"reason": "postgres", "detail": "connection reset"},
            {"reason": "dlq", "detail": "authorization \"denied\""},
        ]);
        assert_eq!((status, body["reasons"].clone()), (503, missing));
    }

    #[tokio::test]
    async fn metrics_are_in_the_text_format() {
        let running = start(Duration::from_secs(10)).await;
        let response = fetch(running.address, "/metrics").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4");
        let text = response.text().await.unwrap();
        assert!(text.contains("# HELP herald_records_total Records that ended here, by outcome.\n"));
        assert!(text.contains("herald_records_total{outcome=\"parked\",topic=\"order_events\"} 0\n"));
        assert!(text.contains("\nprocess_resident_memory_bytes "));
        assert!(fetch(running.address, "/").await.text().await.unwrap().contains("/readyz"));
        assert_eq!(fetch(running.address, "/nothing").await.status(), 404);
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_by_the_key_that_sets_it() {
        let running = start(Duration::from_secs(10)).await;
        let health = Arc::clone(&running.health);
        let refused = AdminServer::bind(running.address, health, Registry::new()).await;
        let error = refused.unwrap_err().to_string();
        let expected = format!("http.address: {} is in use", running.address);
        assert!(error.starts_with(&expected), "{error}");
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_a_client_that_does_not_read() {
        let running = start(Duration::from_secs(10)).await;
        let mut idle = TcpStream::connect(running.address).await.unwrap();
        idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        idle.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let mut half = TcpStream::connect(running.address).await.unwrap();
        half.write_all(b"GET /live").await.unwrap();
        running.stop.send(()).unwrap();
        let served = timeout(STOP_TIMEOUT * 2, running.serving).await;
        served.unwrap().unwrap().unwrap();
    }
}
