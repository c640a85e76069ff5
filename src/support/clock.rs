//! The one place that reads the clock for records and run ids. Results never depend on it.

use chrono::Utc;

/// Now, in UTC, to the second: `2026-11-23T04:15:00Z`.
pub(crate) fn now() -> String {
    Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The time in a default run id: `r20261123t041500z`. It starts with a letter, so that no reader takes it for a number or a date.
pub(crate) fn run_time() -> String {
    Utc::now().format("r%Y%m%dt%H%M%Sz").to_string()
}
