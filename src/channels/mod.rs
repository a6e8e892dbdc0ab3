//! How a notification leaves.
//!
//! A channel performs one attempt and says how it ended by what is to be done about it; it never waits and tries again.

pub mod log;
pub mod notification;
pub mod pool;
pub mod stand_in;
pub mod webhook;

mod classification;
mod excerpt;
mod signature;

use std::sync::Arc;

use crate::config::{ChannelKind, Settings};
use crate::preflight::Finding;

/// The configured channel.
///
/// With its target filtered out, the log channel does nothing at all: it is the no-op of the benchmarks.
#[derive(Debug)]
pub enum Channel {
    Webhook(Arc<webhook::Webhook>),
    Log(log::Log),
    /// No configuration leads here.
    StandIn(stand_in::StandIn),
}

impl Channel {
    /// Fails where the configuration names something that no request can be built from.
    pub fn from_settings(settings: &Settings) -> Result<Self, webhook::InvalidWebhook> {
        let group = settings.kafka.group.as_str();
        match settings.notification.channel {
            ChannelKind::Log => Ok(Self::Log(log::Log::new(group))),
            ChannelKind::Webhook => {
                let webhook = webhook::Webhook::new(&settings.webhook, group)?;
                Ok(Self::Webhook(Arc::new(webhook)))
            }
        }
    }

    /// Whether it would take a notification, without sending one.
    pub async fn inspect(&self) -> Finding {
        match self {
            Self::Log(_) => Finding::ok("channel", "log: notifications are written to the log"),
            Self::Webhook(webhook) => webhook.inspect().await,
            Self::StandIn(_) => Finding::ok("channel", "a stand-in"),
        }
    }

    /// The label of `attempts_total{channel}`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Log(_) => "log",
            Self::StandIn(_) => "stand_in",
        }
    }
}
