//! Manifests: Parquet files with one row for each image.
//!
//! In: the job's `[input]` and the files' footers. Out: a [`Manifest`] whose columns are known to exist with usable types,
//! a snapshot of the files for the plan, and their rows, streamed. Never here: image bytes from elsewhere than the manifest itself.
//!
//! Reading, in the order of the data: `listing` expands paths and globs, `source` opens a file, this file checks the columns, [`filter`]
//! evaluates `where` (`predicate` says what may stand in it, `frame` hands rows to polars), [`reader`] streams batches, [`row`] gives one row, `prompt` renders its
//! prompt, `unsigned` takes credentials out of carried URLs. Writing: [`folder`] finds the images
//! of a folder, [`mod@write`] makes a manifest of them, [`usual_names`] chooses the columns for a new job file.

mod column_types;
pub mod condition;
mod error;
pub mod filter;
pub mod folder;
mod frame;
mod int96;
mod listing;
mod pages;
mod partition;
mod predicate;
mod prompt;
pub mod reader;
pub mod row;
mod rows;
mod source;
mod table;
mod text;
pub mod types;
mod unsigned;
pub mod usual_names;
pub mod write;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

pub use self::error::ManifestError;
use self::folder::FolderListing;
use self::listing::{Found, expand};
pub use self::prompt::PromptTemplate;
use self::rows::Format;
use self::source::{FileVersion, Source, stat, storage_error};
use self::table::{FileColumns, Table};
use self::types::{carried_field, not_carried};
use crate::job::Job;
use crate::preprocess::has_image_extension;
use crate::storage::{Location, Storage};
use crate::support::redact;
use crate::support::untrusted_parquet::{check_metadata, guarded};

/// The record of a manifest file in a plan, which shows whether the file has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSnapshot {
    /// Absolute path or URI, without credentials.
    pub uri: String,
    /// Size in bytes.
    pub bytes: u64,
    /// The version: the `ETag`, or on disk the last modification in nanoseconds since 1970.
    pub version: String,
    /// Rows in it.
    pub rows: u64,
}

/// One manifest file with its footer.
#[derive(Debug)]
pub struct ManifestFile {
    /// The record in the plan.
    pub snapshot: FileSnapshot,
    /// Its location.
    pub location: Location,
    version: FileVersion,
    metadata: ArrowReaderMetadata,
    /// Where it has the columns of the manifest.
    columns: FileColumns,
    /// Kept open: rows come from the file that was planned, even if another file replaces it.
    source: Source,
}

impl ManifestFile {
    /// A file whose footer is read now, which gives the snapshot its rows.
    fn new(
        location: Location,
        snapshot: FileSnapshot,
        source: Source,
        version: FileVersion,
    ) -> Result<Self, ManifestError> {
        let metadata = load_metadata(&source).map_err(|source| {
            storage_error(&location, &source).unwrap_or(ManifestError::Parquet { path: location.to_string(), source })
        })?;
        let rows = metadata.metadata().file_metadata().num_rows().unsigned_abs();
        if rows > u64::from(u32::MAX) {
            return Err(ManifestError::TooManyRows { path: location.to_string(), rows });
        }
        let snapshot = FileSnapshot { rows, ..snapshot };
        let mut file = Self { snapshot, location, version, metadata, columns: FileColumns::default(), source };
        file.read_int96(|_| Some(TimeUnit::Microsecond))?;
        Ok(file)
    }

    /// The error of a row group that cannot be decoded.
    fn damaged(&self, row_group: usize, source: ArrowError) -> ManifestError {
        let path = self.location.to_string();
        if let ArrowError::CastError(message) = source {
            return ManifestError::Inexact { path, message };
        }
        storage_error(&self.location, &source).unwrap_or(ManifestError::Damaged { path, row_group, source })
    }

    /// The error of a row group that ends early.
    fn cut_off(&self, row_group: usize, missing: i64) -> ManifestError {
        let what = format!("expected {missing} more rows than its pages hold");
        self.damaged(row_group, ParquetError::EOF(what).into())
    }

    /// The error of a file that is no readable Parquet.
    fn unreadable(&self, source: ParquetError) -> ManifestError {
        let path = self.location.to_string();
        storage_error(&self.location, &source).unwrap_or(ManifestError::Parquet { path, source })
    }

    /// Has its `INT96` columns read in the unit that `unit` gives for them; None: as before.
    fn read_int96(&mut self, unit: impl Fn(usize) -> Option<TimeUnit>) -> Result<(), ManifestError> {
        let before = self.metadata.schema().clone();
        let of_root = |root: usize| match before.field(root).data_type() {
            DataType::Timestamp(before, _) => unit(root).unwrap_or(*before),
            _ => TimeUnit::Nanosecond,
        };
        let Some(schema) = int96::schema_with(&before, self.metadata.metadata(), of_root) else { return Ok(()) };
        let options = ArrowReaderOptions::new().with_schema(schema);
        let metadata = self.metadata.metadata().clone();
        self.metadata =
            guarded(|| ArrowReaderMetadata::try_new(metadata, options)).map_err(|source| self.unreadable(source))?;
        Ok(())
    }

    /// A handle for reading the column chunks at `chunks`, if the file has not changed since its footer was read.
    ///
    /// # Errors
    /// [`ManifestError::Changed`].
    fn reopen(&self, chunks: Vec<Range<u64>>) -> Result<Source, ManifestError> {
        self.source.reopen(&self.location, &self.version, chunks)
    }
}

/// The form of the image column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageColumn {
    /// Paths or URIs, relative to the manifest file's folder.
    Uri,
    /// The encoded bytes themselves.
    Bytes,
    /// The Hugging Face struct `{bytes, path}`.
    Struct,
}

/// The manifest files of a job, opened, with the job's columns found in them.
#[derive(Debug)]
pub struct Manifest {
    /// In the order of the job, globs sorted by name.
    pub files: Vec<ManifestFile>,
    /// Index of the key column in the files' schema.
    pub key: usize,
    /// Index and kind of the image column.
    pub image: Option<(usize, ImageColumn)>,
    /// Index of the text column.
    pub text: Option<usize>,
    /// The template of the rows' prompts; None: all rows have the same prompt, or none.
    pub prompt: Option<Arc<PromptTemplate>>,
    /// Indexes of the columns that change when a row's content does; empty: the job names none.
    pub signature: Vec<usize>,
    /// Indexes of the columns carried into the output, in output order.
    pub carried: Vec<usize>,
    /// The columns of all files.
    pub schema: SchemaRef,
    table: Table,
    /// The fields as which columns are carried.
    carried_fields: Vec<Field>,
}

impl Manifest {
    /// Opens every file that `patterns` name, for the column `key` only; `setting` is the option that names the column.
    ///
    /// # Errors
    /// As [`Manifest::open`].
    pub fn open_keys(
        patterns: &[Location],
        setting: &'static str,
        key: &str,
        storage: &Arc<Storage>,
    ) -> Result<Self, ManifestError> {
        let (files, table) = open_files(patterns, storage)?;
        let schema = table.schema.clone();
        let columns = Columns { path: &files[0].location, schema: &schema, table: &table };
        let key = columns.find(setting, key)?;
        columns.check(key, setting, "a string or integer column", is_key)?;
        let (image, text, prompt) = (None, None, None);
        let (signature, carried, carried_fields) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { files, key, image, text, prompt, signature, carried, schema, table, carried_fields })
    }

    /// This manifest, opened for its keys, with `column` as the only one that is carried; `setting` is the option that names it, and
    /// `fits` tells the types that are `expected`.
    ///
    /// # Errors
    /// When there is no such column, it has another type, or files differ in it.
    pub fn carrying(
        self,
        setting: &'static str,
        column: &str,
        expected: &'static str,
        fits: fn(&DataType) -> bool,
    ) -> Result<Self, ManifestError> {
        let columns = Columns { path: &self.files[0].location, schema: &self.schema, table: &self.table };
        let index = columns.find(setting, column)?;
        columns.check(index, setting, expected, fits)?;
        let carried_fields = vec![carried_field(self.schema.field(index))];
        Ok(Self { carried: vec![index], carried_fields, ..self })
    }

    /// Of a manifest that was opened for its keys only: reads the images of the column `name` too.
    ///
    /// # Errors
    /// [`ManifestError`] when there is no such column, or it cannot hold images.
    pub fn with_images(mut self, name: &str) -> Result<Self, ManifestError> {
        let columns = Columns { path: &self.files[0].location, schema: &self.schema, table: &self.table };
        self.image = Some(columns.image(name)?);
        Ok(self)
    }

    /// Opens every file that `job.input.manifest` names and finds the job's columns.
    ///
    /// # Errors
    /// Any [`ManifestError`] but [`ManifestError::Predicate`].
    pub fn open(job: &Job, storage: &Arc<Storage>) -> Result<Self, ManifestError> {
        let Self { mut files, key, schema, table, .. } =
            Self::open_keys(&job.input.manifest, "input.key", &job.input.key, storage)?;
        let columns = Columns { path: &files[0].location, schema: &schema, table: &table };
        let image = match &job.input.image {
            None => None,
            Some(name) => Some(columns.image(name)?),
        };
        let text = match &job.input.text {
            None => None,
            Some(name) => {
                let index = columns.find("input.text", name)?;
                columns.check(index, "input.text", "a string column", is_string)?;
                Some(index)
            }
        };
        let signature = job.input.signature.iter().map(|name| {
            let index = columns.find("input.signature", name)?;
            let expected = "a column of text, numbers, times or booleans";
            columns.check(index, "input.signature", expected, is_plain)?;
            Ok(index)
        });
        let signature = signature.collect::<Result<_, ManifestError>>()?;
        let template = job.generation.prompt_template();
        let prompt = template.map(|template| columns.prompt(template).map(Arc::new)).transpose()?;
        let carried = columns.carried(job.output.columns.as_deref(), key, image)?;
        let read = carried.iter().chain(&signature).copied();
        let read = read.chain(prompt.iter().flat_map(|prompt| prompt.columns.iter().map(|(_, index)| *index)));
        let schema = read_int96_exactly(&mut files, &schema, &read.collect())?;
        let carried_fields = carried.iter().map(|&index| carried_field(schema.field(index))).collect();
        Ok(Self { files, key, image, text, prompt, signature, carried, schema, table, carried_fields })
    }

    /// Carries what an OUTPUT with the columns `recorded` has, in its order and with its types; each is a name and a type as Arrow writes
    /// it. Which columns are left out because OUTPUT does not have them.
    pub fn fit(&mut self, recorded: &[String]) -> Vec<String> {
        let found = |column: &String, field: &Field| {
            let kind = column.strip_prefix(field.name().as_str())?.strip_prefix(' ')?;
            let theirs = kind.trim_end_matches(" not null").parse::<DataType>().ok();
            let word = |kind: &str| kind.split(['(', ' ']).next().map(str::to_owned);
            // A name may hold blanks, and end with what looks like a type.
            (theirs.is_some() || word(kind) == word(&field.data_type().to_string())).then_some(theirs)
        };
        let place = |field: &Field| recorded.iter().position(|column| found(column, field).is_some());
        let columns = std::mem::take(&mut self.carried).into_iter().zip(std::mem::take(&mut self.carried_fields));
        let (mut kept, left_out): (Vec<_>, Vec<_>) =
            columns.partition(|(index, field)| *index == self.key || place(field).is_some());
        // The key comes first where OUTPUT does not have it, which is refused later.
        kept.sort_by_key(|(_, field)| place(field));
        for (index, field) in &mut kept {
            let source = self.schema.field(*index).data_type();
            let theirs = recorded.iter().find_map(|column| found(column, field)).flatten();
            if let Some(theirs) = theirs.filter(|theirs| types::is_same_kind(source, theirs)) {
                *field = field.clone().with_data_type(theirs);
            }
        }
        (self.carried, self.carried_fields) = kept.into_iter().unzip();
        left_out.into_iter().map(|(_, field)| field.name().clone()).collect()
    }

    /// Refuses column `index` if the manifest's files differ in it, or if it has the name of another.
    fn check_use(&self, index: usize) -> Result<(), ManifestError> {
        self.table.check(index)
    }

    /// Whether, by the statistics of the files, some rows may hold a path and others image bytes.
    #[must_use]
    pub fn may_mix_paths_and_bytes(&self) -> bool {
        let Some((index, ImageColumn::Struct)) = self.image else { return false };
        let name = self.schema.field(index).name();
        let chunks = self
            .files
            .iter()
            .flat_map(|file| file.metadata.metadata().row_groups())
            .flat_map(RowGroupMetaData::columns);
        let mut bytes = chunks
            .filter(|chunk| matches!(chunk.column_path().parts(), [root, leaf] if root == name && leaf == "bytes"));
        bytes.any(|chunk| chunk.statistics().and_then(Statistics::null_count_opt) != Some(0))
    }

    /// The fields of the carried columns. Always nullable: one file's columns may have nulls where another's are declared to have none.
    #[must_use]
    pub fn carried_fields(&self) -> Vec<Field> {
        self.carried_fields.clone()
    }
}

/// The schema of the files that `patterns` name, and the first of them; a folder of images is none.
///
/// # Errors
/// As [`Manifest::open_keys`].
pub fn read_schema(patterns: &[Location], storage: &Arc<Storage>) -> Result<(Location, SchemaRef), ManifestError> {
    if let Some(Found::Images(folder)) =
        expand(patterns, storage)?.iter().find(|found| matches!(found, Found::Images(_)))
    {
        return Err(ManifestError::NotFound { pattern: folder.to_string() });
    }
    let (mut files, table) = open_files(patterns, storage)?;
    Ok((files.swap_remove(0).location, table.schema))
}

/// Opens every file that `patterns` name: at least one.
fn open_files(patterns: &[Location], storage: &Arc<Storage>) -> Result<(Vec<ManifestFile>, Table), ManifestError> {
    let files = expand(patterns, storage)?.into_iter();
    let open = |found| match found {
        Found::Images(folder) => open_folder(folder, storage),
        Found::File(file) => match Format::of(&file) {
            Some(format) => open_rows(file, format, storage),
            None => open_file(file, storage),
        },
    };
    let mut files = files.map(open).collect::<Result<Vec<_>, _>>()?;
    if files.is_empty() {
        return Err(ManifestError::NotFound { pattern: "an empty list".to_owned() });
    }
    let opened: Vec<_> = files.iter().map(|file| (&file.location, &file.metadata)).collect();
    let (table, columns) = Table::of(&opened);
    files.iter_mut().zip(columns).for_each(|(file, columns)| file.columns = columns);
    Ok((files, table))
}

/// Has the `INT96` columns among `columns` read in a unit of time that holds every value of them; the schema, with these types.
fn read_int96_exactly(
    files: &mut [ManifestFile],
    schema: &SchemaRef,
    columns: &BTreeSet<usize>,
) -> Result<SchemaRef, ManifestError> {
    let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    for &column in columns {
        let of_file = |file: &ManifestFile| {
            file.columns.root(column).filter(|root| int96::is_in(file.metadata.metadata(), *root))
        };
        let (mut needs, mut is_nested) = (int96::Needs::default(), false);
        let mut example = None;
        for file in files.iter() {
            let Some(root) = of_file(file) else { continue };
            let pages = Arc::new(file.reopen(Vec::new())?);
            let found =
                int96::look(&pages, file.metadata.metadata(), root).map_err(|source| file.unreadable(source))?;
            needs = needs.and(found);
            is_nested |= file.metadata.schema().field(root).data_type().is_nested();
            example = example.or_else(|| (needs.years).then(|| file.location.to_string()));
        }
        if needs.unreachable || needs.years && (needs.nanoseconds || is_nested) {
            return Err(ManifestError::Years {
                column: fields[column].name().clone(),
                path: example.unwrap_or_default(),
            });
        }
        if !needs.nanoseconds {
            continue;
        }
        for file in files.iter_mut() {
            let Some(wanted) = of_file(file) else { continue };
            file.read_int96(|root| if root == wanted { Some(TimeUnit::Nanosecond) } else { None })?;
            fields[column] =
                fields[column].clone().with_data_type(file.metadata.schema().field(wanted).data_type().clone());
        }
    }
    Ok(table::schema_of(fields))
}

fn open_file(location: Location, storage: &Arc<Storage>) -> Result<ManifestFile, ManifestError> {
    let (source, version) = Source::open(&location, storage)?;
    let snapshot = FileSnapshot {
        uri: redact::uri(&location.to_string()).into_owned(),
        bytes: version.bytes,
        version: version.mark.clone(),
        rows: 0,
    };
    ManifestFile::new(location, snapshot, source, version)
}

/// Opens a file of text as the Parquet file that it is converted into.
fn open_rows(location: Location, format: Format, storage: &Arc<Storage>) -> Result<ManifestFile, ManifestError> {
    let (source, version) = Source::open(&location, storage)?;
    let refuse = |why: String| ManifestError::Rows { path: location.to_string(), why };
    let converted = temporary().map_err(|source| ManifestError::Io { path: location.to_string(), source })?;
    let whole = Range { start: 0, end: source.len() };
    let open = || {
        let again = source.reopen(&location, &version, vec![whole.clone()]).map_err(|error| error.to_string())?;
        again.get_read(0).map_err(|error| error.to_string())
    };
    let again = converted.try_clone().map_err(|source| ManifestError::Io { path: location.to_string(), source })?;
    rows::convert(format, open, again).map_err(refuse)?;
    // Not another version: what was read may be of both.
    source.reopen(&location, &version, Vec::new())?;
    let snapshot = FileSnapshot {
        uri: redact::uri(&location.to_string()).into_owned(),
        bytes: version.bytes,
        version: version.mark,
        rows: 0,
    };
    of_temporary(location, snapshot, converted)
}

/// Opens a folder of images as the Parquet file that `nightcap manifest` would write, with whole paths.
fn open_folder(folder: Location, storage: &Arc<Storage>) -> Result<ManifestFile, ManifestError> {
    let path = folder.to_string();
    let listed = match folder.local() {
        Some(path) => FolderListing::local(path, has_image_extension, false, &|| false).map(Option::unwrap_or_default),
        None => FolderListing::remote(&folder, storage, has_image_extension),
    };
    let listed = listed.map_err(|source| ManifestError::Folder { source })?;
    for what in listed.left_out.missed() {
        tracing::warn!("left out: {what}");
    }
    let below = |image: &str| format!("{}/{image}", path.trim_end_matches('/'));
    let bytes =
        write::encode(&listed.images, below).map_err(|source| ManifestError::Parquet { path: path.clone(), source })?;
    let snapshot = FileSnapshot {
        uri: redact::uri(&path).into_owned(),
        bytes: bytes.len() as u64,
        version: blake3::hash(&bytes).to_hex()[..32].to_owned(),
        rows: 0,
    };
    let io = |source| ManifestError::Io { path: path.clone(), source };
    let mut file = temporary().map_err(io)?;
    std::io::Write::write_all(&mut file, &bytes).map_err(io)?;
    of_temporary(folder, snapshot, file)
}

/// A file without a name, which is gone when it is closed.
fn temporary() -> std::io::Result<std::fs::File> {
    tempfile::tempfile()
}

fn of_temporary(
    location: Location,
    snapshot: FileSnapshot,
    file: std::fs::File,
) -> Result<ManifestFile, ManifestError> {
    let version = stat(&file).map_err(|source| ManifestError::Io { path: location.to_string(), source })?;
    ManifestFile::new(location, snapshot, Source::Local(file), version)
}

/// Reads a footer, and checks what readers rely on.
fn load_metadata(source: &Source) -> Result<ArrowReaderMetadata, ParquetError> {
    source.check_footer()?;
    let metadata = guarded(|| ArrowReaderMetadata::load(source, ArrowReaderOptions::new()))?;
    check_metadata(metadata.metadata(), source.len())?;
    Ok(metadata)
}

/// Looks the job's columns up in one schema.
struct Columns<'a> {
    path: &'a Location,
    schema: &'a Arc<Schema>,
    table: &'a Table,
}

impl Columns<'_> {
    fn find(&self, setting: &'static str, column: &str) -> Result<usize, ManifestError> {
        self.schema.index_of(column).map_err(|_| ManifestError::MissingColumn {
            setting,
            column: column.to_owned(),
            path: self.path.to_string(),
            available: self.schema.fields().iter().map(|field| field.name().clone()).collect(),
        })
    }

    fn check(
        &self,
        index: usize,
        setting: &'static str,
        expected: &'static str,
        fits: fn(&DataType) -> bool,
    ) -> Result<(), ManifestError> {
        let field = self.schema.field(index);
        if self.table.is_ambiguous(index) {
            let (column, path) = (field.name().clone(), self.path.to_string());
            return Err(ManifestError::Ambiguous { setting, column, path });
        }
        if fits(field.data_type()) {
            return self.table.check(index);
        }
        Err(ManifestError::ColumnType {
            setting,
            column: field.name().clone(),
            path: self.path.to_string(),
            expected,
            found: field.data_type().clone(),
        })
    }

    fn image(&self, name: &str) -> Result<(usize, ImageColumn), ManifestError> {
        let index = self.find("input.image", name)?;
        let kind = match self.schema.field(index).data_type() {
            kind if is_string(kind) => ImageColumn::Uri,
            kind if is_binary(kind) => ImageColumn::Bytes,
            _ => ImageColumn::Struct,
        };
        let expected = "a string column (paths), a binary column (image bytes) or a struct {bytes, path}";
        self.check(index, "input.image", expected, is_image)?;
        Ok((index, kind))
    }

    fn prompt(&self, template: &str) -> Result<PromptTemplate, ManifestError> {
        const SETTING: &str = "generation.prompt";
        let find = |name: &str| {
            let index = self.find(SETTING, name)?;
            self.check(index, SETTING, "a column of text, numbers, times or booleans", is_plain)?;
            Ok(index)
        };
        PromptTemplate::new(template, find, |why| ManifestError::Prompt { template: template.to_owned(), why })
    }

    /// The job's `output.columns` (or every column but image bytes), with the key in any case.
    fn carried(
        &self,
        asked: Option<&[String]>,
        key: usize,
        image: Option<(usize, ImageColumn)>,
    ) -> Result<Vec<usize>, ManifestError> {
        let is_carried = |kind: &DataType| not_carried(kind).is_none();
        let Some(asked) = asked else {
            let image_bytes = image.filter(|(_, kind)| *kind != ImageColumn::Uri).map(|(index, _)| index);
            // The folder that nightcap itself writes its parts into, when OUTPUT is the manifest of another job.
            let is_run = |index: usize| self.table.in_paths[index] && self.schema.field(index).name() == "run";
            let all = (0..self.schema.fields().len()).filter(|&index| Some(index) != image_bytes && !is_run(index));
            let (carried, not): (Vec<usize>, Vec<usize>) =
                all.partition(|&index| is_carried(self.schema.field(index).data_type()));
            for index in not {
                let field = self.schema.field(index);
                let why = not_carried(field.data_type()).unwrap_or_default();
                tracing::warn!(
                    "column `{}` of the manifest is not carried: it holds {why}; `output.columns` says which columns are",
                    field.name()
                );
            }
            carried.iter().try_for_each(|&index| self.table.check(index))?;
            return Ok(carried);
        };
        let mut carried = Vec::new();
        for name in asked {
            let index = self.find("output.columns", name)?;
            let expected = "a type that Arrow and Parquet hold without loss";
            self.check(index, "output.columns", expected, |kind| not_carried(kind).is_none())?;
            if !carried.contains(&index) {
                carried.push(index);
            }
        }
        if !carried.contains(&key) {
            carried.insert(0, key);
        }
        Ok(carried)
    }
}

fn is_string(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_string(value),
        _ => false,
    }
}

fn is_binary(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// Whether a value can be an image: its path or URI, its bytes, or the Hugging Face struct `{bytes, path}`.
fn is_image(kind: &DataType) -> bool {
    match kind {
        DataType::Struct(fields) => {
            fields.iter().any(|field| field.name() == "bytes" && is_binary(field.data_type()))
                && fields.iter().all(|field| field.name() != "path" || is_string(field.data_type()))
        }
        other => is_string(other) || is_binary(other),
    }
}

/// Whether a value can be compared as text.
fn is_plain(kind: &DataType) -> bool {
    match kind {
        DataType::Interval(_) => false,
        kind => is_string(kind) || kind.is_numeric() || kind.is_temporal() || *kind == DataType::Boolean,
    }
}

fn is_key(kind: &DataType) -> bool {
    is_string(kind) || kind.is_integer()
}
