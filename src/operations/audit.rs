//! Who did what.

use super::{OperationError, Operations};
use crate::postgres::AuditRow;

impl Operations {
    /// The newest acts of operators with an id below `before`.
    pub async fn audit(&self, before: Option<i64>, limit: u32) -> Result<Vec<AuditRow>, OperationError> {
        Ok(self.postgres.audit_page(before, limit).await?)
    }
}
