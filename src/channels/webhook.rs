//! The webhook channel: one `POST` for each attempt, signed after the Standard Webhooks specification.
//!
//! HTTP/1.1 with as many kept-alive connections as deliveries run. Certificates are verified by the platform's verifier: on
//! Linux the system's roots, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Proxies are not used.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Method, Request, Response, StatusCode, Url, redirect};

use super::classification::{Unanswered, classify_status, classify_unanswered, parse_http_date, parse_retry_after};
use super::excerpt::{excerpt, one_line};
use super::notification::{body, notification_id};
use super::signature::Signer;
use crate::config::{self, redacted_url};
use crate::core::effect::Delivery;
use crate::core::failure::{DeliveryFailure, FailureClass};
use crate::preflight::Finding;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const LONGEST_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Below the five seconds after which common servers (Node.js, Uvicorn) close an idle connection: a request that is written
/// just then is lost without a trace, and nobody can tell whether it had its effect.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(4);

/// An answer's status decides; its body is read only for the message, and to the end so that the connection can be used again.
const LONGEST_BODY: usize = 16 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Webhook {
    client: Client,
    url: Url,
    signer: Option<Signer>,
    group: String,
    timeout: Duration,
}

/// The configuration names something that no request can be built from.
#[derive(Debug, thiserror::Error)]
pub enum InvalidWebhook {
    #[error("webhook.url: {0}; give an http or https address")]
    Url(String),
    #[error("webhook.secret: {0}; give it as the receiver shows it, whsec_ and base64")]
    Secret(#[from] super::signature::MalformedSecret),
    #[error("webhook: no client: {0}; for https, install ca-certificates or set SSL_CERT_FILE")]
    Client(String),
}

impl Webhook {
    pub fn new(settings: &config::Webhook, group: &str) -> Result<Self, InvalidWebhook> {
        let url = Url::parse(&settings.url).map_err(|error| InvalidWebhook::Url(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidWebhook::Url(format!("scheme {} is not supported", url.scheme())));
        }
        let signer = settings.secret.as_ref().map(Signer::new).transpose()?;
        let client = client(&url, settings.timeout).map_err(|error| InvalidWebhook::Client(root_cause(&error)))?;
        Ok(Self { client, url, signer, group: group.to_owned(), timeout: settings.timeout })
    }

    /// One attempt; ends within the configured timeout and the time to read an error's body.
    ///
    /// Dropping the future closes the connection: the request may or may not have had its effect.
    pub async fn deliver(&self, delivery: &Delivery) -> Result<(), DeliveryFailure> {
        let request = self.request(delivery)?;
        let response = self.client.execute(request).await.map_err(|error| self.unanswered(&error))?;
        let status = response.status();
        let class = classify_status(status.as_u16(), retry_after(response.headers()));
        let body = read_body(response).await;
        class.map_err(|class| DeliveryFailure { class, error: describe(status, &body) })
    }

    /// Asks the gateway for its options: an answer of any status shows that it is there, and notifies nobody.
    pub async fn inspect(&self) -> Finding {
        let started = Instant::now();
        let shown = redacted_url(self.url.as_str());
        match self.client.request(Method::OPTIONS, self.url.clone()).send().await {
            Ok(answer) => {
                let (status, took) = (answer.status().as_u16(), started.elapsed().as_millis());
                Finding::ok("channel", format!("webhook {shown} answers ({status} to OPTIONS in {took} ms)"))
            }
            Err(error) => Finding::warning(
                "channel",
                format!("webhook {shown} does not answer: {}", self.unanswered(&error).error),
                vec!["herald run starts all the same: it waits for the gateway and spends no attempt".to_owned()],
            ),
        }
    }

    fn request(&self, delivery: &Delivery) -> Result<Request, DeliveryFailure> {
        let id = notification_id(&self.group, &delivery.event.identity).to_string();
        let body = body(&id, &delivery.event).map_err(|error| unsendable(&error))?;
        let mut request = self.client.post(self.url.clone()).header(IDEMPOTENCY_KEY, &id);
        if let Some(signer) = &self.signer {
            let timestamp = Utc::now().timestamp();
            request = request
                .header(WEBHOOK_ID, &id)
                .header(WEBHOOK_TIMESTAMP, timestamp)
                .header(WEBHOOK_SIGNATURE, signer.sign(&id, timestamp, &body));
        }
        if let Some(trace) = delivery.trace {
            request = request.header(TRACEPARENT, trace.to_string());
        }
        request.body(body).build().map_err(|error| unsendable(&error))
    }

    fn unanswered(&self, error: &reqwest::Error) -> DeliveryFailure {
        let unanswered = kind_of(error);
        let error = match unanswered {
            Unanswered::Unsendable => return unsendable(error),
            Unanswered::NotConnected => format!("webhook: cannot connect: {}", root_cause(error)),
            Unanswered::TimedOut => format!("webhook: no answer within {}", humantime::format_duration(self.timeout)),
            Unanswered::Broken => {
                format!("webhook: connection lost before the answer: {}", root_cause(error))
            }
        };
        DeliveryFailure { class: classify_unanswered(unanswered), error }
    }
}

fn client(url: &Url, timeout: Duration) -> reqwest::Result<Client> {
    // One process-wide provider is what reqwest asks for; an error says only that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let agent = HeaderValue::from_static(concat!("herald/", env!("CARGO_PKG_VERSION")));
    headers.insert(USER_AGENT, agent);
    let mut builder = Client::builder()
        .default_headers(headers)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .timeout(timeout)
        // The rest of the time is for the answer: a connection that never comes to be must end as that.
        .connect_timeout(LONGEST_CONNECT_TIMEOUT.min(timeout / 2))
        .pool_idle_timeout(IDLE_CONNECTION_TIMEOUT);
    if url.scheme() == "http" {
        // Without redirects no certificate will ever be seen, so a system without roots is none of our business.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

fn kind_of(error: &reqwest::Error) -> Unanswered {
    if error.is_builder() {
        Unanswered::Unsendable
    } else if error.is_connect() {
        Unanswered::NotConnected
    } else if error.is_timeout() {
        Unanswered::TimedOut
    } else {
        Unanswered::Broken
    }
}

fn unsendable(error: &dyn Error) -> DeliveryFailure {
    DeliveryFailure {
        class: FailureClass::Permanent,
        error: format!("webhook: cannot be written as a request: {}", root_cause(error)),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let now: DateTime<Utc> = text(DATE).and_then(parse_http_date).unwrap_or_else(Utc::now);
    parse_retry_after(text(RETRY_AFTER)?, now)
}

/// What can be had of the body within bounds. A body that breaks or never ends changes nothing: the status is known.
async fn read_body(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = LONGEST_BODY.saturating_sub(body.len());
            body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
            if body.len() >= LONGEST_BODY {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(BODY_TIMEOUT, reading).await;
    body
}

fn describe(status: StatusCode, body: &[u8]) -> String {
    let code = status.as_u16();
    let reason = status.canonical_reason().unwrap_or("status").to_lowercase();
    match excerpt(body) {
        Some(message) => format!("webhook: {code} {reason}: {message}"),
        None => format!("webhook: {code} {reason}"),
    }
}

/// The last of the chain says what happened; those before it name layers, and the address with whatever secret is in it.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    one_line(&cause.to_string())
}
