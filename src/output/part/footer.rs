//! The footer of a part, read without its rows: for which plan it was made, its counts and its columns.

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::output::store::OutputStore;
use crate::output::{Counts, OutputError};
use crate::support::untrusted_parquet::{check_footer, check_metadata, footer_length, guarded};

/// The summary of a part, from its footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSummary {
    /// Digest of the plan it was made for.
    pub plan_digest: String,
    /// Rows by outcome.
    pub counts: Counts,
    /// Rows that the Parquet footer itself counts.
    pub rows: u64,
    /// Names and Parquet types of its columns.
    pub columns: String,
}

/// Reads the footer of the part at `path`.
///
/// # Errors
/// [`OutputError::Store`], or [`OutputError::WrongPart`] when it is not a part that nightcap wrote.
pub fn part_summary(store: &OutputStore, path: &str) -> Result<PartSummary, OutputError> {
    let wrong = |found: String| wrong_part(path, &found);
    let metadata = footer(store, path)?.map_err(|error| wrong(error.to_string()))?;
    let file = metadata.file_metadata();
    let value = |key: &str| {
        let entries = file.key_value_metadata().into_iter().flatten();
        let found =
            entries.filter(|entry| entry.key == format!("nightcap.{key}")).find_map(|entry| entry.value.clone());
        found.ok_or_else(|| wrong(format!("no `nightcap.{key}` in its footer")))
    };
    let counts = serde_json::from_str(&value("counts")?).map_err(|error| wrong(error.to_string()))?;
    let columns = file.schema_descr().columns();
    let columns = columns.iter().map(|column| format!("{} {}", column.path(), column.physical_type()));
    Ok(PartSummary {
        plan_digest: value("plan")?,
        counts,
        rows: u64::try_from(file.num_rows()).unwrap_or(0),
        columns: columns.collect::<Vec<_>>().join(", "),
    })
}

/// The Parquet footer of the object at `path`, by one short read and, for a long footer, a second.
pub(in crate::output) fn footer(
    store: &OutputStore,
    path: &str,
) -> Result<Result<ParquetMetaData, ParquetError>, OutputError> {
    let mut length = 64 << 10;
    loop {
        let (tail, size): (Bytes, u64) = store.tail(path, length)?;
        let Some((rest, end)) = tail.split_last_chunk::<8>().filter(|(_, end)| end.ends_with(b"PAR1")) else {
            return Ok(Err(ParquetError::General("it does not end like a Parquet file".to_owned())));
        };
        let bytes = match footer_length(*end, size) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        let Some(start) = rest.len().checked_sub(bytes as usize) else {
            length = bytes + 8;
            continue;
        };
        return Ok(check_footer(&rest[start..]).and_then(|()| {
            let metadata = guarded(|| ParquetMetaDataReader::decode_metadata(&rest[start..]))?;
            check_metadata(&metadata, size).map(|()| metadata)
        }));
    }
}

/// A part that cannot be read as what it should be.
pub(in crate::output) fn wrong_part(path: &str, found: &dyn std::fmt::Display) -> OutputError {
    OutputError::WrongPart {
        path: path.to_owned(),
        expected: "a Parquet file written by nightcap".to_owned(),
        found: found.to_string(),
    }
}
