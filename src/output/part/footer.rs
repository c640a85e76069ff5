//! The footer of a part, read without its rows: for which plan it was made, its counts, its columns and their hashes.

use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::hashes::{Chunk, PartHash, chunks, hash};
use crate::output::OutputError;
use crate::output::store::OutputStore;
use crate::support::counts::Counts;
use crate::support::untrusted_parquet::{check_footer, check_metadata, footer_length, guarded};

/// The entry in the footer of a filler, without the prefix.
pub(crate) const FILLER: &str = "filler";

/// Bytes at the end of a part that are read first: nearly always more than its footer has.
const FIRST_READ: u64 = 64 << 10;

/// The summary of a part, from its footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSummary {
    /// Digest of the plan it was made for.
    pub plan_digest: String,
    /// Rows by outcome.
    pub counts: Counts,
    /// Whether it only takes the name of a part that a closed run does not have.
    pub is_filler: bool,
    /// Rows that the Parquet footer itself counts.
    pub rows: u64,
    /// Names and Parquet types of its columns.
    pub columns: String,
    /// What identifies its bytes.
    pub hash: PartHash,
}

/// The footer of a part.
pub(in crate::output) struct Footer {
    pub(super) metadata: ParquetMetaData,
    pub(super) chunks: Vec<Chunk>,
    hash: PartHash,
}

/// Reads the footer of the part at `path`.
///
/// # Errors
/// [`OutputError::Store`], or [`OutputError::WrongPart`] when it is not a part that nightcap wrote.
pub fn part_summary(store: &OutputStore, path: &str) -> Result<PartSummary, OutputError> {
    read_footer(store, path, None)?.summary(path)
}

/// Reads the footer of the part at `path`, by one short read and, for a long footer, a second. `published` is what identifies the
/// part according to the records of its run: nothing of another part is parsed.
///
/// # Errors
/// [`OutputError::Store`], or [`OutputError::WrongPart`] when it is not a part that nightcap wrote, or another one.
pub(in crate::output) fn read_footer(
    store: &OutputStore,
    path: &str,
    published: Option<&PartHash>,
) -> Result<Footer, OutputError> {
    store.wait(fetch_footer(store, path, published))
}

/// As [`read_footer`], without blocking.
pub(in crate::output) async fn fetch_footer(
    store: &OutputStore,
    path: &str,
    published: Option<&PartHash>,
) -> Result<Footer, OutputError> {
    let wrong = |found: String| wrong_part(path, &found);
    let mut length = published.map_or(FIRST_READ, |published| published.footer_bytes.max(1));
    loop {
        let (tail, size) = store.fetch_tail(path, length).await?;
        if let Some(PartHash { bytes, footer_hash, .. }) = published {
            if size != *bytes {
                return Err(wrong(format!("{size} bytes, where {bytes} were published")));
            }
            if hash(&tail) != *footer_hash {
                return Err(wrong("other bytes in its footer than were published".to_owned()));
            }
        }
        let Some((rest, end)) = tail.split_last_chunk::<8>().filter(|(_, end)| end.ends_with(b"PAR1")) else {
            return Err(wrong("it does not end like a Parquet file".to_owned()));
        };
        let bytes = footer_length(*end, size).map_err(|error| wrong(error.to_string()))?;
        let Some(start) = rest.len().checked_sub(bytes as usize) else {
            length = bytes + 8;
            continue;
        };
        let parsed = check_footer(&rest[start..]).and_then(|()| {
            let metadata = guarded(|| ParquetMetaDataReader::decode_metadata(&rest[start..]))?;
            check_metadata(&metadata, size).map(|()| metadata)
        });
        let metadata = parsed.map_err(|error| wrong(error.to_string()))?;
        let (chunks, end) = chunks(&metadata, size).map_err(wrong)?;
        let footer_bytes = size - end;
        if let Some(unread) = (tail.len() as u64).checked_sub(footer_bytes) {
            let footer_hash = hash(&tail[unread as usize..]);
            return Ok(Footer { metadata, chunks, hash: PartHash { bytes: size, footer_bytes, footer_hash } });
        }
        // The indexes of pages lie between the columns and the footer proper.
        length = footer_bytes;
    }
}

impl Footer {
    /// The summary of the part, which is at `path`.
    ///
    /// # Errors
    /// [`OutputError::WrongPart`] when it is not a part that nightcap wrote.
    pub(in crate::output) fn summary(&self, path: &str) -> Result<PartSummary, OutputError> {
        let wrong = |found: String| wrong_part(path, &found);
        let file = self.metadata.file_metadata();
        let value = |key: &str| {
            let entries = file.key_value_metadata().into_iter().flatten();
            let found =
                entries.filter(|entry| entry.key == format!("nightcap.{key}")).find_map(|entry| entry.value.clone());
            found.ok_or_else(|| wrong(format!("no `nightcap.{key}` in its footer")))
        };
        let is_filler = value(FILLER).is_ok();
        let counts = serde_json::from_str(&value("counts")?).map_err(|error| wrong(error.to_string()))?;
        let columns = file.schema_descr().columns();
        let columns = columns.iter().map(|column| format!("{} {}", column.path(), column.physical_type()));
        Ok(PartSummary {
            plan_digest: value("plan")?,
            counts,
            is_filler,
            rows: u64::try_from(file.num_rows()).unwrap_or(0),
            columns: columns.collect::<Vec<_>>().join(", "),
            hash: self.hash.clone(),
        })
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use arrow::record_batch::RecordBatch;

    use super::*;
    use crate::output::part::writer::{PartFooter, encode_batch};

    /// From footers that the first read holds, over those whose page indexes begin before it, to those that are longer themselves.
    #[test]
    fn footers_of_every_length_are_read_and_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let store = OutputStore::from_argument(folder.path()).unwrap();
        let (mut covered, mut indexes_before, mut longer) = (0, 0, 0);
        for width in (0..=400).step_by(10) {
            let column = |number| (format!("c{number}"), Arc::new(StringArray::from(vec!["value"; 3])) as ArrayRef);
            let batch = RecordBatch::try_from_iter((0..=width).map(column)).unwrap();
            let counts = Counts { rows: 3, ok: 3, ..Counts::default() };
            let footer =
                PartFooter { run: "night", plan_digest: "p", part: 0, counts: &counts, halved: 0, is_filler: false };
            let bytes = encode_batch(&batch, &footer).unwrap();
            let path = format!("part-{width}");
            store.put_new(&path, bytes.clone()).unwrap();
            let found = part_summary(&store, &path).unwrap();
            let PartHash { bytes: size, footer_bytes, footer_hash } = &found.hash;
            assert_eq!((*size, found.counts), (bytes.len() as u64, counts.clone()));
            assert_eq!(hash(&bytes[(size - footer_bytes) as usize..]), *footer_hash);
            assert_eq!(read_footer(&store, &path, Some(&found.hash)).unwrap().hash, found.hash);
            let proper = u64::from(u32::from_le_bytes(*bytes[..bytes.len() - 4].last_chunk().unwrap())) + 8;
            match () {
                () if *footer_bytes <= FIRST_READ => covered += 1,
                () if proper <= FIRST_READ => indexes_before += 1,
                () => longer += 1,
            }
            let other = PartHash { bytes: size + 1, ..found.hash.clone() };
            assert!(read_footer(&store, &path, Some(&other)).is_err());
            let other = PartHash { footer_bytes: footer_bytes - 1, ..found.hash.clone() };
            assert!(read_footer(&store, &path, Some(&other)).is_err());
        }
        assert!(covered > 0 && indexes_before > 0 && longer > 0, "{covered} {indexes_before} {longer}");
    }
}
