//! `nightcap export`: the newest ok rows of an OUTPUT as one Parquet file.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::context::Context;
use super::exported_columns::{
    is_vector, neighbor_column, neighbor_field, thumbnail_column, thumbnail_field, vector_field, vectors_as,
};
use super::mixed_vectors::{cannot_be_compared, where_most};
use super::search::vector_column;
use crate::cli::{ExportArgs, ExportVectors};
use crate::error::{Error, ExitStatus};
use crate::job::Job;
use crate::output::OutputError;
use crate::output::store::OutputStore;
use crate::output::view::{View, Which};
use crate::search::neighbors::{Neighbor, neighbors};
use crate::search::scan::FINGERPRINT;
use crate::support::progress::Progress;
use crate::support::whole_file::temporary;
use crate::thumbnails::{CONTENT_HASH, PictureRow, RUN_SEQ, Thumbnail, ThumbnailReader};

/// Rows whose neighbors are found exactly.
const MOST_NEIGHBOR_ROWS: u64 = 100_000;
/// Bytes of a row group in memory, about.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// The columns that are written.
struct Columns {
    /// Those of OUTPUT.
    fields: Vec<Field>,
    /// What vectors are written as, if not as they are.
    element: Option<DataType>,
}

pub(super) fn execute(args: &ExportArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    check_file(&args.file)?;
    let view = View::open(OutputStore::from_argument(&args.output)?, args.r#where.as_deref())?;
    let columns = columns(args, &view)?;
    if columns.fields.iter().any(|field| is_vector(field.data_type())) || args.neighbors.is_some() {
        check_fingerprints(&view)?;
    }
    let stopped = || {
        tracing::warn!("stopped, and nothing was written; run the same command again");
        Ok(ExitStatus::Stopped)
    };
    let neighbors = match args.neighbors.map(|top| all_neighbors(&view, top as usize, context)).transpose()? {
        Some(None) => return stopped(),
        found => found.flatten(),
    };
    let job = args.job.as_deref().map(|job| Job::load(job, &[])).transpose()?;
    let thumbnails = args.thumbnails.map(|side| ThumbnailReader::open(&view, job.as_ref(), side)).transpose()?;
    let Some((rows, missing)) = write(args, &view, &columns, neighbors.as_deref(), thumbnails.as_ref(), context)?
    else {
        return stopped();
    };
    for (what, Missing { rows, example }) in missing {
        tracing::warn!(rows, "no thumbnail: {what}{example}");
    }
    tracing::info!(rows, file = %args.file.display(), "wrote the rows");
    Ok(ExitStatus::Done)
}

fn check_file(file: &Path) -> Result<(), Error> {
    let refused = |why: &str| Err(Error::Unfit(format!("-o {}: {why}", file.display())));
    if file.to_str().is_some_and(|text| text.contains("://")) {
        return refused("expected a path of this machine, found a URI\nhint: write it here, then copy it");
    }
    if file.extension().is_none_or(|extension| extension != "parquet") {
        return refused("expected a file name that ends in .parquet, so that no other file is replaced by mistake");
    }
    if std::fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return refused("expected a file, found something else of that name");
    }
    Ok(())
}

/// The key, then what was asked for, in the order of OUTPUT.
fn columns(args: &ExportArgs, view: &View) -> Result<Columns, Error> {
    let schema = view.schema();
    if let Some(unknown) = args.columns.iter().find(|name| schema.index_of(name).is_err()) {
        let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let known = known.join(", ");
        return Err(Error::Unfit(format!("--columns: expected some of the columns {known}, found {unknown:?}")));
    }
    let added = [args.thumbnails.map(|_| "thumbnail"), args.neighbors.map(|_| "neighbors")];
    let element = match args.vectors {
        Some(ExportVectors::F32) => Some(DataType::Float32),
        Some(ExportVectors::F16) => Some(DataType::Float16),
        _ => None,
    };
    let wanted = |field: &&Arc<Field>| {
        let name = field.name();
        let asked = args.columns.is_empty() || name == view.key() || args.columns.contains(name);
        asked && !(args.vectors == Some(ExportVectors::None) && is_vector(field.data_type()))
    };
    let retyped = |field: &Arc<Field>| match (&element, field.data_type()) {
        (Some(element), kind @ DataType::FixedSizeList(_, width)) if is_vector(kind) => {
            let kind = DataType::FixedSizeList(vector_field(kind, element), *width);
            field.as_ref().clone().with_data_type(kind)
        }
        _ => field.as_ref().clone(),
    };
    let fields: Vec<Field> = schema.fields().iter().filter(wanted).map(retyped).collect();
    if let Some(taken) = fields.iter().find(|field| added.contains(&Some(field.name().as_str()))) {
        let name = taken.name();
        return Err(Error::Unfit(format!("OUTPUT has a column `{name}` already\nhint: leave it out by --columns")));
    }
    Ok(Columns { fields, element })
}

/// Refuses vectors of several models.
fn check_fingerprints(view: &View) -> Result<(), Error> {
    if view.schema().index_of(FINGERPRINT).is_err() {
        return Ok(());
    }
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for part in view.parts() {
        for batch in view.read(part, &[FINGERPRINT], Which::Matching)? {
            let rows = batch?.filtered()?;
            let names = rows.column_by_name(FINGERPRINT).and_then(|names| names.as_string_opt::<i32>());
            for name in names.into_iter().flatten().flatten() {
                match found.get_mut(name) {
                    Some(rows) => *rows += 1,
                    None => drop(found.insert(name.to_owned(), 1)),
                }
            }
        }
    }
    if found.len() < 2 {
        return Ok(());
    }
    Err(Error::Unfit(format!(
        "{}\nhint: choose one by {}, leave vectors out by --vectors none, or run the job with --full",
        cannot_be_compared(&found),
        where_most(&found)
    )))
}

fn unfit(error: &dyn std::fmt::Display) -> Error {
    Error::Output(OutputError::View { message: error.to_string() })
}

/// The neighbors of every row that is written, in their order; None for a row without a vector.
type Neighbors = Vec<Option<Vec<Neighbor>>>;

/// Finds them; None: stopped.
fn all_neighbors(view: &View, top: usize, context: &Context<'_>) -> Result<Option<Neighbors>, Error> {
    let column = vector_column(view, None)?;
    // The numbers of the rows that have a vector, and the vectors.
    let (mut rows, mut numbers, mut vectors, mut width) = (0_u64, Vec::new(), Vec::new(), 0);
    for part in view.parts() {
        for batch in view.read(part, &[&column], Which::Matching)? {
            if context.stop.requested() {
                return Ok(None);
            }
            let batch = batch?.filtered()?;
            let first = rows;
            rows += batch.num_rows() as u64;
            if rows > MOST_NEIGHBOR_ROWS {
                return Err(Error::Unfit(format!(
                    "--neighbors: expected {MOST_NEIGHBOR_ROWS} rows at most, since each is compared with each, found more\nhint: choose \
                     rows by --where, or build an index of the exported vectors, for example with LanceDB"
                )));
            }
            let Some(list) = batch.column_by_name(&column) else { continue };
            let list = vectors_as(list, &DataType::Float32).map_err(|error| unfit(&error))?;
            let list = list.as_fixed_size_list();
            width = list.value_length() as usize;
            let values = list.values().as_primitive::<Float32Type>().values();
            for row in (0..list.len()).filter(|row| list.is_valid(*row)) {
                numbers.push(first as u32 + row as u32);
                vectors.extend_from_slice(&values[row * width..][..width]);
            }
        }
    }
    tracing::info!(rows = numbers.len(), "comparing each row with each, for exact neighbors");
    let progress = Progress::new(&context.terminal, numbers.len() as u64);
    let done = |rows: usize| (0..rows).for_each(|_| progress.row(false));
    let stop = &context.stop;
    let near = neighbors(&vectors, width, top, &|| stop.requested(), &done);
    progress.finish();
    let Some(near) = near else { return Ok(None) };
    let mut found = vec![None; rows as usize];
    for (row, near) in numbers.iter().zip(near) {
        let numbered = near.into_iter().map(|(other, score)| (numbers[other as usize], score));
        found[*row as usize] = Some(numbered.collect());
    }
    Ok(Some(found))
}

/// The rows that were written, and the reasons why some have no thumbnail; None: stopped.
type Written = Option<(usize, BTreeMap<&'static str, Missing>)>;

/// Rows without a thumbnail.
#[derive(Default)]
struct Missing {
    rows: u64,
    /// What is said of the first of them.
    example: String,
}

fn write(
    args: &ExportArgs,
    view: &View,
    columns: &Columns,
    neighbors: Option<&[Option<Vec<Neighbor>>]>,
    thumbnails: Option<&ThumbnailReader>,
    context: &Context<'_>,
) -> Result<Written, Error> {
    let unwritable = |error: &dyn std::fmt::Display| Error::Unfit(format!("-o {}: {error}", args.file.display()));
    let added = [thumbnails.map(|_| thumbnail_field()), neighbors.map(|_| neighbor_field())];
    let fields: Vec<Field> = columns.fields.iter().cloned().chain(added.into_iter().flatten()).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let file = temporary(&args.file).map_err(|error| unwritable(&error))?;
    let compression = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer: ArrowWriter<&File> =
        ArrowWriter::try_new(file.as_file(), schema.clone(), Some(properties)).map_err(|error| unwritable(&error))?;
    let mut wanted: Vec<&str> = columns.fields.iter().map(|field| field.name().as_str()).collect();
    if thumbnails.is_some() {
        let needed = [RUN_SEQ, CONTENT_HASH].into_iter().filter(|name| view.schema().index_of(name).is_ok());
        wanted.extend(needed);
    }
    let (mut rows, mut missing): (_, BTreeMap<_, Missing>) = (0, BTreeMap::new());
    for part in view.parts() {
        let run = view.run_of(part);
        for batch in view.read(part, &wanted, Which::Matching)? {
            if context.stop.requested() {
                return Ok(None);
            }
            let batch = batch?.filtered()?;
            if batch.num_rows() == 0 {
                continue;
            }
            let mut arrays =
                columns.fields.iter().map(|field| array(&batch, field, columns)).collect::<Result<Vec<_>, _>>()?;
            if let Some(reader) = thumbnails {
                let found = reader.read(&PictureRow::of_batch(&run.key, &batch)?);
                for (what, why) in found.iter().filter_map(reason) {
                    let missing = missing.entry(what).or_default();
                    if missing.rows == 0 && !why.is_empty() {
                        missing.example = format!(", the first because: {why}");
                    }
                    missing.rows += 1;
                }
                arrays.push(thumbnail_column(&found).map_err(|error| unfit(&error))?);
            }
            if let Some(neighbors) = neighbors {
                let of_batch = neighbors.get(rows..rows + batch.num_rows());
                let of_batch = of_batch.ok_or_else(|| unfit(&"more rows than there were before"))?;
                arrays.push(neighbor_column(of_batch).map_err(|error| unfit(&error))?);
            }
            rows += batch.num_rows();
            let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(|error| unfit(&error))?;
            writer.write(&batch).map_err(|error| unwritable(&error))?;
            if writer.in_progress_size() > ROW_GROUP_BYTES {
                writer.flush().map_err(|error| unwritable(&error))?;
            }
        }
    }
    writer.close().map_err(|error| unwritable(&error))?;
    file.as_file().sync_all().map_err(|error| unwritable(&error))?;
    file.persist(&args.file).map_err(|error| unwritable(&error.error))?;
    Ok(Some((rows, missing)))
}

fn array(batch: &RecordBatch, field: &Field, columns: &Columns) -> Result<ArrayRef, Error> {
    let column = batch.column_by_name(field.name());
    let column = column.ok_or_else(|| unfit(&format!("no column `{}`", field.name())))?;
    match &columns.element {
        Some(element) if is_vector(field.data_type()) => vectors_as(column, element).map_err(|error| unfit(&error)),
        _ => Ok(column.clone()),
    }
}

/// Why there is no thumbnail: in words that many rows share, and in its own.
const fn reason(thumbnail: &Thumbnail) -> Option<(&'static str, &str)> {
    match thumbnail {
        Thumbnail::Jpeg(_) => None,
        Thumbnail::Gone => Some(("the picture is gone", "")),
        Thumbnail::Changed => Some(("the picture is not the one that the run read", "")),
        Thumbnail::Unreadable(why) => Some(("the picture cannot be read", why.as_str())),
    }
}
