//! Hashes by which changed bytes of a part are found. Parquet itself has none that its readers insist on.
//!
//! ```text
//! PAR1 | column chunks, each hashed in the footer | page indexes, footer, hashed in the record of the run | end
//! ```
//!
//! The writer knows the columns, and finalize reads the footer of every part: together the two cover every byte.

use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use serde::{Deserialize, Serialize};

/// The entry of the footer with the hash of each column chunk, in the order of the file, separated by spaces.
pub(super) const COLUMN_HASHES: &str = "nightcap.column_hashes";
/// The first bytes of a Parquet file.
pub(crate) const MAGIC: &[u8] = b"PAR1";

/// What identifies the bytes of a part, together with the hashes in its footer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHash {
    /// Size of the part.
    pub bytes: u64,
    /// Bytes from the end of the last column chunk to the end of the part.
    pub footer_bytes: u64,
    /// BLAKE3 of those bytes: 32 hex digits.
    pub footer_hash: String,
}

/// One column chunk of a part.
pub(super) struct Chunk {
    /// The name of the column.
    pub(super) column: String,
    /// Its first byte in the file.
    pub(super) start: u64,
    /// Its bytes.
    pub(super) length: u64,
    hash: String,
}

impl Chunk {
    /// Whether `bytes` are the ones that were written.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.length && self.has_hash(&blake3::hash(bytes))
    }

    /// Whether `hash` is that of the bytes that were written.
    pub(super) fn has_hash(&self, hash: &blake3::Hash) -> bool {
        shortened(hash) == self.hash
    }
}

/// 128 bits of BLAKE3 in hex.
pub(super) fn hash(bytes: &[u8]) -> String {
    shortened(&blake3::hash(bytes))
}

fn shortened(hash: &blake3::Hash) -> String {
    hash.to_hex()[..32].to_owned()
}

/// The value of [`COLUMN_HASHES`] for the chunks of `row_groups`, which are in `file`.
pub(super) fn column_hashes(row_groups: &[RowGroupMetaData], file: &[u8]) -> Result<String, String> {
    let hashes = columns(row_groups).map(|column| {
        let (start, length) = place(column)?;
        let bytes = file.get(start as usize..(start + length) as usize);
        bytes.map(hash).ok_or_else(|| format!("column {} ends after byte {}", column.column_path(), file.len()))
    });
    Ok(hashes.collect::<Result<Vec<_>, _>>()?.join(" "))
}

/// The column chunks of a part of `size` bytes, with their hashes, and where the last one ends.
///
/// # Errors
/// A message, when the footer has no hashes, or its columns do not lie one after another.
pub(super) fn chunks(metadata: &ParquetMetaData, size: u64) -> Result<(Vec<Chunk>, u64), String> {
    let entries = metadata.file_metadata().key_value_metadata().into_iter().flatten();
    let hashes = entries.filter(|entry| entry.key == COLUMN_HASHES).find_map(|entry| entry.value.as_deref());
    let mut hashes = hashes.ok_or_else(|| format!("no `{COLUMN_HASHES}` in its footer"))?.split_ascii_whitespace();
    let (mut chunks, mut end) = (Vec::new(), MAGIC.len() as u64);
    for column in columns(metadata.row_groups()) {
        let ((start, length), path) = (place(column)?, column.column_path());
        if start != end || length > size - end {
            return Err(format!("column {path} at byte {start} with {length} bytes, where {end} of {size} comes next"));
        }
        end = start + length;
        let hash = hashes.next().ok_or_else(|| format!("no hash of column {path} in its footer"))?.to_owned();
        chunks.push(Chunk { column: path.parts().first().cloned().unwrap_or_default(), start, length, hash });
    }
    match hashes.next() {
        None => Ok((chunks, end)),
        Some(_) => Err("more hashes than columns in its footer".to_owned()),
    }
}

fn columns(row_groups: &[RowGroupMetaData]) -> impl Iterator<Item = &ColumnChunkMetaData> {
    row_groups.iter().flat_map(RowGroupMetaData::columns)
}

/// The first byte of a column chunk and its bytes. The library's own `byte_range` panics where a footer says nonsense.
fn place(column: &ColumnChunkMetaData) -> Result<(u64, u64), String> {
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let number = |number: i64| {
        u64::try_from(number).map_err(|_| format!("a negative offset or length of column {}", column.column_path()))
    };
    Ok((number(start)?, number(column.compressed_size())?))
}
