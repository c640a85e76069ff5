//! Small things that every room may use and that know none of them.

pub(crate) mod canonical;
pub(crate) mod clock;
pub(crate) mod failpoint;
pub mod metrics;
pub(crate) mod nearest;
pub mod progress;
pub(crate) mod whole_file;
