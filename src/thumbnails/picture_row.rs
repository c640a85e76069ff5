//! What the picture of a row is found by. In: rows of a part. Out: what names its run, key and hash of each.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;

use crate::output::OutputError;

/// The column with the hash of a picture's bytes.
pub const CONTENT_HASH: &str = "content_hash";

/// The column with the number of a row's run.
pub const RUN_SEQ: &str = "run_seq";

/// What a picture is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureRow {
    /// The `run_seq` of the run that made it, also where a compaction holds it now.
    pub run_seq: i64,
    /// The row's key, as text.
    pub key: String,
    /// BLAKE3 of the picture that the run read, hex; None: it read none.
    pub content_hash: Option<String>,
}

impl PictureRow {
    /// Those of `rows`, which have the columns `key`, `run_seq` and, where images were read, `content_hash`.
    ///
    /// # Errors
    /// [`OutputError::View`] without these columns.
    pub fn of_batch(key: &str, rows: &RecordBatch) -> Result<Vec<Self>, OutputError> {
        let text = |name: &str| {
            let column = rows.column_by_name(name).map(|column| cast(column, &DataType::Utf8)).transpose();
            column.map_err(|error| OutputError::View { message: format!("column `{name}`: {error}") })
        };
        let keys = text(key)?.ok_or_else(|| OutputError::View { message: format!("no column `{key}`") })?;
        let numbers = rows.column_by_name(RUN_SEQ).and_then(|numbers| numbers.as_primitive_opt::<Int64Type>());
        let numbers = numbers.ok_or_else(|| OutputError::View { message: format!("no column `{RUN_SEQ}`") })?;
        let (keys, hashes) = (keys.as_string::<i32>(), text(CONTENT_HASH)?);
        let row = |index: usize| {
            let hashes = hashes.as_ref().map(AsArray::as_string::<i32>);
            let hash = hashes.filter(|hashes| hashes.is_valid(index)).map(|hashes| hashes.value(index).to_owned());
            Self { run_seq: numbers.value(index), key: keys.value(index).to_owned(), content_hash: hash }
        };
        Ok((0..rows.num_rows()).map(row).collect())
    }
}
