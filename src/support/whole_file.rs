//! Atomic writes of local files: into a temporary file in the same folder, which is then renamed.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// What to do about an existing file of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Replace it.
    Replace,
    /// Keep it, and fail with [`io::ErrorKind::AlreadyExists`].
    Keep,
}

/// A temporary file beside `path`, with the permissions that the user's umask gives; removed unless it is persisted.
///
/// # Errors
/// Those of the file system.
pub(crate) fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Builder::new().prefix(".nightcap-").permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
}

/// Writes `bytes` as the file `path`, with the permissions that the user's umask gives.
///
/// # Errors
/// Those of the file system; then no file is left behind.
pub(crate) fn write(path: &Path, bytes: &[u8], existing: Existing) -> io::Result<()> {
    let mut file = temporary(path)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    match existing {
        Existing::Replace => file.persist(path),
        Existing::Keep => file.persist_noclobber(path),
    }
    .map(drop)
    .map_err(|error| error.error)
}
