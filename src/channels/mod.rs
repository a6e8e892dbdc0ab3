//! How a notification leaves.
