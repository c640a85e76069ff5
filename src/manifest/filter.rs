//! `input.where`: polars evaluates the predicate into a row mask. Of polars, this file holds expressions only.
//!
//! The columns that the predicate reads are decoded as everywhere else, and polars is given copies of them in memory, some rows at a time:
//! it never opens a file that somebody else has written.

use std::sync::Arc;

use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use polars::prelude::Expr;
use roaring::RoaringBitmap;

use super::evaluate::{true_rows, with_large_stack};
use super::frame::{plain_batch, plain_field};
use super::predicate::{parse, plain};
use super::source::storage_error;
use super::types::carried_type;
use super::{Manifest, ManifestError, ManifestFile};
use crate::support::untrusted_parquet::{guarded, largest_dictionary_value};
use crate::support::unwind::caught;

/// Rows that polars evaluates at once.
const SLICE_ROWS: usize = 1 << 18;
/// About as many bytes of their columns at most.
const SLICE_BYTES: usize = 64 << 20;
/// Rows that are decoded at once.
const BATCH_ROWS: usize = 1024;
/// Characters of a predicate that a message shows.
const SHOWN: usize = 300;

/// The rows of every manifest file for which `predicate` is true (null counts as false, as in SQL); without one, all rows.
///
/// # Errors
/// [`ManifestError::Predicate`] with the reason, and failures to read the manifest.
pub fn select(manifest: &Manifest, predicate: Option<&str>) -> Result<Vec<RoaringBitmap>, ManifestError> {
    let rows = |file: &ManifestFile| u32::try_from(file.snapshot.rows).unwrap_or(u32::MAX);
    let Some(predicate) = predicate else {
        let all = |file| {
            let mut all = RoaringBitmap::new();
            all.insert_range(0..rows(file));
            all
        };
        return Ok(manifest.files.iter().map(all).collect());
    };
    let work = || manifest.files.iter().map(|file| select_rows(manifest, file, predicate)).collect();
    with_large_stack(work).map_err(|message| refusal(&manifest.files[0], predicate, message))?
}

fn refusal(file: &ManifestFile, predicate: &str, message: String) -> ManifestError {
    let shown: String = predicate.chars().take(SHOWN).collect();
    let predicate = if shown.len() < predicate.len() { shown + "..." } else { shown };
    ManifestError::Predicate { predicate, path: file.location.to_string(), message }
}

fn select_rows(manifest: &Manifest, file: &ManifestFile, predicate: &str) -> Result<RoaringBitmap, ManifestError> {
    let refuse = |message: String| refusal(file, predicate, message);
    let expression = caught(|| parse(predicate)).and_then(|parsed| parsed).map_err(refuse)?;
    let columns = mentioned(manifest, &expression).map_err(refuse)?;
    let mut fields = Vec::new();
    for &column in &columns {
        manifest.check_use(column)?;
        let field = manifest.schema.field(column);
        if let Some(why) = unreadable(field.data_type()) {
            return Err(refuse(format!("column `{}` holds {why}, which `where` cannot read", field.name())));
        }
        // Its metadata may hold anything.
        fields.push(plain_field(&Field::new(field.name(), carried_type(field.data_type()), true)));
    }
    let mut selected = RoaringBitmap::new();
    let mut slice = Slice { schema: Arc::new(Schema::new(fields)), first: 0, batches: Vec::new(), rows: 0, bytes: 0 };
    let mut evaluate = |slice: &mut Slice| {
        let rows = caught(|| slice.evaluate(&expression)).and_then(|rows| rows).map_err(refuse)?;
        selected |= rows;
        slice.first = slice.first.saturating_add(slice.rows as u32);
        (slice.rows, slice.bytes) = (0, 0);
        slice.batches.clear();
        Ok::<_, ManifestError>(())
    };
    for row_group in 0..file.metadata.metadata().num_row_groups() {
        let mut reader = file.read_columns(row_group, &columns)?;
        while let Some(batch) = reader.next()? {
            let arrays = file.columns.arrange(&manifest.schema, &columns, &batch);
            let batch = plain_batch(&slice.schema, &arrays);
            let batch = batch.map_err(|source| file.damaged(row_group, source))?;
            slice.rows += batch.num_rows();
            slice.bytes += batch.get_array_memory_size();
            slice.batches.push(batch);
            if slice.rows >= SLICE_ROWS || slice.bytes >= SLICE_BYTES {
                evaluate(&mut slice)?;
            }
        }
    }
    // Also without a row: then the predicate is still checked.
    evaluate(&mut slice)?;
    Ok(selected)
}

/// The indexes of the columns that a predicate reads; that of the key if it reads none, since rows must be counted.
///
/// # Errors
/// Which column the manifest does not have.
fn mentioned(manifest: &Manifest, predicate: &Expr) -> Result<Vec<usize>, String> {
    let mut columns = Vec::new();
    for expression in predicate {
        let Expr::Column(name) = expression else { continue };
        let known = || manifest.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>();
        let missing = |_| plain(&format!("not found: unable to find column {name:?}; valid columns: {:?}", known()));
        let column = manifest.schema.index_of(name).map_err(missing)?;
        if manifest.table.is_ambiguous(column) {
            return Err(format!("the manifest has several columns `{name}`"));
        }
        columns.push(column);
    }
    if columns.is_empty() {
        columns.push(manifest.key);
    }
    columns.sort_unstable();
    columns.dedup();
    Ok(columns)
}

impl ManifestFile {
    /// Reads some columns of one row group.
    fn read_columns(&self, row_group: usize, columns: &[usize]) -> Result<ColumnReader<'_>, ManifestError> {
        let metadata = self.metadata.metadata();
        let mask = ProjectionMask::roots(metadata.file_metadata().schema_descr(), self.columns.roots(columns));
        let group = metadata.row_group(row_group);
        let leaves = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let leaves: Vec<_> = leaves.map(|(_, column)| column).collect();
        let chunks = leaves.iter().map(|column| column.byte_range()).map(|(start, length)| start..start + length);
        let source = self.reopen(chunks.collect())?;
        let parquet = |source: ParquetError| {
            let path = &self.location;
            storage_error(path, &source).unwrap_or(ManifestError::Parquet { path: path.to_string(), source })
        };
        let pages = Arc::new(source.another().map_err(parquet)?);
        let largest = largest_dictionary_value(&pages, &leaves, group.num_rows()).map_err(parquet)?;
        let build = || {
            ParquetRecordBatchReaderBuilder::new_with_metadata(source, self.metadata.clone())
                .with_row_groups(vec![row_group])
                .with_projection(mask)
                .with_batch_size((SLICE_BYTES / largest.max(1)).clamp(1, BATCH_ROWS))
                .build()
        };
        let reader = guarded(build).map_err(parquet)?;
        Ok(ColumnReader { file: self, row_group, reader, missing: group.num_rows() })
    }
}

/// The batches of one row group.
struct ColumnReader<'a> {
    file: &'a ManifestFile,
    row_group: usize,
    reader: ParquetRecordBatchReader,
    missing: i64,
}

impl ColumnReader<'_> {
    fn next(&mut self) -> Result<Option<RecordBatch>, ManifestError> {
        let batch =
            caught(|| self.reader.next()).unwrap_or_else(|panic| Some(Err(ParquetError::General(panic).into())));
        let Some(batch) = batch else {
            return if self.missing == 0 { Ok(None) } else { Err(self.file.cut_off(self.row_group, self.missing)) };
        };
        let batch = batch.map_err(|source| self.file.damaged(self.row_group, source))?;
        self.missing -= batch.num_rows() as i64;
        Ok(Some(batch))
    }
}

/// Consecutive rows of one file.
struct Slice {
    schema: SchemaRef,
    first: u32,
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Slice {
    /// The rows of this slice for which the predicate is true, by their numbers in the file.
    fn evaluate(&self, predicate: &Expr) -> Result<RoaringBitmap, String> {
        let rows = true_rows(&self.schema, &self.batches, predicate)?;
        Ok(rows.into_iter().map(|number| self.first.saturating_add(number)).collect())
    }
}

/// What in a column of this type polars cannot read, if there is anything.
fn unreadable(kind: &ArrowType) -> Option<&'static str> {
    match carried_type(kind) {
        ArrowType::Float16 => Some("16-bit floats"),
        ArrowType::Map(..) => Some("maps"),
        ArrowType::Interval(_) => Some("intervals"),
        ArrowType::Union(..) => Some("unions"),
        ArrowType::Decimal256(..) => Some("decimals of more than 38 digits"),
        ArrowType::List(child) | ArrowType::FixedSizeList(child, _) => unreadable(child.data_type()),
        ArrowType::Struct(fields) if fields.is_empty() => Some("structs without a field"),
        ArrowType::Struct(fields) => fields.iter().find_map(|field| unreadable(field.data_type())),
        _ => None,
    }
}
