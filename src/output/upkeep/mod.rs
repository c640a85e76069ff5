//! Upkeep of an OUTPUT. In: its records and parts. Out: a report, or an OUTPUT with fewer runs. Never here: new results.
//!
//! [`compact`] makes one run of all: `winners` finds the rows that stay in the indexes, `rewrite` copies these rows into new
//! parts, `sweep` removes the runs that were replaced or discarded. [`discard`] ends an unpublished run. [`status`] reports runs, [`check`] reads every part.

pub mod check;
pub mod compact;
pub mod discard;
pub(crate) mod rewrite;
pub mod status;
pub(crate) mod sweep;
pub mod watch;
pub(crate) mod winners;
