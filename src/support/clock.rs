//! How times are written in records and run ids. Results never depend on them.

use chrono::{DateTime, Utc};

/// A time in a record, to the second: `2026-11-23T04:15:00Z`.
pub(crate) fn timestamp(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The time in a default run id: `r20261123t041500z`. It starts with a letter, so that no reader takes it for a number or a date.
pub(crate) fn run_time(time: DateTime<Utc>) -> String {
    time.format("r%Y%m%dt%H%M%Sz").to_string()
}
