//! What the benchmarks deliver to where the work of a notification is to be measured without a request: work in this process, as
//! a consumer library's handler does it.

use crate::core::effect::Delivery;
use crate::core::failure::{DeliveryFailure, FailureClass};

#[derive(Clone, Copy, Debug)]
pub struct StandIn {
    work: fn(order_id: &str),
}

impl StandIn {
    #[must_use]
    pub fn new(work: fn(order_id: &str)) -> Self {
        Self { work }
    }

    /// The work may block. Dropping the future leaves it running.
    pub(super) async fn deliver(self, delivery: &Delivery) -> Result<(), DeliveryFailure> {
        let (work, order_id) = (self.work, delivery.event.identity.order_id.clone());
        let done = tokio::task::spawn_blocking(move || work(&order_id)).await;
        done.map_err(|error| DeliveryFailure { class: FailureClass::Permanent, error: error.to_string() })
    }
}
