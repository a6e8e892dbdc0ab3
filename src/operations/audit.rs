//! Who did what.

use chrono::{DateTime, Utc};

use super::{OperationError, Operations};
use crate::core::record::Timestamp;
use crate::postgres::AuditRow;

impl Operations {
    /// The newest acts of operators with an id below `before`.
    pub async fn audit(&self, before: Option<i64>, limit: u32) -> Result<Vec<AuditRow>, OperationError> {
        Ok(self.postgres.audit_page(before, limit).await?)
    }
}

/// `2026-11-23 09:02:11Z`.
pub(super) fn moment(at: Timestamp) -> String {
    let time = DateTime::<Utc>::from_timestamp_millis(at.0);
    time.map_or_else(|| at.0.to_string(), |time| time.format("%Y-%m-%d %H:%M:%SZ").to_string())
}
