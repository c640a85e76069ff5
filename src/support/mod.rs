//! Small helpers that every room may use and that use none of them.
//!
//! For people: [`progress`], [`metrics`] (how busy stages are), `nearest` (hints for misspelt names). For data: `clock`, `canonical` (the
//! encoding that fingerprints hash), `regular_file` (files that others name, opened and read), `whole_file` (atomic writes of local
//! files). For models: `jinja` (templates with a bound). For tests: `failpoint`.

pub(crate) mod canonical;
pub(crate) mod clock;
pub(crate) mod failpoint;
pub(crate) mod jinja;
pub mod metrics;
pub(crate) mod nearest;
pub mod progress;
pub(crate) mod regular_file;
pub(crate) mod whole_file;
