//! Manifests: the Parquet files that name the images, one row an image.
//!
//! In: the job's `[input]` and the files' footers. Out: a [`Manifest`] whose columns are known to exist with usable types,
//! a snapshot of the files for the plan, and (in [`reader`]) their rows, streamed. Never here: image bytes from elsewhere
//! than the manifest itself.

mod error;
pub mod filter;
pub mod reader;
pub mod row;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use serde::{Deserialize, Serialize};

pub use self::error::ManifestError;
use crate::job::Job;

/// What a plan remembers of a manifest file, to notice that it changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSnapshot {
    /// Absolute path.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Last modification, nanoseconds since 1970.
    pub modified_ns: i64,
    /// Rows in it.
    pub rows: u64,
}

/// One manifest file with its footer.
#[derive(Debug)]
pub struct ManifestFile {
    /// What the plan remembers.
    pub snapshot: FileSnapshot,
    metadata: ArrowReaderMetadata,
    /// Held open, so that rows come from the file that was planned even if another takes its name.
    file: File,
}

impl ManifestFile {
    /// The open file, if nobody has written to it since the footer was read.
    ///
    /// # Errors
    /// [`ManifestError::Changed`].
    fn unchanged(&self) -> Result<File, ManifestError> {
        let path = || self.snapshot.path.clone();
        let io = |source| ManifestError::Io { path: path(), source };
        let (bytes, modified_ns) = stat(&self.file).map_err(io)?;
        if (bytes, modified_ns) != (self.snapshot.bytes, self.snapshot.modified_ns) {
            return Err(ManifestError::Changed { path: path() });
        }
        self.file.try_clone().map_err(io)
    }
}

/// How the image column holds its images.
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
    /// Indexes of the columns that change when a row's content does; empty: the job names none.
    pub signature: Vec<usize>,
    /// Indexes of the columns carried into the output, in output order.
    pub carried: Vec<usize>,
    /// The files' schema.
    pub schema: SchemaRef,
}

impl Manifest {
    /// Opens every file that `job.input.manifest` names and finds the job's columns.
    ///
    /// # Errors
    /// Any [`ManifestError`] but [`ManifestError::Predicate`].
    pub fn open(job: &Job) -> Result<Self, ManifestError> {
        let files = expand(&job.input.manifest)?.into_iter().map(open_file).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = files.first() else {
            return Err(ManifestError::NotFound { pattern: job.input.manifest.join(", ") });
        };
        let schema = first.metadata.schema().clone();
        for file in &files[1..] {
            same_schema(first, file)?;
        }
        let columns = Columns { path: &first.snapshot.path, schema: &schema };
        let key = columns.find("input.key", &job.input.key)?;
        columns.check(key, "input.key", "a string or integer column", is_key)?;
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
        let carried = columns.carried(job.output.columns.as_deref(), key, image)?;
        Ok(Self { files, key, image, text, signature, carried, schema })
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

/// Every file that the patterns name: files as they are, folders for their `*.parquet`, globs expanded and sorted.
fn expand(patterns: &[String]) -> Result<Vec<PathBuf>, ManifestError> {
    let mut files = Vec::new();
    for pattern in patterns {
        let path = Path::new(pattern);
        if path.is_file() {
            files.push(path.to_owned());
            continue;
        }
        let glob_text =
            if path.is_dir() { format!("{}/*.parquet", glob::Pattern::escape(pattern)) } else { pattern.clone() };
        let matches =
            glob::glob(&glob_text).map_err(|source| ManifestError::Glob { pattern: pattern.clone(), source })?;
        let before = files.len();
        for found in matches {
            files.push(found.map_err(|e| ManifestError::Io { path: e.path().to_owned(), source: e.into() })?);
        }
        if files.len() == before {
            return Err(ManifestError::NotFound { pattern: pattern.clone() });
        }
    }
    let mut seen = HashSet::new();
    match files.iter().find(|path| !seen.insert(*path)) {
        Some(path) => Err(ManifestError::ListedTwice { path: path.clone() }),
        None => Ok(files),
    }
}

fn open_file(path: PathBuf) -> Result<ManifestFile, ManifestError> {
    let io = |source| ManifestError::Io { path: path.clone(), source };
    let file = File::open(&path).map_err(io)?;
    let (bytes, modified_ns) = stat(&file).map_err(io)?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
        .map_err(|source| ManifestError::Parquet { path: path.clone(), source })?;
    let rows = u64::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or(0);
    if rows > u64::from(u32::MAX) {
        return Err(ManifestError::TooManyRows { path, rows });
    }
    Ok(ManifestFile { snapshot: FileSnapshot { path, bytes, modified_ns, rows }, metadata, file })
}

/// Size in bytes and time of last modification in nanoseconds since 1970.
fn stat(file: &File) -> std::io::Result<(u64, i64)> {
    let stat = file.metadata()?;
    let modified = stat.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok((stat.len(), i64::try_from(modified.as_nanos()).unwrap_or(i64::MAX)))
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
                path: file.snapshot.path.clone(),
                first: first.snapshot.path.clone(),
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
    path: &'a Path,
    schema: &'a Arc<Schema>,
}

impl Columns<'_> {
    fn find(&self, setting: &'static str, column: &str) -> Result<usize, ManifestError> {
        self.schema.index_of(column).map_err(|_| ManifestError::MissingColumn {
            setting,
            column: column.to_owned(),
            path: self.path.to_owned(),
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
            path: self.path.to_owned(),
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
        let fits = |kind: &DataType| match kind {
            DataType::Struct(fields) => {
                fields.iter().any(|field| field.name() == "bytes" && is_binary(field.data_type()))
                    && fields.iter().all(|field| field.name() != "path" || is_string(field.data_type()))
            }
            other => is_string(other) || is_binary(other),
        };
        let expected = "a string column (paths), a binary column (image bytes) or a struct {bytes, path}";
        self.check(index, "input.image", expected, fits)?;
        Ok((index, kind))
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

/// Whether a value can be compared as text.
fn is_plain(kind: &DataType) -> bool {
    is_string(kind) || kind.is_numeric() || kind.is_temporal() || *kind == DataType::Boolean
}

fn is_key(kind: &DataType) -> bool {
    is_string(kind) || kind.is_integer()
}
