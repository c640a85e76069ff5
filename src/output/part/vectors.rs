//! Reads a column of vectors of a part, page by page: as the writer leaves them, plain and uncompressed, they need no decoding. In: a
//! footer and the name of the column. Out: the vectors of consecutive rows. Never here: other columns.
//!
//! Of a file on this machine, one page is in memory at a time, and its bytes are hashed as they are read, while the processor's cache has
//! them. So an error that the column was changed comes after its vectors were handed out: whoever takes them drops what they gave.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use half::f16;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::footer::{Footer, wrong_part};
use super::hashes::Chunk;
use super::levels::{rows_with_values, split_levels};
use super::reader::FetchedChunks;
use crate::output::OutputError;
use crate::output::store::OutputStore;
use crate::support::untrusted_parquet::guarded;

/// Bytes that are read and hashed at once.
const PIECE: usize = 128 << 10;
/// Bytes that hold the header of nearly every page.
const HEADER: usize = 256;

/// The vectors of some consecutive rows.
pub struct Vectors<'a> {
    /// The numbers of the rows that have one, ascending.
    pub rows: &'a [Range<u32>],
    /// One after another.
    values: &'a [u8],
    half: bool,
    width: usize,
}

impl Vectors<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / (self.width * size_of_element(self.half))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes those of these numbers, of which the first is 0, into `into` `[numbers, width]`, which is resized.
    pub fn copy(&self, numbers: Range<usize>, into: &mut Vec<f32>) {
        let bytes = self.width * size_of_element(self.half);
        let values = self.values.get(numbers.start * bytes..numbers.end * bytes).unwrap_or_default();
        into.resize(numbers.len() * self.width, 0.0);
        if self.half {
            let values = values.as_chunks::<2>().0.iter();
            into.iter_mut().zip(values).for_each(|(into, value)| *into = f16::from_le_bytes(*value).to_f32());
        } else {
            let values = values.as_chunks::<4>().0.iter();
            into.iter_mut().zip(values).for_each(|(into, value)| *into = f32::from_le_bytes(*value));
        }
    }
}

const fn size_of_element(half: bool) -> usize {
    if half { 2 } else { 4 }
}

/// Calls `each` with the vectors of `column`, which are `width` numbers, of the part at `path`.
///
/// # Errors
/// [`OutputError::Store`], [`OutputError::WrongPart`] when the part is not as nightcap writes it, and what `each` returns.
pub(in crate::output) fn read_vectors(
    store: &OutputStore,
    path: &str,
    footer: &Footer,
    (column, width): (&str, usize),
    each: &mut dyn FnMut(&Vectors<'_>) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    let is_wanted = |meta: &&ColumnChunkMetaData| meta.column_path().parts().first().is_some_and(|name| name == column);
    let changed = || wrong_part(path, &format!("other bytes in `{column}` than were written"));
    let chunks = footer.chunks.iter().filter(|chunk| chunk.column == column);
    let mut first = 0_u32;
    for (group, chunk) in footer.metadata.row_groups().iter().zip(chunks) {
        let Some(meta) = group.columns().iter().find(is_wanted) else { continue };
        let rows = first..first.saturating_add(u32::try_from(group.num_rows()).unwrap_or(u32::MAX));
        first = rows.end;
        let mut pages = Pages { path, meta, width, rows, each: &mut *each };
        if let Some(file) = store.open_local(path) {
            let hashed = Arc::new(HashedChunk::new(file?, chunk));
            pages.read(&hashed)?;
            if !hashed.is(chunk).map_err(|error| wrong_part(path, &error))? {
                return Err(changed());
            }
        } else {
            let bytes = store.range(path, chunk.start, chunk.length)?;
            if !chunk.is(&bytes) {
                return Err(changed());
            }
            pages.read(&Arc::new(FetchedChunks::of(chunk.start, bytes)))?;
        }
    }
    Ok(())
}

/// The pages of a column chunk.
struct Pages<'a> {
    path: &'a str,
    meta: &'a ColumnChunkMetaData,
    width: usize,
    /// Those of the row group.
    rows: Range<u32>,
    each: &'a mut dyn FnMut(&Vectors<'_>) -> Result<(), OutputError>,
}

impl Pages<'_> {
    fn read<R: ChunkReader + 'static>(&mut self, source: &Arc<R>) -> Result<(), OutputError> {
        let (path, rows) = (self.path, self.rows.len());
        let wrong = |error: ParquetError| wrong_part(path, &error);
        let open = || SerializedPageReader::new(source.clone(), self.meta, rows, None);
        let mut reader = guarded(open).map_err(wrong)?;
        while let Some(page) = guarded(|| reader.get_next_page()).map_err(wrong)? {
            self.page(&page)?;
        }
        if self.rows.is_empty() {
            return Ok(());
        }
        Err(wrong_part(path, &format!("a column of vectors that ends {} rows before the others", self.rows.len())))
    }

    fn page(&mut self, page: &Page) -> Result<(), OutputError> {
        let wrong = |found: String| wrong_part(self.path, &found);
        let (buffer, count) = match page {
            Page::DataPage { buf, num_values, encoding: Encoding::PLAIN, .. } => (buf, *num_values),
            other => {
                let (kind, encoding) = (other.page_type(), other.encoding());
                return Err(wrong(format!("vectors in a {kind} of encoding {encoding}, where they are written plain")));
            }
        };
        let half = match self.meta.column_type() {
            Type::FLOAT => false,
            Type::FIXED_LEN_BYTE_ARRAY if self.meta.column_descr().type_length() == 2 => true,
            other => return Err(wrong(format!("vectors of {other}"))),
        };
        let column = self.meta.column_descr();
        let (defined, values) = split_levels(buffer, column.max_rep_level(), column.max_def_level()).map_err(wrong)?;
        let (rows, end) =
            rows_with_values(defined, column.max_def_level(), count, self.width, self.rows.start).map_err(wrong)?;
        let vectors: usize = rows.iter().map(ExactSizeIterator::len).sum();
        if end > self.rows.end || values.len() != vectors * self.width * size_of_element(half) {
            return Err(wrong(format!("a page of {} bytes for {vectors} vectors", values.len())));
        }
        self.rows.start = end;
        (self.each)(&Vectors { rows: &rows, values, half, width: self.width })
    }
}

/// A column chunk in a file on this machine, of which every byte is read once, in order, and hashed.
struct HashedChunk {
    file: Arc<File>,
    hashed: Mutex<Hashed>,
    /// The memory of the page before.
    spare: Arc<Mutex<Vec<u8>>>,
    end: u64,
}

/// The hash of the bytes before `to`.
struct Hashed {
    hasher: blake3::Hasher,
    to: u64,
}

impl HashedChunk {
    fn new(file: File, chunk: &Chunk) -> Self {
        let hashed = Hashed { hasher: blake3::Hasher::new(), to: chunk.start };
        let end = chunk.start + chunk.length;
        Self { file: Arc::new(file), hashed: Mutex::new(hashed), spare: Arc::default(), end }
    }

    /// Reads the bytes from `start` on into `buffer`, and hashes them and those before.
    fn fill(&self, start: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        if start < hashed.to {
            return Err(io::Error::other("pages that overlap"));
        }
        // The header of the page.
        let mut skipped = vec![0; PIECE.min((start - hashed.to) as usize)];
        while hashed.to < start {
            let piece = &mut skipped[..PIECE.min((start - hashed.to) as usize)];
            self.file.read_exact_at(piece, hashed.to)?;
            hashed.add(piece);
        }
        for piece in buffer.chunks_mut(PIECE) {
            self.file.read_exact_at(piece, hashed.to)?;
            hashed.add(piece);
        }
        Ok(())
    }

    /// Whether the bytes are the ones that were written.
    fn is(&self, chunk: &Chunk) -> io::Result<bool> {
        self.fill(self.end, &mut [])?;
        let hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(chunk.has_hash(&hashed.hasher.finalize()))
    }
}

impl Hashed {
    fn add(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.to += piece.len() as u64;
    }
}

impl Length for HashedChunk {
    fn len(&self) -> u64 {
        self.end
    }
}

impl ChunkReader for HashedChunk {
    type T = BufReader<FileFrom>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::with_capacity(HEADER, FileFrom { file: self.file.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let mut bytes = std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
        if bytes.len() < length {
            bytes.resize(length, 0);
        }
        let mut page = PageBytes { bytes, length, spare: self.spare.clone() };
        self.fill(start, &mut page.bytes[..length])?;
        Ok(Bytes::from_owner(page))
    }
}

/// A file, read from a place on.
struct FileFrom {
    file: Arc<File>,
    at: u64,
}

impl Read for FileFrom {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The bytes of a page, whose memory the next page takes.
struct PageBytes {
    bytes: Vec<u8>,
    length: usize,
    spare: Arc<Mutex<Vec<u8>>>,
}

impl AsRef<[u8]> for PageBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for PageBytes {
    fn drop(&mut self) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float16Array, Float32Array, StringArray};
    use arrow::buffer::NullBuffer;
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Field, Float32Type, Schema};
    use arrow::record_batch::RecordBatch;

    use super::*;
    use crate::output::part::footer::read_footer;
    use crate::output::part::reader::read_part;
    use crate::output::part::writer::{PartFooter, encode_batch};
    use crate::support::counts::Counts;

    /// A part of these rows, of which those are null for which `is_null` says so.
    fn part(rows: usize, width: usize, half: bool, is_null: impl Fn(usize) -> bool) -> Vec<u8> {
        let value = |at: usize| (at * 7 % 1013) as f32 / 1013.0 - 0.5;
        let values: ArrayRef = if half {
            Arc::new(Float16Array::from_iter_values((0..rows * width).map(|at| f16::from_f32(value(at)))))
        } else {
            Arc::new(Float32Array::from_iter_values((0..rows * width).map(value)))
        };
        let element = Arc::new(Field::new("element", values.data_type().clone(), false));
        let nulls: NullBuffer = (0..rows).map(|row| !is_null(row)).collect::<Vec<_>>().into();
        let vectors = FixedSizeListArray::new(element.clone(), width as i32, values, Some(nulls));
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("row-{row}"))));
        let vector = Field::new("vector", DataType::FixedSizeList(element, width as i32), true);
        let schema = Arc::new(Schema::new(vec![Field::new("key", DataType::Utf8, false), vector]));
        let batch = RecordBatch::try_new(schema, vec![keys, Arc::new(vectors)]).unwrap();
        let counts = Counts { rows: rows as u64, ok: rows as u64, ..Counts::default() };
        let footer = PartFooter { run: "r", plan_digest: "p", part: 0, counts: &counts, halved: 0, is_filler: false };
        encode_batch(&batch, &footer).unwrap()
    }

    type Rows = Vec<(u32, Vec<f32>)>;

    fn read(store: &OutputStore, path: &str, width: usize) -> Result<Rows, OutputError> {
        let mut found = Rows::new();
        let footer = read_footer(store, path, None)?;
        read_vectors(store, path, &footer, ("vector", width), &mut |vectors| {
            let mut rows = vectors.rows.iter().cloned().flatten();
            let mut values = Vec::new();
            for start in (0..vectors.len()).step_by(3) {
                vectors.copy(start..vectors.len().min(start + 3), &mut values);
                found.extend(values.chunks(width).map(|vector| (rows.next().unwrap(), vector.to_vec())));
            }
            assert_eq!(rows.next(), None);
            Ok(())
        })?;
        Ok(found)
    }

    fn by_arrow(store: &OutputStore, path: &str) -> Rows {
        let mut found = Rows::new();
        let mut row = 0;
        for batch in read_part(store, path, Some(&["vector"])).unwrap() {
            let batch = batch.unwrap();
            let vectors = batch.column(0).as_fixed_size_list();
            for at in 0..vectors.len() {
                if vectors.is_valid(at) {
                    let wide = cast(&vectors.value(at), &DataType::Float32).unwrap();
                    found.push((row, wide.as_primitive::<Float32Type>().values().to_vec()));
                }
                row += 1;
            }
        }
        found
    }

    #[test]
    fn vectors_are_those_that_arrow_reads() {
        let folder = tempfile::tempdir().unwrap();
        let disk = OutputStore::from_argument(folder.path()).unwrap();
        let memory = object_store::memory::InMemory::new();
        let location = crate::storage::Location::Local("/".into()).resolve("s3://bucket/out").unwrap();
        let process = Arc::new(crate::output::process::OperatingSystem::this());
        let remote = OutputStore::over(Arc::new(memory), location, process, 0).unwrap();
        let patterns: [fn(usize) -> bool; 6] = [
            |_| false,
            |_| true,
            |row| row % 2 == 1,
            |row| row % 37 == 5,
            |row| (100..1500).contains(&row),
            |row| blake3::hash(&row.to_le_bytes()).as_bytes()[0] < 40,
        ];
        for (number, (width, rows)) in
            [(1, 5000), (3, 1), (7, 2049), (16, 3000), (384, 1800), (512, 1100)].into_iter().enumerate()
        {
            for (pattern, is_null) in patterns.iter().enumerate() {
                let half = (number + pattern) % 2 == 0;
                let path = format!("part-{number}-{pattern}");
                let bytes = part(rows, width, half, is_null);
                for store in [&disk, &remote] {
                    store.put_new(&path, bytes.clone()).unwrap();
                    assert!(read(store, &path, width).unwrap() == by_arrow(store, &path), "{path}");
                    let expected = (0..rows).filter(|row| !is_null(*row)).count();
                    assert_eq!(read(store, &path, width).unwrap().len(), expected);
                }
            }
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = OutputStore::from_argument(folder.path()).unwrap();
        let bytes = part(700, 512, false, |row| row % 50 == 1);
        store.put_new("whole", bytes.clone()).unwrap();
        let footer = read_footer(&store, "whole", None).unwrap();
        let chunk = footer.chunks.iter().find(|chunk| chunk.column == "vector").unwrap();
        let (start, end) = (chunk.start as usize, (chunk.start + chunk.length) as usize);
        for at in (start..start + 60).chain((start..end).step_by(100_003)).chain(end - 3..end) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let path = format!("changed-{at}");
            store.put_new(&path, changed).unwrap();
            let error = read(&store, &path, 512).unwrap_err();
            assert!(matches!(error, OutputError::WrongPart { .. }), "{at}: {error}");
        }
        let wrong = read(&store, "whole", 511).unwrap_err().to_string();
        assert!(wrong.contains("vector"), "{wrong}");
    }
}
