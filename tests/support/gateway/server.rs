//! The HTTP side of the gateway. It holds the connections itself, since a test must be able to break them.

use std::convert::Infallible;
use std::future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::script::Answer;
use super::{Request, Shared};
use crate::support::ports;

/// Listens until it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Server {
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(port: u16, shared: Arc<Shared>) -> Self {
        let listener = ports::listen(port).await;
        Self { task: tokio::spawn(serve(listener, shared)) }
    }

    /// Once this returns, nothing listens and no connection is open.
    pub(super) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Whenever we are the one who closes, it is meant to hurt: a reset, not a polite end.
    stream.set_zero_linger().unwrap();
    let answer = service_fn(|request| respond(request, Arc::clone(&shared)));
    // Ends with an error when the client goes away, or when a reset is asked for.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

/// An error breaks the connection.
async fn respond(request: hyper::Request<Incoming>, shared: Arc<Shared>) -> io::Result<hyper::Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    if head.method != hyper::Method::POST {
        return Ok(response(405, Vec::new(), String::new()));
    }
    let (index, answer) = shared.record(head.uri.to_string(), headers, &body);
    match answer {
        Answer::Status { code, headers, body, after } => {
            if after > Duration::ZERO {
                tokio::time::sleep(after).await;
            }
            shared.answered(index, code);
            Ok(response(code, headers, body))
        }
        Answer::Hang => {
            let never: Infallible = future::pending().await;
            match never {}
        }
        Answer::Reset => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

fn response(code: u16, headers: Vec<(&'static str, String)>, body: String) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::builder().status(code);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Full::from(body)).unwrap()
}

impl Shared {
    /// Notes the request; its position and the answer it is to get.
    fn record(&self, path: String, headers: Vec<(String, String)>, body: &[u8]) -> (usize, Answer) {
        let mut request = Request {
            received: Instant::now(),
            answered: None,
            status: None,
            sequence: 0,
            path,
            headers,
            body: serde_json::from_slice(body)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned())),
            raw: Bytes::copy_from_slice(body),
        };
        let mut requests = self.requests.lock().unwrap();
        let (sequence, answer) = self.script.lock().unwrap().answer_to(&request.order_id());
        request.sequence = sequence;
        requests.push(request);
        (requests.len() - 1, answer)
    }

    fn answered(&self, index: usize, status: u16) {
        let mut requests = self.requests.lock().unwrap();
        requests[index].answered = Some(Instant::now());
        requests[index].status = Some(status);
    }
}
