//! Exit statuses, which schedulers act on.

/// How a command ended; the process's exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Finished and published, or nothing to do.
    Done = 0,
    /// Finished and published, but more rows failed than `[limits]` allow.
    TooManyFailed = 1,
    /// Nothing was run: the job, the model or the storage is wrong; also what `status` says of a damaged OUTPUT.
    Refused = 2,
    /// Stopped by a signal or an outage; run again to go on.
    Stopped = 75,
}
