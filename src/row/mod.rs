//! What stands for one row between stages: its error, and its signature.

pub mod error;
pub mod signature;
