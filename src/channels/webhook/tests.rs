//! Against real servers on real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap as Headers, Response as Answer};
use axum::routing::post;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::config::Secret;
use crate::core::event::{Fingerprint, Identity, OrderEvent};
use crate::core::input::Ticket;
use crate::core::record::{Coordinates, Offset, Partition, Timestamp};
use crate::core::trace::TraceParent;

const ORDER: &str = r#"{"order_id":1,"user_id":7}"#;

fn delivery() -> Delivery {
    Delivery {
        ticket: Ticket(1),
        attempt: 1,
        coordinates: Coordinates { partition: Partition(0), offset: Offset(0) },
        trace: TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        event: Arc::new(OrderEvent {
            identity: Identity { order_id: "1".into(), event_type: "ORDER_CREATED".into() },
            order: bytes::Bytes::from_static(ORDER.as_bytes()),
            occurred_at: Some(Timestamp(1_795_428_000_000)),
            request_id: Some("r1".into()),
            trace: None,
            fingerprint: Fingerprint([0; 32]),
        }),
    }
}

fn settings(url: String) -> config::Webhook {
    config::Webhook { url, secret: None, timeout: Duration::from_millis(400) }
}

fn webhook(address: SocketAddr) -> Webhook {
    Webhook::new(&settings(format!("http://{address}/notify")), "group").unwrap()
}

/// A server whose every connection is handled by `handle`, for what no HTTP library would do.
async fn raw_server<F, H>(handle: F) -> SocketAddr
where
    F: Fn(TcpStream) -> H + Send + 'static,
    H: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(handle(stream));
        }
    });
    address
}

/// Reads one request. False if the client closed the connection.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some(head) = text.find("\r\n\r\n") {
            let length = text.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if request.len() >= head + 4 + length {
                return true;
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => request.extend_from_slice(&chunk[..count]),
        }
    }
}

async fn answers(answer: &'static str) -> SocketAddr {
    raw_server(move |mut stream| async move {
        while read_request(&mut stream).await {
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

async fn axum_server(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn a_request_carries_all_that_the_receiver_needs() {
    let (sender, mut received) = mpsc::channel::<(Headers, Bytes)>(1);
    let handler = move |headers: Headers, body: Bytes| async move {
        sender.send((headers, body)).await.unwrap();
    };
    let address = axum_server(Router::new().route("/notify", post(handler))).await;
    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let settings = config::Webhook { secret: Some(secret.clone()), ..settings(format!("http://{address}/notify")) };
    let webhook = Webhook::new(&settings, "group").unwrap();
    assert_eq!(webhook.deliver(&delivery()).await, Ok(()));

    let (headers, body) = received.recv().await.unwrap();
    let id = notification_id("group", &delivery().event.identity).to_string();
    let header = |name: &str| headers.get(name).unwrap().to_str().unwrap();
    assert_eq!(header("idempotency-key"), id);
    assert_eq!(header("webhook-id"), id);
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("user-agent"), concat!("herald/", env!("CARGO_PKG_VERSION")));
    assert_eq!(header("traceparent"), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let timestamp: i64 = header("webhook-timestamp").parse().unwrap();
    assert!((Utc::now().timestamp() - timestamp).abs() < 60);
    let signature = Signer::new(&secret).unwrap().sign(&id, timestamp, &body);
    assert_eq!(header("webhook-signature"), signature);
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.contains(&format!(r#""order":{ORDER}"#)), "{body}");
    assert!(body.contains(r#""occurred_at":"2026-11-23T10:00:00.000Z""#), "{body}");
}

#[tokio::test]
async fn an_answer_is_classified_by_its_status_and_told_by_its_message() {
    let transient = |seconds: Option<u64>| FailureClass::Transient { retry_after: seconds.map(Duration::from_secs) };
    let cases = [
        (
            "HTTP/1.1 422 X\r\ncontent-length: 22\r\n\r\n{\"message\":\"too many\"}",
            FailureClass::Permanent,
            "webhook: 422 unprocessable entity: too many",
        ),
        (
            "HTTP/1.1 429 X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
            transient(Some(7)),
            "webhook: 429 too many requests",
        ),
        (
            "HTTP/1.1 503 X\r\ndate: Mon, 23 Nov 2026 10:00:00 GMT\r\n\
             retry-after: Mon, 23 Nov 2026 10:00:09 GMT\r\ncontent-length: 0\r\n\r\n",
            transient(Some(9)),
            "webhook: 503 service unavailable",
        ),
        (
            "HTTP/1.1 500 X\r\ncontent-length: 4\r\n\r\noops",
            transient(None),
            "webhook: 500 internal server error: oops",
        ),
        (
            "HTTP/1.1 502 X\r\ncontent-length: 15\r\n\r\n<html>bad</html",
            FailureClass::Unknown,
            "webhook: 502 bad gateway",
        ),
        ("HTTP/1.1 403 X\r\ncontent-length: 0\r\n\r\n", FailureClass::Outage, "webhook: 403 forbidden"),
        (
            "HTTP/1.1 302 X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
            FailureClass::Outage,
            "webhook: 302 found",
        ),
        ("HTTP/1.1 418 X\r\ncontent-length: 99\r\n\r\ncut", FailureClass::Permanent, "webhook: 418 i'm a teapot: cut"),
    ];
    for (answer, class, error) in cases {
        let result = webhook(answers(answer).await).deliver(&delivery()).await;
        let expected = DeliveryFailure { class, error: error.to_owned() };
        assert_eq!(result, Err(expected), "{answer}");
    }
}

#[tokio::test]
async fn a_request_without_an_answer_is_unknown() {
    let hangs = raw_server(|mut stream| async move {
        read_request(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let resets = raw_server(|mut stream| async move {
        read_request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let closes = raw_server(|mut stream| async move {
        read_request(&mut stream).await;
    })
    .await;
    let cases = [
        (hangs, "webhook: no answer within 400ms"),
        (resets, "webhook: connection lost before the answer: "),
        (closes, "webhook: connection lost before the answer: "),
    ];
    for (address, error) in cases {
        let failure = webhook(address).deliver(&delivery()).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Unknown, "{}", failure.error);
        assert!(failure.error.starts_with(error), "{}", failure.error);
    }
}

#[tokio::test]
async fn without_a_connection_it_is_an_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = listener.local_addr().unwrap();
    drop(listener);
    let no_tls = answers("HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n").await;
    let silent = raw_server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let urls = [
        format!("http://{refused}/?token=hidden"),
        "http://no-such-host.invalid/?token=hidden".to_owned(),
        format!("https://{no_tls}/?token=hidden"),
        // Accepts and never speaks: the TLS handshake hangs.
        format!("https://{silent}/?token=hidden"),
    ];
    for url in urls {
        let webhook = Webhook::new(&settings(url.clone()), "group").unwrap();
        let failure = webhook.deliver(&delivery()).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Outage, "{url}: {}", failure.error);
        assert!(failure.error.starts_with("webhook: cannot connect: "), "{}", failure.error);
        assert!(!failure.error.contains("hidden"), "{}", failure.error);
    }
}

#[tokio::test]
async fn a_body_without_end_costs_neither_memory_nor_time() {
    let huge = || async {
        let chunks = futures_util::stream::repeat(Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 8192])));
        Answer::builder().status(422).body(Body::from_stream(chunks)).unwrap()
    };
    let address = axum_server(Router::new().route("/notify", post(huge))).await;
    let failure = webhook(address).deliver(&delivery()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(failure.error.len() < 600, "{}", failure.error.len());

    let slow = answers("HTTP/1.1 200 X\r\ncontent-length: 99\r\n\r\nslow").await;
    let started = Instant::now();
    assert_eq!(webhook(slow).deliver(&delivery()).await, Ok(()));
    assert!(started.elapsed() < BODY_TIMEOUT * 2);
}

#[tokio::test]
async fn a_connection_closed_by_the_server_while_idle_fails_no_delivery() {
    let connections = Arc::new(AtomicUsize::new(0));
    let (closed, mut was_closed) = mpsc::channel(1);
    let counted = Arc::clone(&connections);
    let address = raw_server(move |mut stream| {
        let closed = closed.clone();
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            read_request(&mut stream).await;
            let answer = b"HTTP/1.1 204 X\r\nconnection: keep-alive\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            drop(stream);
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let webhook = webhook(address);
    for _ in 0..50 {
        assert_eq!(webhook.deliver(&delivery()).await, Ok(()));
        was_closed.recv().await.unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_used_again_at_full_concurrency() {
    const CONCURRENT: usize = 256;
    const ROUNDS: usize = 40;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let address = raw_server(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            while read_request(&mut stream).await {
                let answer = b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    let settings = config::Webhook { timeout: Duration::from_secs(30), ..settings(format!("http://{address}/notify")) };
    let webhook = Arc::new(Webhook::new(&settings, "group").unwrap());
    let mut deliveries = JoinSet::new();
    for _ in 0..CONCURRENT {
        let webhook = Arc::clone(&webhook);
        deliveries.spawn(async move {
            for _ in 0..ROUNDS {
                assert_eq!(webhook.deliver(&delivery()).await, Ok(()));
            }
        });
    }
    deliveries.join_all().await;
    let connections = connections.load(Ordering::SeqCst);
    // A request that finds all connections taken opens one, even if another comes free first.
    let requests = CONCURRENT * ROUNDS;
    assert!(connections < requests / 8, "{connections} connections");
}

#[test]
fn a_configuration_that_no_request_can_be_built_from_is_refused() {
    let cases = [
        ("gateway/notify", "webhook.url: "),
        ("ftp://gateway/notify", "webhook.url: scheme ftp"),
        ("https://", "webhook.url: "),
    ];
    for (url, error) in cases {
        let refused = Webhook::new(&settings(url.to_owned()), "group").unwrap_err();
        assert!(refused.to_string().starts_with(error), "{refused}");
    }
    let unsigned =
        config::Webhook { secret: Some(Secret::new("not base64!")), ..settings("http://gateway".to_owned()) };
    let refused = Webhook::new(&unsigned, "group").unwrap_err().to_string();
    assert!(refused.starts_with("webhook.secret: "), "{refused}");
    assert!(!refused.contains("not base64!"), "{refused}");
}
