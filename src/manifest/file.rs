//! One manifest file: its footer, its version, and handles that read it while it is that version.

use std::ops::Range;

use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::reader::Length;
use serde::{Deserialize, Serialize};

use super::error::ManifestError;
use super::int96;
use super::source::{FileVersion, Source, storage_error};
use super::table::FileColumns;
use crate::storage::Location;
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

impl FileSnapshot {
    /// The record of a file whose rows are not counted yet.
    pub(super) fn unread(location: &Location, bytes: u64, version: String) -> Self {
        Self { uri: redact::uri(&location.to_string()).into_owned(), bytes, version, rows: 0 }
    }
}

/// One manifest file with its footer.
#[derive(Debug)]
pub struct ManifestFile {
    /// The record in the plan.
    pub snapshot: FileSnapshot,
    /// Its location.
    pub location: Location,
    pub(super) version: FileVersion,
    pub(super) metadata: ArrowReaderMetadata,
    /// Where it has the columns of the manifest.
    pub(super) columns: FileColumns,
    /// Kept open: rows come from the file that was planned, even if another file replaces it.
    pub(super) source: Source,
}

impl ManifestFile {
    /// A file whose footer is read now, which gives the snapshot its rows.
    pub(super) fn new(
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
    pub(super) fn damaged(&self, row_group: usize, source: ArrowError) -> ManifestError {
        let path = self.location.to_string();
        if let ArrowError::CastError(message) = source {
            return ManifestError::Inexact { path, message };
        }
        storage_error(&self.location, &source).unwrap_or(ManifestError::Damaged { path, row_group, source })
    }

    /// The error of a row group that ends early.
    pub(super) fn cut_off(&self, row_group: usize, missing: i64) -> ManifestError {
        let what = format!("expected {missing} more rows than its pages hold");
        self.damaged(row_group, ParquetError::EOF(what).into())
    }

    /// The error of a file that is no readable Parquet.
    pub(super) fn unreadable(&self, source: ParquetError) -> ManifestError {
        let path = self.location.to_string();
        storage_error(&self.location, &source).unwrap_or(ManifestError::Parquet { path, source })
    }

    /// Has its `INT96` columns read in the unit that `unit` gives for them; None: as before.
    pub(super) fn read_int96(&mut self, unit: impl Fn(usize) -> Option<TimeUnit>) -> Result<(), ManifestError> {
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
    pub(super) fn reopen(&self, chunks: Vec<Range<u64>>) -> Result<Source, ManifestError> {
        self.source.reopen(&self.location, &self.version, chunks)
    }
}

/// Reads a footer, and checks what readers rely on.
fn load_metadata(source: &Source) -> Result<ArrowReaderMetadata, ParquetError> {
    source.check_footer()?;
    let metadata = guarded(|| ArrowReaderMetadata::load(source, ArrowReaderOptions::new()))?;
    check_metadata(metadata.metadata(), source.len())?;
    Ok(metadata)
}
