//! Publishing: the check that a run is complete, its record, and the indexes that the next run reads.

pub mod finalize;
pub mod index;
pub mod reuse;
pub(crate) mod reuse_index;
