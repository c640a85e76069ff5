//! What readers of an OUTPUT see: the newest published row of each key. In: the published runs. Out: batches of columns, with a mask of
//! the rows that count. Never here: writing.
//!
//! [`newest`] chooses the rows, [`rows`] reads them.

mod newest;
pub mod rows;

pub use self::rows::{View, ViewBatch, ViewPart, Which};
