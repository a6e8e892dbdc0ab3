//! The one setting of the mock cluster that the safe API leaves out.

#![allow(unsafe_code)]

use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka_sys::{rd_kafka_handle_mock_cluster, rd_kafka_mock_group_initial_rebalance_delay_ms};

use super::Error;

/// Sets `group.initial.rebalance.delay.ms` of the client's own mock cluster.
///
/// With the default of 3 s a session timeout below 3 s would end the session of a member that waits to be let in.
pub(super) fn set<C: ClientContext>(client: &Client<C>, delay: Duration) -> Result<(), Error> {
    let millis = i32::try_from(delay.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the handle is valid as long as the client, which is borrowed for the whole call.
    let cluster = unsafe { rd_kafka_handle_mock_cluster(client.native_ptr()) };
    if cluster.is_null() {
        return Err(Error::NoBroker);
    }
    // SAFETY: the cluster is not null and belongs to the client, which is borrowed for the whole call. The function sets the
    // value under the cluster's own lock.
    unsafe { rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, millis) };
    Ok(())
}
