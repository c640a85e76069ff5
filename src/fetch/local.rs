//! Images on disk: which files may be opened, and what the operating system's errors mean.

use std::path::{Path, PathBuf};
use std::time::Duration;

use object_store::path::Path as ObjectPath;
use object_store::{Attributes, Extensions, GetResult, GetResultPayload, ObjectMeta};

use super::timeout::within;
use crate::row::error::{ErrorKind, RowError, Stage};
use crate::storage::Location;
use crate::support::descriptors::is_exhausted;

/// Opens a file, by the operating system alone: `object_store` refuses names with control characters.
///
/// Refuses a path that is not a regular file (opening a pipe could block for ever), that has a name reserved by the store, or that
/// lies outside `roots` once links are followed.
pub(super) async fn open(path: &Path, roots: &[Location], timeout: Duration) -> Result<GetResult, RowError> {
    let shown = path.display();
    let fail = |kind, message| Err(RowError::new(Stage::Fetch, kind, message));
    // `object_store` reserves such names for files that are being written.
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.rsplit_once('#').is_some_and(|(_, end)| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit())) {
        let message = format!("{shown}: file names that end in # and digits are not supported");
        return fail(ErrorKind::InvalidUri, message);
    }
    let (named, anywhere) = (path.to_owned(), roots.is_empty());
    let roots: Vec<PathBuf> = roots.iter().filter_map(Location::local).map(Path::to_owned).collect();
    let open = tokio::task::spawn_blocking(move || {
        let is_file = std::fs::metadata(&named)?.is_file();
        let real = if anywhere { named } else { std::fs::canonicalize(&named)? };
        let within = |root: &PathBuf| std::fs::canonicalize(root).is_ok_and(|root| real.starts_with(root));
        let is_within = anywhere || roots.iter().any(within);
        let opened = if is_file && is_within { Some(opened(real)?) } else { None };
        Ok((is_file, opened))
    });
    let open = async {
        let outcome = open.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        outcome.map_err(|error| explain_io(path, &error))
    };
    match within(timeout, &shown, open).await? {
        (_, Some(opened)) => Ok(opened),
        (false, None) => fail(ErrorKind::NotFound, format!("{shown} is not a file")),
        (true, None) => fail(ErrorKind::Forbidden, format!("{shown} lies in none of the folders of `limits.roots`")),
    }
}

fn opened(path: PathBuf) -> std::io::Result<GetResult> {
    let file = std::fs::File::open(&path)?;
    let stat = file.metadata()?;
    let meta = ObjectMeta {
        location: ObjectPath::default(),
        // Not used, and some times of a file system are no dates.
        last_modified: chrono::DateTime::UNIX_EPOCH,
        size: stat.len(),
        e_tag: None,
        version: None,
    };
    let (range, attributes, extensions) = (0..stat.len(), Attributes::default(), Extensions::default());
    Ok(GetResult { payload: GetResultPayload::File(file, path), meta, range, attributes, extensions })
}

/// A local store's error; the operating system's is one of its causes.
pub(super) fn explain(path: &Path, error: &object_store::Error) -> RowError {
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
        object_store::Error::InvalidPath { .. } => ErrorKind::InvalidUri,
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
            (ErrorKind::InvalidUri, format!("{shown} cannot be a file name: {error}"))
        }
        _ => (ErrorKind::Io, format!("cannot read {shown}: {error}")),
    };
    RowError { is_exhausted: is_exhausted(error), ..RowError::new(Stage::Fetch, kind, message) }
}
