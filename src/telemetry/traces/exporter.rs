//! How spans leave: batches over HTTP, as protocol buffers. When the collector does not keep up, spans are dropped, never orders.

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanProcessor};
use tokio::runtime::Handle;

/// Spans that wait at most, about 1 KiB each.
const QUEUE: usize = 8_192;

pub(super) fn start(endpoint: &str, process: u64) -> Result<BatchSpanProcessor, String> {
    // One process-wide provider is what reqwest asks for; an error says only that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder().no_proxy();
    if endpoint.starts_with("http:") {
        builder = builder.tls_certs_only([]);
    }
    let client = builder.build().map_err(|error| error.to_string())?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client { client, runtime: Handle::current() })
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .build()
        .map_err(|error| error.to_string())?;
    let limits = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
    let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(limits).build();
    processor.set_resource(
        &Resource::builder()
            .with_service_name("herald")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", format!("{process:016x}")))
            .build(),
    );
    Ok(processor)
}

/// The processor exports from a thread of its own, which has no runtime: requests run on the worker's.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, request) = (self.client.clone(), request.try_into()?);
        let sent = self.runtime.spawn(async move {
            let answer = client.execute(request).await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        let (status, body) = sent.await??;
        Ok(Response::builder().status(status).body(body)?)
    }
}
