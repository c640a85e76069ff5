//! The limit of failed rows in a run.

use serde::{Deserialize, Serialize};

/// How many failed rows a run may have; see `[limits]` of the job file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct FailureLimits {
    /// Too many rows failed when they are more than this fraction of the rows,
    pub max_failed_fraction: f64,
    /// and at least this many.
    pub min_failed_rows: u64,
}

impl FailureLimits {
    /// Whether `failed` of `rows` rows are too many.
    #[must_use]
    pub fn exceeded_by(&self, failed: u64, rows: u64) -> bool {
        failed >= self.min_failed_rows.max(1) && failed as f64 > self.max_failed_fraction * rows as f64
    }
}
