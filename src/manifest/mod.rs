//! Manifests: Parquet files with one row for each image.
//!
//! In: the job's `[input]` and the files' footers. Out: a [`Manifest`] whose columns are known to exist with usable types,
//! a snapshot of the files for the plan, and their rows, streamed. Never here: image bytes from elsewhere than the manifest itself.
//!
//! Reading, in the order of the data: `listing` expands paths and globs, `source` opens a file, this file checks the columns, [`filter`]
//! evaluates `where` (`predicate` says what may stand in it), [`reader`] streams batches, [`row`] gives one row, `prompt` renders its
//! prompt, `unsigned` takes credentials out of carried URLs. Writing: [`folder`] finds the images
//! of a folder, [`mod@write`] makes a manifest of them, [`usual_names`] chooses the columns for a new job file.

pub mod condition;
mod error;
pub mod filter;
pub mod folder;
mod listing;
mod predicate;
mod prompt;
pub mod reader;
pub mod row;
mod source;
mod text;
mod unsigned;
pub mod usual_names;
pub mod write;

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::Length;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

pub use self::error::ManifestError;
use self::listing::expand;
pub use self::prompt::PromptTemplate;
use self::source::{FileVersion, Source, storage_error};
use crate::job::Job;
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
    /// Kept open: rows come from the file that was planned, even if another file replaces it.
    source: Source,
}

impl ManifestFile {
    /// The error of a row group that cannot be decoded.
    fn damaged(&self, row_group: usize, source: ArrowError) -> ManifestError {
        let path = self.location.to_string();
        storage_error(&self.location, &source).unwrap_or(ManifestError::Damaged { path, row_group, source })
    }

    /// The error of a row group that ends early.
    fn cut_off(&self, row_group: usize, missing: i64) -> ManifestError {
        let what = format!("expected {missing} more rows than its pages hold");
        self.damaged(row_group, ParquetError::EOF(what).into())
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
    /// The files' schema.
    pub schema: SchemaRef,
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
        let (files, schema) = open_files(patterns, storage)?;
        let columns = Columns { path: &files[0].location, schema: &schema };
        let key = columns.find(setting, key)?;
        columns.check(key, setting, "a string or integer column", is_key)?;
        let (image, text, prompt) = (None, None, None);
        Ok(Self { files, key, image, text, prompt, signature: Vec::new(), carried: Vec::new(), schema })
    }

    /// Opens every file that `job.input.manifest` names and finds the job's columns.
    ///
    /// # Errors
    /// Any [`ManifestError`] but [`ManifestError::Predicate`].
    pub fn open(job: &Job, storage: &Arc<Storage>) -> Result<Self, ManifestError> {
        let Self { files, key, schema, .. } =
            Self::open_keys(&job.input.manifest, "input.key", &job.input.key, storage)?;
        let columns = Columns { path: &files[0].location, schema: &schema };
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
        Ok(Self { files, key, image, text, prompt, signature, carried, schema })
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

    /// The fields of the carried columns, without the files' own metadata.
    #[must_use]
    pub fn carried_fields(&self) -> Vec<Field> {
        let plain = |&index: &usize| {
            let field = self.schema.field(index);
            // Always nullable: one file's columns may have nulls where another's are declared to have none.
            Field::new(field.name(), field.data_type().clone(), true)
        };
        self.carried.iter().map(plain).collect()
    }
}

/// The schema of the files that `patterns` name, and the first of them.
///
/// # Errors
/// As [`Manifest::open_keys`].
pub fn read_schema(patterns: &[Location], storage: &Arc<Storage>) -> Result<(Location, SchemaRef), ManifestError> {
    let (mut files, schema) = open_files(patterns, storage)?;
    Ok((files.swap_remove(0).location, schema))
}

/// Opens every file that `patterns` name: at least one, all of one schema.
fn open_files(patterns: &[Location], storage: &Arc<Storage>) -> Result<(Vec<ManifestFile>, SchemaRef), ManifestError> {
    let files = expand(patterns, storage)?.into_iter();
    let files = files.map(|file| open_file(file, storage)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = files.first() else {
        return Err(ManifestError::NotFound { pattern: "an empty list".to_owned() });
    };
    let schema = first.metadata.schema().clone();
    for file in &files[1..] {
        same_schema(first, file)?;
    }
    Ok((files, schema))
}

fn open_file(location: Location, storage: &Arc<Storage>) -> Result<ManifestFile, ManifestError> {
    let (source, version) = Source::open(&location, storage)?;
    let metadata = load_metadata(&source).map_err(|source| {
        storage_error(&location, &source).unwrap_or(ManifestError::Parquet { path: location.to_string(), source })
    })?;
    let rows = metadata.metadata().file_metadata().num_rows().unsigned_abs();
    if rows > u64::from(u32::MAX) {
        return Err(ManifestError::TooManyRows { path: location.to_string(), rows });
    }
    let snapshot = FileSnapshot {
        uri: redact::uri(&location.to_string()).into_owned(),
        bytes: version.bytes,
        version: version.mark.clone(),
        rows,
    };
    Ok(ManifestFile { snapshot, location, version, metadata, source })
}

/// Reads a footer, and checks what readers rely on.
fn load_metadata(source: &Source) -> Result<ArrowReaderMetadata, ParquetError> {
    source.check_footer()?;
    let metadata = guarded(|| ArrowReaderMetadata::load(source, ArrowReaderOptions::new()))?;
    check_metadata(metadata.metadata(), source.len())?;
    Ok(metadata)
}

fn same_schema(first: &ManifestFile, file: &ManifestFile) -> Result<(), ManifestError> {
    let (expected, found) = (first.metadata.schema(), file.metadata.schema());
    let longest = expected.fields().len().max(found.fields().len());
    for index in 0..longest {
        let describe = |schema: &Schema| match schema.fields().get(index) {
            Some(field) => (field.name().clone(), format!("`{}` {}", field.name(), field.data_type())),
            None => (String::new(), "no such column".to_owned()),
        };
        let ((name, expected), (other, found)) = (describe(expected), describe(found));
        if expected != found {
            return Err(ManifestError::Mixed {
                path: file.location.to_string(),
                first: first.location.to_string(),
                column: if name.is_empty() { other } else { name },
                found,
                expected,
            });
        }
    }
    Ok(())
}

/// Looks the job's columns up in one schema.
struct Columns<'a> {
    path: &'a Location,
    schema: &'a Arc<Schema>,
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
        if fits(field.data_type()) {
            return Ok(());
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
        let Some(asked) = asked else {
            let image_bytes = image.filter(|(_, kind)| *kind != ImageColumn::Uri).map(|(index, _)| index);
            return Ok((0..self.schema.fields().len()).filter(|&index| Some(index) != image_bytes).collect());
        };
        let mut carried = Vec::new();
        for name in asked {
            let index = self.find("output.columns", name)?;
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
    is_string(kind) || kind.is_numeric() || kind.is_temporal() || *kind == DataType::Boolean
}

fn is_key(kind: &DataType) -> bool {
    is_string(kind) || kind.is_integer()
}
