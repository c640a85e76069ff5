//! Parts: Parquet files with the results of consecutive rows.

pub mod columns;
pub mod copies;
pub mod footer;
pub mod reader;
pub mod result;
pub mod rows;
pub mod writer;
