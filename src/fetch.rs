//! Gets image bytes from where a row says they are.
//!
//! In: a path or `file://` URI and the folder it is relative to. Out: size first, then bytes, so that the caller can make room
//! in between. Every failure is a [`RowError`]. Never here: decoding.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{GetResult, ObjectStoreExt};

use crate::job::Limits;
use crate::paths;
use crate::row_error::{ErrorKind, RowError, Stage};

/// Opens images under the job's limits.
#[derive(Debug)]
pub struct Fetcher {
    store: LocalFileSystem,
    roots: Vec<PathBuf>,
    max_image_bytes: u64,
    timeout: Duration,
}

/// An image that exists and is small enough, not read yet.
#[derive(Debug)]
pub struct Object {
    /// Bytes it has.
    pub size: u64,
    /// Last modification, nanoseconds since 1970.
    pub modified_ns: i64,
    path: PathBuf,
    timeout: Duration,
    result: GetResult,
}

impl Fetcher {
    /// A fetcher for the job's limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            store: LocalFileSystem::new(),
            roots: limits.roots.clone(),
            max_image_bytes: limits.max_image_bytes,
            timeout: Duration::from_millis(limits.fetch_timeout_ms),
        }
    }

    /// Refuses an image of `size` bytes if that is more than `limits.max_image_bytes`.
    ///
    /// # Errors
    /// `too_large`.
    pub fn check_size(&self, size: u64) -> Result<(), RowError> {
        if size <= self.max_image_bytes {
            return Ok(());
        }
        let message =
            format!("expected at most {} bytes (`limits.max_image_bytes`), found {size}", self.max_image_bytes);
        Err(RowError::new(Stage::Fetch, ErrorKind::TooLarge, message))
    }

    /// Opens the image at `uri`, relative to `base`.
    ///
    /// # Errors
    /// `invalid_uri`, `forbidden`, `not_found`, `too_large`, `timeout` or `io`.
    pub async fn open(&self, uri: &str, base: &Path) -> Result<Object, RowError> {
        let path = self.resolve(uri, base)?;
        let location = ObjectPath::from_absolute_path(&path)
            .map_err(|error| RowError::new(Stage::Fetch, ErrorKind::InvalidUri, format!("{uri:?}: {error}")))?;
        let result = within(self.timeout, &path, self.store.get(&location)).await?;
        let size = result.meta.size;
        self.check_size(size)?;
        let modified_ns = result.meta.last_modified.timestamp_nanos_opt().unwrap_or(0);
        Ok(Object { size, modified_ns, path, timeout: self.timeout, result })
    }

    fn resolve(&self, uri: &str, base: &Path) -> Result<PathBuf, RowError> {
        let invalid = |message: String| RowError::new(Stage::Fetch, ErrorKind::InvalidUri, message);
        let path = match uri.split_once("://") {
            Some(("file", path)) => path,
            Some((scheme, _)) => {
                return Err(invalid(format!(
                    "{uri:?}: expected a local path or file:// URI; {scheme}:// is not supported yet"
                )));
            }
            None => uri,
        };
        if path.trim().is_empty() {
            return Err(invalid(format!("{uri:?}: expected a path, found nothing")));
        }
        let path = paths::join(base, path);
        if self.roots.is_empty() || self.roots.iter().any(|root| path.starts_with(root)) {
            return Ok(path);
        }
        let message = format!("{} lies in none of the folders of `limits.roots`", path.display());
        Err(RowError::new(Stage::Fetch, ErrorKind::Forbidden, message))
    }
}

impl Object {
    /// Reads it.
    ///
    /// # Errors
    /// `timeout` or `io`.
    pub async fn bytes(self) -> Result<Bytes, RowError> {
        within(self.timeout, &self.path, self.result.bytes()).await
    }
}

async fn within<T>(
    timeout: Duration,
    path: &Path,
    work: impl Future<Output = Result<T, object_store::Error>>,
) -> Result<T, RowError> {
    let Ok(outcome) = tokio::time::timeout(timeout, work).await else {
        let (shown, limit_ms) = (path.display(), timeout.as_millis());
        let message = format!("{shown}: no answer within {limit_ms} ms (`limits.fetch_timeout_ms`)");
        return Err(RowError::new(Stage::Fetch, ErrorKind::Timeout, message));
    };
    outcome.map_err(|error| explain(path, &error))
}

fn explain(path: &Path, error: &object_store::Error) -> RowError {
    use std::io::ErrorKind as Io;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut found = None;
    while let Some(error) = cause {
        found = found.or_else(|| error.downcast_ref::<std::io::Error>());
        cause = error.source();
    }
    let shown = path.display();
    let (kind, message) = match (error, found.map(std::io::Error::kind)) {
        (object_store::Error::NotFound { .. }, None | Some(Io::NotFound)) => {
            (ErrorKind::NotFound, format!("there is no file {shown}"))
        }
        (_, Some(Io::IsADirectory | Io::NotADirectory)) => (ErrorKind::NotFound, format!("{shown} is not a file")),
        (object_store::Error::PermissionDenied { .. }, _) | (_, Some(Io::PermissionDenied)) => {
            (ErrorKind::Forbidden, format!("this user may not read {shown}"))
        }
        (_, Some(Io::InvalidFilename)) => (ErrorKind::InvalidUri, format!("{shown} is no possible file name")),
        _ => {
            let reason = found.map_or_else(|| error.to_string(), ToString::to_string);
            (ErrorKind::Io, format!("cannot read {shown}: {reason}"))
        }
    };
    RowError::new(Stage::Fetch, kind, message)
}
