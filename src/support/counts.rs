//! Rows by outcome, of a part, of a run, or of what a process has made so far.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Rows of a part or a run by outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All rows.
    pub rows: u64,
    /// Rows with results.
    pub ok: u64,
    /// Rows with an error instead.
    pub failed: u64,
    /// Failed rows by `error_kind`.
    pub failures: BTreeMap<String, u64>,
    /// Rows whose caption is an empty text.
    pub empty_captions: u64,
    /// Rows whose caption repeats itself.
    pub repeating_captions: u64,
}

impl Counts {
    /// Adds another part's counts. Sums that do not fit stay the largest number, which no check accepts.
    pub fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, count: u64| *sum = sum.saturating_add(count);
        add(&mut self.rows, other.rows);
        add(&mut self.ok, other.ok);
        add(&mut self.failed, other.failed);
        for (kind, count) in &other.failures {
            add(self.failures.entry(kind.clone()).or_default(), *count);
        }
        add(&mut self.empty_captions, other.empty_captions);
        add(&mut self.repeating_captions, other.repeating_captions);
    }

    /// Whether all rows are ok or failed, all failed rows have a kind, and only ok rows have captions. An empty one repeats nothing.
    #[must_use]
    pub fn add_up(&self) -> bool {
        let of_a_kind = self.failures.values().try_fold(0_u64, |sum, count| sum.checked_add(*count));
        let captions = self.empty_captions.checked_add(self.repeating_captions);
        self.ok.checked_add(self.failed) == Some(self.rows)
            && of_a_kind == Some(self.failed)
            && captions.is_some_and(|captions| captions <= self.ok)
    }
}
