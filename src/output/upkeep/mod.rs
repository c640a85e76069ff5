//! Upkeep of an OUTPUT: compaction, removal, status and the check of every part.

pub mod check;
pub mod compact;
pub mod discard;
pub(crate) mod rewrite;
pub mod status;
pub(crate) mod winners;
