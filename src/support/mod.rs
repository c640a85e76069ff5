//! Small helpers that every room may use and that use none of them.
//!
//! For people: [`log`], [`progress`], [`metrics`] (how busy stages are), `nearest` (hints for misspelt names), `nvidia_smi` (GPUs),
//! [`redact`] (what may leave). For
//! data: `clock`, `canonical` (the encoding that fingerprints hash), `regular_file` (files that others name), `whole_file` (atomic writes of local files).
//! For models: `jinja` (templates with a bound). For what may be
//! hostile or damaged: `unwind` (panics as errors), `untrusted_parquet` (what the Parquet library takes on trust), `descriptors`
//! (whether this process has enough of them). For tests: `failpoint`.

pub(crate) mod canonical;
pub(crate) mod clock;
pub mod counts;
pub(crate) mod descriptors;
pub(crate) mod failpoint;
pub(crate) mod jinja;
pub mod log;
pub mod metrics;
pub(crate) mod nearest;
pub(crate) mod nvidia_smi;
pub mod progress;
pub mod redact;
pub(crate) mod regular_file;
pub mod repetition;
pub(crate) mod untrusted_parquet;
pub(crate) mod unwind;
pub(crate) mod whole_file;
