//! The worker's own pages, read as an operator reads them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(1);

/// What the worker says of its channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChannelState {
    /// Whether the breaker lets no ordinary delivery through.
    pub is_open: bool,
    /// Attempts so far that counted against their records.
    pub attempts_spent: u64,
}

/// Whether `/readyz` says so.
pub(super) async fn is_ready(address: SocketAddr) -> bool {
    matches!(get(address, "/readyz").await, Ok(answer) if answer.starts_with("HTTP/1.1 200"))
}

pub(super) async fn channel_state(address: SocketAddr) -> io::Result<ChannelState> {
    get(address, "/metrics").await.map(|metrics| parse(&metrics))
}

fn parse(metrics: &str) -> ChannelState {
    let mut state = ChannelState::default();
    for (series, value) in metrics.lines().filter_map(|line| line.rsplit_once(' ')) {
        let has = |label: &str| series.contains(label);
        if series.starts_with("herald_breaker_state{") && has("\"gateway\"") && !has("\"closed\"") {
            state.is_open |= value == "1";
        }
        let is_free = has("result=\"ok\"") || has("result=\"outage\"");
        if series.starts_with("herald_attempts_total{") && !is_free {
            state.attempts_spent += value.parse().unwrap_or(0);
        }
    }
    state
}

async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let request = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: herald\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(LIMIT, request).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder as _, Registry, TextEncoder};

    use super::*;
    use crate::core::breaker::BreakerState;
    use crate::telemetry::events::DependencyChanged;
    use crate::telemetry::labels::Dependency;
    use crate::telemetry::{Subject, Telemetry};

    #[test]
    fn the_state_of_the_channel_is_read_from_the_workers_metrics() {
        let registry = Registry::new();
        let telemetry = Telemetry::new(&registry, Subject { topic: "t", channel: "webhook" }).unwrap();
        let state = || {
            let mut text = Vec::new();
            TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
            parse(std::str::from_utf8(&text).unwrap())
        };
        assert_eq!(state(), ChannelState::default());
        let changed = |before, after| {
            DependencyChanged { dependency: Dependency::Gateway, before, after }.emit(&telemetry);
        };
        for (result, count) in [("ok", 3), ("outage", 5), ("transient", 7), ("unknown", 11), ("permanent", 13)] {
            telemetry.metrics().attempts_total.with_label_values(&["webhook", result]).inc_by(count);
        }
        changed(BreakerState::Closed, BreakerState::Open);
        assert_eq!(state(), ChannelState { is_open: true, attempts_spent: 31 });
        changed(BreakerState::Open, BreakerState::HalfOpen);
        assert!(state().is_open);
        changed(BreakerState::HalfOpen, BreakerState::Closed);
        assert!(!state().is_open);
    }
}
