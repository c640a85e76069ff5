//! The records under `OUTPUT/_nightcap`: their types, and how they are read and claimed. Nothing here decides what a run does.

pub mod plan;
pub mod published;
pub mod reasons;
pub mod run_id;
pub mod run_seq;
pub mod schema;
