//! `input.where`: polars evaluates the predicate into a row mask. The only file that uses polars.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow::datatypes::DataType as ArrowType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::errors::ParquetError;
use polars::error::set_warning_function;
use polars::io::HiveOptions;
use polars::prelude::{AggExpr, DataType, Expr, IdxCa, LazyFrame, PolarsError, ScanArgsParquet, col};
use roaring::RoaringBitmap;
use tempfile::NamedTempFile;

use super::source::storage_error;
use super::{Manifest, ManifestError, ManifestFile};

/// Rows that polars evaluates at once, which bounds memory.
const SLICE_ROWS: u32 = 1 << 20;
/// Characters of polars' message in an error: it shows some parts of a predicate as Rust does.
const LONGEST_MESSAGE: usize = 500;
/// The name of the row number while the predicate is evaluated.
const ROW: &str = "__nightcap_row";

/// The rows of every manifest file for which `predicate` is true (null counts as false, as in SQL); without one, all rows.
///
/// # Errors
/// [`ManifestError::Predicate`] with polars' reason.
pub fn select(manifest: &Manifest, predicate: Option<&str>) -> Result<Vec<RoaringBitmap>, ManifestError> {
    // They would be printed: about what polars itself makes of a predicate, and between lines of JSON.
    set_warning_function(|warning, _| tracing::debug!("polars: {warning}"));
    let select_file = |file: &ManifestFile| {
        let rows = u32::try_from(file.snapshot.rows).unwrap_or(u32::MAX);
        let mut selected = RoaringBitmap::new();
        let Some(predicate) = predicate else {
            selected.insert_range(0..rows);
            return Ok(selected);
        };
        let refuse = |message: String| ManifestError::Predicate {
            predicate: predicate.to_owned(),
            path: file.location.to_string(),
            message,
        };
        if let Some(field) = manifest.schema.fields().iter().find(|field| holds_half_floats(field.data_type())) {
            return Err(refuse(format!("column `{}` holds 16-bit floats, which polars cannot read", field.name())));
        }
        let columns = || caught(|| mentioned(manifest, predicate));
        let copy = match file.location.local() {
            Some(_) => None,
            None => Some(copy_columns(file, columns().map_err(|error| refuse(plain(&error)))?)?),
        };
        let path = copy.as_ref().map(NamedTempFile::path).or_else(|| file.location.local());
        let path = path.unwrap_or(Path::new("/"));
        for first in (0..rows).step_by(SLICE_ROWS as usize) {
            let length = SLICE_ROWS.min(rows - first);
            let rows = caught(|| select_slice(path, predicate, first, length));
            selected |= rows.map_err(|error| refuse(plain(&error)))?;
        }
        // polars opens the path again; everything else reads the file that was opened.
        if copy.is_none() && !file.source.is_at(&file.location) {
            return Err(ManifestError::Changed { path: file.location.to_string() });
        }
        file.reopen(Vec::new())?;
        Ok(selected)
    };
    manifest.files.iter().map(select_file).collect()
}

/// The message of polars, without the query plan after an empty line.
fn plain(error: &PolarsError) -> String {
    error.to_string().split("\n\n").next().unwrap_or_default().chars().take(LONGEST_MESSAGE).collect()
}

/// What comes of `work`. polars panics on some predicates and values; then the predicate is at fault for the user.
fn caught<T>(work: impl FnOnce() -> Result<T, PolarsError>) -> Result<T, PolarsError> {
    let panicked = "polars panicked on it, as the log says";
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(PolarsError::ComputeError(panicked.into())))
}

/// The indexes of the columns that `predicate` reads; that of the key if it reads none, since rows must be counted.
fn mentioned(manifest: &Manifest, predicate: &str) -> Result<Vec<usize>, PolarsError> {
    let predicate = row_predicate(predicate)?;
    let names = predicate.into_iter().filter_map(|expression| match expression {
        Expr::Column(name) => manifest.schema.index_of(name).ok(),
        _ => None,
    });
    let mut columns: Vec<usize> = names.chain([manifest.key]).collect();
    columns.sort_unstable();
    columns.dedup();
    Ok(columns)
}

/// Some columns of a remote manifest file as a local one, which polars can read.
fn copy_columns(file: &ManifestFile, columns: Vec<usize>) -> Result<NamedTempFile, ManifestError> {
    let path = &file.location;
    let io = |source| ManifestError::Io { path: path.to_string(), source };
    let parquet = |source: ParquetError| {
        storage_error(path, &source).unwrap_or(ManifestError::Parquet { path: path.to_string(), source })
    };
    let copy = NamedTempFile::new().map_err(io)?;
    let metadata = file.metadata.metadata();
    let mask = ProjectionMask::roots(metadata.file_metadata().schema_descr(), columns);
    let mut writer: Option<ArrowWriter<File>> = None;
    for (row_group, group) in metadata.row_groups().iter().enumerate() {
        let leaves = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let chunks = leaves.map(|(_, column)| column.byte_range()).map(|(start, length)| start..start + length);
        let source = file.reopen(chunks.collect())?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(source, file.metadata.clone());
        let reader = builder.with_row_groups(vec![row_group]).with_projection(mask.clone()).build().map_err(parquet)?;
        for batch in reader {
            let batch = batch.map_err(|source| {
                let damaged = |source| ManifestError::Damaged { path: path.to_string(), row_group, source };
                storage_error(path, &source).unwrap_or_else(|| damaged(source))
            })?;
            let writer = if let Some(writer) = &mut writer {
                writer
            } else {
                let file = copy.reopen().map_err(io)?;
                writer.insert(ArrowWriter::try_new(file, batch.schema(), None).map_err(parquet)?)
            };
            writer.write(&batch).map_err(parquet)?;
        }
    }
    if let Some(writer) = writer {
        writer.close().map_err(parquet)?;
    }
    Ok(copy)
}

fn select_slice(path: &Path, predicate: &str, first: u32, length: u32) -> Result<RoaringBitmap, PolarsError> {
    let predicate = row_predicate(predicate)?;
    // A folder named `lang=en` above the manifest must not replace its column `lang`.
    let hive_options = HiveOptions::new_disabled();
    let options = ScanArgsParquet { glob: false, hive_options, ..ScanArgsParquet::default() };
    let path = path.to_str().ok_or_else(|| PolarsError::ComputeError("the path is not UTF-8".into()))?;
    let rows = LazyFrame::scan_parquet(path.into(), options)?.slice(i64::from(first), length);
    let mut checked = rows.clone().select([predicate.clone().alias("predicate")]);
    let kind = checked.collect_schema()?.get("predicate").cloned();
    if !matches!(kind, Some(DataType::Boolean | DataType::Null)) {
        let found = kind.map_or_else(|| "nothing".to_owned(), |kind| kind.to_string());
        return Err(PolarsError::ComputeError(format!("expected true or false, found {found}").into()));
    }
    let kept = rows.with_row_index(ROW, None).filter(predicate).select([col(ROW)]).collect()?;
    let numbers: &IdxCa = kept.column(ROW)?.idx()?;
    Ok(numbers.into_no_null_iter().map(|number| first + number).collect())
}

/// Parses a predicate over single rows. One over several rows (an aggregate, say) would depend on how rows are cut into slices.
fn row_predicate(text: &str) -> Result<Expr, PolarsError> {
    let predicate = polars::sql::sql_expr(text)?;
    let looks_at_many = |expression: &Expr| {
        // The list behind `IN`.
        let is_list = |expression: &Expr| match expression {
            Expr::Agg(AggExpr::Implode { input, .. }) => matches!(**input, Expr::Literal(_)),
            _ => false,
        };
        !is_list(expression)
            && matches!(
                expression,
                Expr::Agg(_)
                    | Expr::Len
                    | Expr::Over { .. }
                    | Expr::Sort { .. }
                    | Expr::SortBy { .. }
                    | Expr::Gather { .. }
                    | Expr::Slice { .. }
                    | Expr::Explode { .. }
                    | Expr::Filter { .. }
            )
    };
    if predicate.into_iter().any(looks_at_many) {
        let message = "expected a condition on one row, found an aggregate or window over many";
        return Err(PolarsError::ComputeError(message.into()));
    }
    Ok(predicate)
}

fn holds_half_floats(kind: &ArrowType) -> bool {
    match kind {
        ArrowType::Float16 => true,
        ArrowType::List(child) | ArrowType::LargeList(child) | ArrowType::FixedSizeList(child, _) => {
            holds_half_floats(child.data_type())
        }
        ArrowType::Struct(fields) => fields.iter().any(|field| holds_half_floats(field.data_type())),
        _ => false,
    }
}
