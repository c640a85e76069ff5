//! Pages about an OUTPUT for people: the report of `nightcap report`, and hits of `nightcap search`. In: the newest rows. Out: one HTML
//! file that holds all it shows. Never here: writing files, and where pictures come from.
//!
//! A report is made in one pass over the rows ([`gather`]), a sample of vectors ([`pairs`]), and a comparison with an earlier run
//! ([`differences`]); [`least`] bounds what is kept, [`tally`] counts numbers. [`cards`] reads the rows that are shown, as [`cells`],
//! [`plots`] draws, [`what_ran`] tells of the records, [`page`] fills in the templates. [`overview`] and [`hits`] put it together.

pub mod cards;
pub mod cells;
mod differences;
mod gather;
pub mod hits;
mod least;
pub mod overview;
mod page;
mod pairs;
mod plots;
mod tally;
mod what_ran;

pub use self::cards::{Picture, Pictures};
pub use self::hits::Hits;
pub use self::overview::{Comparison, Report};
