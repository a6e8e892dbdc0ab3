//! What the benchmarks deliver to where the work of a notification is to be measured without a request: work in this process, as
//! a consumer library's handler does it.

use crate::core::effect::Delivery;

#[derive(Clone, Copy, Debug)]
pub struct StandIn {
    work: fn(order_id: &str),
}

impl StandIn {
    #[must_use]
    pub fn new(work: fn(order_id: &str)) -> Self {
        Self { work }
    }

    /// May block.
    pub(super) fn work(self, delivery: &Delivery) {
        (self.work)(&delivery.event.identity.order_id);
    }
}
