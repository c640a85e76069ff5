//! The records under `OUTPUT/_nightcap`: their types, how they are read, and how they are claimed by a conditional put. Never here:
//! what a run does, and the content of parts.
//!
//! In the order of a run: [`run_id`] checks its name, [`names`] the names and numbers that records hold, [`schema`] fixes the columns of OUTPUT, [`run_seq`] claims its number, [`plan`] is what
//! it will do and [`reasons`] why, [`published`] says that it counts.

pub mod names;
pub mod plan;
pub mod published;
pub mod reasons;
pub mod run_id;
pub mod run_seq;
pub mod schema;
