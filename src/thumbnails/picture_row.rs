//! What the picture of a row is found by. In: rows of a part. Out: run, key and hash of each.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

use crate::output::OutputError;

/// The column with the hash of a picture's bytes.
pub const CONTENT_HASH: &str = "content_hash";

/// What a picture is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureRow {
    /// The run that the row is in.
    pub run: String,
    /// The row's key, as text.
    pub key: String,
    /// BLAKE3 of the picture that the run read, hex; None: it read none.
    pub content_hash: Option<String>,
}

impl PictureRow {
    /// Those of `rows`, which are of `run` and have its columns `key` and `content_hash`.
    ///
    /// # Errors
    /// [`OutputError::View`] without these columns.
    pub fn of_batch(run: &str, key: &str, rows: &RecordBatch) -> Result<Vec<Self>, OutputError> {
        let text = |name: &str| {
            let column = rows.column_by_name(name).map(|column| cast(column, &DataType::Utf8)).transpose();
            column.map_err(|error| OutputError::View { message: format!("column `{name}`: {error}") })
        };
        let keys = text(key)?.ok_or_else(|| OutputError::View { message: format!("no column `{key}`") })?;
        let (keys, hashes) = (keys.as_string::<i32>(), text(CONTENT_HASH)?);
        let row = |index: usize| {
            let hashes = hashes.as_ref().map(AsArray::as_string::<i32>);
            let hash = hashes.filter(|hashes| hashes.is_valid(index)).map(|hashes| hashes.value(index).to_owned());
            Self { run: run.to_owned(), key: keys.value(index).to_owned(), content_hash: hash }
        };
        Ok((0..rows.num_rows()).map(row).collect())
    }
}
