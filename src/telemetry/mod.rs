//! Metrics, noteworthy events and logs.
