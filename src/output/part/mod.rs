//! Parts: Parquet files with the results of consecutive rows of a run. In: one result for each row and the carried manifest columns.
//! Out: the bytes of a part, and what readers need of one. Never here: which parts a run has, and whether they count.
//!
//! In the order of the data: [`result`] is one row from the pipeline, [`copies`] the published rows that some rows copy, [`columns`]
//! the table of all columns, [`writer`] encodes a part; [`hashes`] find changed bytes; [`commit`] puts it. [`footer`] reads the summary of a part,
//! [`reader`] some of its columns, [`vectors`] a column of vectors by its [`levels`], [`rows`] the key, content, fingerprints and status of
//! its rows.

pub mod columns;
pub mod commit;
pub mod copies;
pub mod footer;
pub mod hashes;
mod levels;
pub mod reader;
pub mod result;
pub mod rows;
pub mod vectors;
pub mod writer;
