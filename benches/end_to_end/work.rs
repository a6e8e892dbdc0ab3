//! The notification itself, as something that takes time: a sleep whose length follows from the order id.

use std::time::Duration;

/// Whole milliseconds from none to the longest. The peers sleep the same (benches/peers).
pub fn millis(order_id: u64, longest_millis: u64) -> u64 {
    mixed(order_id) % (longest_millis + 1)
}

/// On a thread of its own, as the peers' handlers do: a timer of the async runtime is late by up to two milliseconds, and the work
/// is five at most.
pub fn sleep(order_id: u64, longest_millis: u64) {
    std::thread::sleep(Duration::from_millis(millis(order_id, longest_millis)));
}

/// SplitMix64: anyone can write it down again.
pub fn mixed(value: u64) -> u64 {
    let mixed = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
