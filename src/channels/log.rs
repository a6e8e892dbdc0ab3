//! The channel that notifies nobody: one line in the log for each order.

use tracing::{Level, enabled, info};

use super::notification::notification_id;
use crate::core::effect::Delivery;

/// The target to filter by, for example `info,herald::notification=off`.
pub const TARGET: &str = "herald::notification";

#[derive(Debug)]
pub struct Log {
    group: String,
}

impl Log {
    pub fn new(group: &str) -> Self {
        Self { group: group.to_owned() }
    }

    /// Cannot fail, and returns at once.
    pub fn deliver(&self, delivery: &Delivery) {
        if !enabled!(target: TARGET, Level::INFO) {
            return;
        }
        let identity = &delivery.event.identity;
        info!(
            target: TARGET,
            id = %notification_id(&self.group, identity),
            order_id = identity.order_id.as_ref(),
            event_type = identity.event_type.as_ref(),
            partition = delivery.coordinates.partition.0,
            offset = delivery.coordinates.offset.0,
            attempt = delivery.attempt,
            "notified"
        );
    }
}
