//! Reads some columns of a part: its footer and the bytes of those columns only, also from a bucket.

use std::io::Read;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchReader};
use bytes::{Buf, Bytes};
use futures::future::try_join_all;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::footer::{Footer, read_footer, wrong_part};
use crate::output::OutputError;
use crate::output::store::OutputStore;
use crate::support::untrusted_parquet::{guarded, largest_dictionary_value};
use crate::support::unwind::caught;

/// Rows in a batch.
const BATCH_ROWS: usize = 1024;
/// About as many bytes in a batch where one value of a dictionary is large.
const BATCH_BYTES: usize = 64 << 20;

/// The rows of the part at `path`, with those of `columns` that it has (None: all), in batches.
///
/// # Errors
/// [`OutputError::Store`], or [`OutputError::WrongPart`] when it is no readable Parquet file, or one of the columns was changed.
pub fn read_part(store: &OutputStore, path: &str, columns: Option<&[&str]>) -> Result<PartReader, OutputError> {
    read_rows(store, path, read_footer(store, path, None)?, columns)
}

/// As [`read_part`], with a footer that was read before.
///
/// # Errors
/// As [`read_part`].
pub(in crate::output) fn read_rows(
    store: &OutputStore,
    path: &str,
    footer: Footer,
    columns: Option<&[&str]>,
) -> Result<PartReader, OutputError> {
    store.wait(fetch_rows(store, path, footer, columns))
}

/// As [`read_rows`], without blocking; the columns are fetched at the same time.
pub(in crate::output) async fn fetch_rows(
    store: &OutputStore,
    path: &str,
    footer: Footer,
    columns: Option<&[&str]>,
) -> Result<PartReader, OutputError> {
    let wrong = |error: ParquetError| wrong_part(path, &error);
    let wanted = |name: &str| columns.is_none_or(|columns| columns.contains(&name));
    let Footer { metadata, chunks: all, .. } = footer;
    let mut read = Vec::new();
    for row_group in metadata.row_groups() {
        let wanted = row_group
            .columns()
            .iter()
            .filter(|column| column.column_path().parts().first().is_some_and(|root| wanted(root)));
        read.extend(wanted.map(|column| (column.clone(), row_group.num_rows())));
    }
    let (mut chunks, mut changed) = (Vec::new(), Vec::new());
    let all: Vec<_> = all.into_iter().filter(|chunk| wanted(&chunk.column)).collect();
    let fetched = try_join_all(all.iter().map(|chunk| store.fetch_range(path, chunk.start, chunk.length))).await?;
    for (chunk, bytes) in all.into_iter().zip(fetched) {
        if !chunk.is(&bytes) {
            changed.push(format!("`{}`", chunk.column));
        }
        chunks.push((chunk.start, bytes));
    }
    // What was changed may still decode, to other captions or vectors.
    if !changed.is_empty() {
        return Err(wrong_part(path, &format!("other bytes in {} than were written", changed.join(", "))));
    }
    let descriptor = metadata.file_metadata().schema_descr_ptr();
    let roots = descriptor.root_schema().get_fields().iter().enumerate();
    let roots: Vec<usize> = roots.filter(|(_, field)| wanted(field.name())).map(|(index, _)| index).collect();
    let chunks = FetchedChunks { chunks: chunks.into() };
    let mut largest = 1;
    for (column, rows) in &read {
        let value = largest_dictionary_value(&Arc::new(chunks.clone()), &[column], *rows).map_err(wrong)?;
        largest = largest.max(value);
    }
    let build = || {
        let metadata = ArrowReaderMetadata::try_new(metadata.into(), ArrowReaderOptions::new())?;
        ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, metadata)
            .with_projection(ProjectionMask::roots(&descriptor, roots))
            .with_batch_size((BATCH_BYTES / largest).clamp(1, BATCH_ROWS))
            .build()
    };
    Ok(PartReader(Some(guarded(build).map_err(wrong)?)))
}

/// The rows of a part, in batches. A panic of the Parquet library is an error, and the last item.
pub struct PartReader(Option<ParquetRecordBatchReader>);

impl PartReader {
    /// The columns that are read, with the metadata of the part.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.0.as_ref().map_or_else(|| Arc::new(Schema::empty()), RecordBatchReader::schema)
    }
}

impl Iterator for PartReader {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.0.as_mut()?;
        let batch = caught(|| reader.next()).unwrap_or_else(|panic| Some(Err(ArrowError::ParquetError(panic))));
        if batch.as_ref().is_none_or(Result::is_err) {
            self.0 = None;
        }
        batch
    }
}

/// The schema of the part at `path`, without the metadata that readers add to it.
///
/// # Errors
/// As [`read_part`].
pub fn part_schema(store: &OutputStore, path: &str) -> Result<SchemaRef, OutputError> {
    let wrong = |error: ParquetError| wrong_part(path, &error);
    let metadata = read_footer(store, path, None)?.metadata;
    let metadata = ArrowReaderMetadata::try_new(metadata.into(), ArrowReaderOptions::new()).map_err(wrong)?;
    Ok(Arc::new(Schema::new(metadata.schema().fields().clone())))
}

/// The column chunks of a part that were fetched, by their first byte in the file.
#[derive(Clone)]
pub(super) struct FetchedChunks {
    chunks: Arc<[(u64, Bytes)]>,
}

impl FetchedChunks {
    /// One chunk, of which `start` is the first byte in the file.
    pub(super) fn of(start: u64, bytes: Bytes) -> Self {
        Self { chunks: Arc::new([(start, bytes)]) }
    }

    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let within = |(first, bytes): &&(u64, Bytes)| (*first..*first + bytes.len() as u64).contains(&start);
        let found = self.chunks.iter().find(within);
        let (first, bytes) = found
            .ok_or_else(|| ParquetError::General(format!("byte {start} belongs to no column that was asked for")))?;
        Ok(bytes.slice(usize::try_from(start - first).unwrap_or(usize::MAX)..))
    }
}

impl Length for FetchedChunks {
    fn len(&self) -> u64 {
        self.chunks.iter().map(|(first, bytes)| first + bytes.len() as u64).max().unwrap_or(0)
    }
}

impl ChunkReader for FetchedChunks {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(Box::new(self.from(start)?.reader()))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("expected {length} bytes at {start}, found {}", bytes.len())));
        }
        Ok(bytes.slice(..length))
    }
}
