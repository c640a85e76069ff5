//! The one place that reads the clock for records and run ids. Results never depend on it.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};

/// The last second of the year 9999: later years would not fit in the formats below.
const LAST: u64 = 253_402_300_799;

/// Now, in UTC, to the second: `2026-11-23T04:15:00Z`.
pub(crate) fn now() -> String {
    utc(SystemTime::now()).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The default run id: `r20261123t041500z`. It starts with a letter, so that no reader takes it for a number or a date.
pub(crate) fn run_id() -> String {
    utc(SystemTime::now()).format("r%Y%m%dt%H%M%Sz").to_string()
}

/// `time`, whatever a clock without a battery says: before 1970 counts as 1970.
fn utc(time: SystemTime) -> DateTime<Utc> {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).min(LAST);
    DateTime::from_timestamp(seconds as i64, 0).unwrap_or(DateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn any_clock_has_a_time() {
        for (time, expected) in [
            (UNIX_EPOCH - Duration::from_secs(1), "1970-01-01"),
            (UNIX_EPOCH - Duration::from_secs(i64::MAX as u64), "1970-01-01"),
            (UNIX_EPOCH + Duration::from_hours(24), "1970-01-02"),
            (UNIX_EPOCH + Duration::from_secs(i64::MAX as u64), "9999-12-31"),
        ] {
            assert_eq!(utc(time).format("%Y-%m-%d").to_string(), expected);
        }
    }
}
