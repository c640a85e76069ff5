//! Small helpers that every room may use and that use none of them.
//!
//! For people: [`progress`], [`metrics`] (how busy stages are), `nearest` (hints for misspelt names). For data: `clock`, `canonical` (the
//! encoding that fingerprints hash), `whole_file` (atomic writes of local files). For what may be hostile or damaged: `unwind` (panics as
//! errors), `untrusted_parquet` (what the Parquet library takes on trust), `descriptors` (whether this process has enough of them). For tests: `failpoint`.

pub(crate) mod canonical;
pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod failpoint;
pub mod metrics;
pub(crate) mod nearest;
pub mod progress;
pub(crate) mod untrusted_parquet;
pub(crate) mod unwind;
pub(crate) mod whole_file;
