//! Parquet files that nobody vouches for: what the Parquet library takes on trust is checked before it reads them. Its recursion and its
//! allocations follow numbers in the footer; its panics are caught by the callers (see `unwind`).

use std::sync::Arc;

use parquet::basic::Type;
use parquet::column::page::{Page, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;

use super::unwind::caught;

/// The most bytes of a footer.
const LARGEST_FOOTER: u64 = 256 << 20;
/// Columns within columns.
const DEEPEST: usize = 64;
/// A column chunk of fewer bytes may have any dictionary.
const SMALL_CHUNK: i64 = 64 << 10;

/// Runs `work` of the Parquet library; a panic is an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(work).unwrap_or_else(|panic| Err(ParquetError::General(panic)))
}

/// Checks the length of a footer, as the last eight bytes of a file of `size` bytes give it.
pub(crate) fn footer_length(tail: [u8; 8], size: u64) -> Result<u64> {
    let [a, b, c, d, ..] = tail;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    if length > LARGEST_FOOTER || length + 8 > size {
        let what = format!("expected a footer of at most {} bytes, found one of {length}", LARGEST_FOOTER.min(size));
        return Err(ParquetError::General(what));
    }
    Ok(length)
}

/// Checks the schema in a footer, given without the length and the magic behind it: that it has as many columns as it says, not too deep.
pub(crate) fn check_footer(footer: &[u8]) -> Result<()> {
    let refuse = |what: &str| Err(ParquetError::General(format!("its footer is damaged: {what}")));
    let Some(children) = (Thrift { rest: footer }).children() else { return refuse("it is no Thrift structure") };
    // The children that are still to come, of each group that is open.
    let mut open: Vec<usize> = Vec::new();
    for (number, children_here) in children.iter().enumerate() {
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        match usize::try_from(*children_here) {
            Ok(0) => {}
            Ok(more) if more < children.len() - number => open.push(more),
            _ => return refuse("a group has more columns than there are"),
        }
        while open.last() == Some(&0) {
            open.pop();
        }
        if open.len() > DEEPEST {
            return refuse("columns nest too deep");
        }
    }
    Ok(())
}

/// Checks that the column chunks lie within a file of `size` bytes, and that row groups have the rows that the footer counts.
pub(crate) fn check_metadata(metadata: &ParquetMetaData, size: u64) -> Result<()> {
    let refuse = |what: String| Err(ParquetError::General(what));
    let rows = metadata.file_metadata().num_rows();
    let mut counted = 0_i64;
    for group in metadata.row_groups() {
        let Some(sum) = counted.checked_add(group.num_rows()).filter(|_| group.num_rows() >= 0) else {
            return refuse(format!("a row group of {} rows", group.num_rows()));
        };
        counted = sum;
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let (start, length) = (u64::try_from(start).ok(), u64::try_from(column.compressed_size()).ok());
            let end = start.zip(length).and_then(|(start, length)| start.checked_add(length));
            if end.is_none_or(|end| end > size) || column.uncompressed_size() < 0 || column.num_values() < 0 {
                return refuse(format!("column {} of a row group does not lie within the file", column.column_path()));
            }
        }
    }
    if counted == rows { Ok(()) } else { refuse(format!("its footer counts {rows} rows, its row groups {counted}")) }
}

/// The bytes of the largest value in the dictionaries of `columns`, column chunks of a row group of `rows`: one may stand in every row.
pub(crate) fn largest_dictionary_value<R: ChunkReader + 'static>(
    source: &Arc<R>,
    columns: &[&ColumnChunkMetaData],
    rows: i64,
) -> Result<usize> {
    let mut largest = 0;
    let texts = columns.iter().filter(|column| column.column_type() == Type::BYTE_ARRAY);
    for column in texts.filter(|column| column.uncompressed_size() >= SMALL_CHUNK && rows > 0) {
        let first =
            guarded(|| SerializedPageReader::new(source.clone(), column, rows as usize, None)?.get_next_page())?;
        if let Some(Page::DictionaryPage { buf, .. }) = first {
            largest = largest.max(largest_value(&buf));
        }
    }
    Ok(largest)
}

/// The longest of the values of a plain dictionary, each of which follows its length.
fn largest_value(mut dictionary: &[u8]) -> usize {
    let mut largest = 0;
    while let Some((length, rest)) = dictionary.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        largest = largest.max(length.min(rest.len()));
        dictionary = rest.get(length..).unwrap_or_default();
    }
    largest
}

/// Thrift's compact protocol (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>), as far as it takes to
/// find the schema in a footer. None: it is damaged.
struct Thrift<'a> {
    rest: &'a [u8],
}

impl Thrift<'_> {
    /// `num_children` of every `SchemaElement` of a `FileMetaData`, in order.
    fn children(&mut self) -> Option<Vec<i32>> {
        let mut last = 0;
        while let Some((field, kind)) = self.field(&mut last)? {
            if (field, kind) != (2, 9) {
                self.skip(kind, 0)?;
                continue;
            }
            let (count, _) = self.list()?;
            // Each takes a byte at least.
            let mut children = Vec::with_capacity(count.min(self.rest.len()));
            for _ in 0..count {
                let (mut last, mut own) = (0, 0);
                while let Some((field, kind)) = self.field(&mut last)? {
                    if (field, kind) == (5, 5) {
                        own = self.zigzag()? as i32;
                    } else {
                        self.skip(kind, 0)?;
                    }
                }
                children.push(own);
            }
            return Some(children);
        }
        Some(Vec::new())
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The id and type of the next field of a struct; the inner None: it ends.
    #[allow(clippy::option_option, reason = "the outer one is damage, the inner one the end")]
    fn field(&mut self, last: &mut i64) -> Option<Option<(i64, u8)>> {
        let head = self.byte()?;
        let (step, kind) = (head >> 4, head & 0x0f);
        if kind == 0 {
            return Some(None);
        }
        *last = if step == 0 { self.zigzag()? } else { last.checked_add(i64::from(step))? };
        Some(Some((*last, kind)))
    }

    /// The number of elements of a list, and their type.
    fn list(&mut self) -> Option<(usize, u8)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { usize::try_from(self.varint()?).ok()? } else { usize::from(head >> 4) };
        Some((count, head & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        match kind {
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => self.rest = self.rest.get(8..)?,
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.rest = self.rest.get(length..)?;
            }
            9 | 10 => {
                let (count, kind) = self.list()?;
                // In a list, a truth value takes a byte.
                (0..count).try_for_each(|_| self.skip(if kind < 3 { 3 } else { kind }, depth + 1))?;
            }
            11 => {
                let count = self.varint()?;
                if count > 0 {
                    let kinds = self.byte()?;
                    for _ in 0..count {
                        self.skip((kinds >> 4).max(3), depth + 1)?;
                        self.skip((kinds & 0x0f).max(3), depth + 1)?;
                    }
                }
            }
            12 => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, depth + 1)?;
                }
            }
            _ => return None,
        }
        Some(())
    }
}
