//! Small helpers that every room may use and that use none of them.
//!
//! For people: [`log`], [`progress`], [`metrics`] (how busy stages are), `nearest` (hints for misspelt names), [`redact`] (what may leave). For data: `clock`, `canonical` (the
//! encoding that fingerprints hash), `whole_file` (atomic writes of local files). For tests: `failpoint`.

pub(crate) mod canonical;
pub(crate) mod clock;
pub(crate) mod failpoint;
pub mod log;
pub mod metrics;
pub(crate) mod nearest;
pub mod progress;
pub mod redact;
pub(crate) mod whole_file;
