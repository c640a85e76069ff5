//! The records under `OUTPUT/_nightcap`: their types, how they are read, and how they are claimed by a conditional put. Never here:
//! what a run does, and the content of parts.
//!
//! In the order of a run: [`run_id`] checks its name, [`names`] the names and numbers that records hold, [`schema`] fixes the columns of
//! OUTPUT, [`run_seq`] claims its number, [`plan`] is what it will do and [`reasons`] why, [`put_intent`] announces a part, [`outcome`]
//! decides how it ends, [`published`] says that it counts, [`stage_times`] where its time went. [`picture_source`] says where the pictures
//! of its rows are. [`compaction`] lets one compaction at a time be at work.

pub mod compaction;
pub mod names;
pub mod outcome;
pub mod picture_source;
pub mod plan;
pub mod published;
pub mod put_intent;
pub mod reasons;
pub mod run_id;
pub mod run_seq;
pub mod schema;
pub mod stage_times;
