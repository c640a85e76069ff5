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
use crate::paths::{self, NotLocal};
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
        let path = resolve(uri, base)?;
        self.check_file(&path).await?;
        let location = ObjectPath::from_absolute_path(&path)
            .map_err(|error| RowError::new(Stage::Fetch, ErrorKind::InvalidUri, format!("{uri:?}: {error}")))?;
        let get = self.store.get(&location);
        let result = within(self.timeout, &path, async { get.await.map_err(|error| explain(&path, &error)) }).await?;
        let size = result.meta.size;
        self.check_size(size)?;
        Ok(Object { size, path, timeout: self.timeout, result })
    }

    /// Refuses what is no regular file (opening a pipe would wait for ever) or lies, links followed, outside the roots.
    async fn check_file(&self, path: &Path) -> Result<(), RowError> {
        let (looked_at, roots) = (path.to_owned(), self.roots.clone());
        let look = tokio::task::spawn_blocking(move || {
            let is_file = std::fs::metadata(&looked_at)?.is_file();
            let real = if roots.is_empty() { looked_at } else { std::fs::canonicalize(&looked_at)? };
            let within = |root: &PathBuf| std::fs::canonicalize(root).is_ok_and(|root| real.starts_with(root));
            Ok((is_file, roots.is_empty() || roots.iter().any(within)))
        });
        let look = async { look.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) };
        let shown = path.display();
        let fail = |kind, message| Err(RowError::new(Stage::Fetch, kind, message));
        match within(self.timeout, path, async { look.await.map_err(|error| explain_io(path, &error)) }).await? {
            (false, _) => fail(ErrorKind::NotFound, format!("{shown} is not a file")),
            (_, false) => fail(ErrorKind::Forbidden, format!("{shown} lies in none of the folders of `limits.roots`")),
            _ => Ok(()),
        }
    }
}

impl Object {
    /// Reads it.
    ///
    /// # Errors
    /// `timeout` or `io`.
    pub async fn bytes(self) -> Result<Bytes, RowError> {
        let Self { path, timeout, result, .. } = self;
        within(timeout, &path, async { result.bytes().await.map_err(|error| explain(&path, &error)) }).await
    }
}

/// The path that a row's URI names.
fn resolve(uri: &str, base: &Path) -> Result<PathBuf, RowError> {
    let invalid = |message: String| RowError::new(Stage::Fetch, ErrorKind::InvalidUri, message);
    let path = paths::local(base, uri).map_err(|error| match error {
        NotLocal::Scheme(scheme) => {
            invalid(format!("{uri:?}: expected a local path or file:// URI; {scheme}:// is not supported yet"))
        }
        NotLocal::Invalid => invalid(format!("{uri:?}: expected a path or file:// URI of this machine")),
    })?;
    // The store keeps such names for files that are being written.
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.rsplit_once('#') {
        Some((_, digits)) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(invalid(format!("{uri:?}: file names that end in # and digits are not supported")))
        }
        _ => Ok(path),
    }
}

async fn within<T>(
    timeout: Duration,
    path: &Path,
    work: impl Future<Output = Result<T, RowError>>,
) -> Result<T, RowError> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let (shown, limit_ms) = (path.display(), timeout.as_millis());
        let message = format!("{shown}: no answer within {limit_ms} ms (`limits.fetch_timeout_ms`)");
        Err(RowError::new(Stage::Fetch, ErrorKind::Timeout, message))
    })
}

/// A store's error; what the operating system said lies somewhere among its causes.
fn explain(path: &Path, error: &object_store::Error) -> RowError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return explain_io(path, error);
        }
        cause = error.source();
    }
    let kind = match error {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. } => ErrorKind::Forbidden,
        _ => ErrorKind::Io,
    };
    RowError::new(Stage::Fetch, kind, format!("cannot read {}: {error}", path.display()))
}

fn explain_io(path: &Path, error: &std::io::Error) -> RowError {
    use std::io::ErrorKind as Io;
    let shown = path.display();
    let (kind, message) = match error.kind() {
        Io::NotFound => (ErrorKind::NotFound, format!("there is no file {shown}")),
        Io::IsADirectory | Io::NotADirectory => (ErrorKind::NotFound, format!("{shown} is not a file")),
        Io::PermissionDenied => (ErrorKind::Forbidden, format!("this user may not read {shown}")),
        Io::InvalidFilename | Io::InvalidInput => {
            (ErrorKind::InvalidUri, format!("{shown} is no possible file name: {error}"))
        }
        _ => (ErrorKind::Io, format!("cannot read {shown}: {error}")),
    };
    RowError::new(Stage::Fetch, kind, message)
}
