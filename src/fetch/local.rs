//! Images on disk: which files may be opened, and what the operating system's errors mean.

use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt as _};
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
    let named = path.to_owned();
    let roots: Option<Vec<PathBuf>> =
        (!roots.is_empty()).then(|| roots.iter().filter_map(Location::local).map(Path::to_owned).collect());
    let open = tokio::task::spawn_blocking(move || match roots {
        None => {
            let is_file = || std::fs::metadata(&named).map(|found| found.is_file());
            opened(&named, is_file, || std::fs::OpenOptions::new().read(true).custom_flags(FLAGS).open(&named))
        }
        Some(roots) => open_within(&named, &roots),
    });
    let open = async {
        let outcome = open.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        outcome.map_err(|error| explain_io(path, &error))
    };
    match within(timeout, &shown, open).await? {
        Opened::File(opened) => Ok(opened),
        Opened::NotAFile => fail(ErrorKind::NotFound, format!("{shown} is not a file")),
        Opened::Outside => fail(ErrorKind::Forbidden, format!("{shown} lies in none of the folders of `limits.roots`")),
    }
}

enum Opened {
    File(GetResult),
    NotAFile,
    Outside,
}

/// Opens `named` if it lies in one of `roots` once all links are resolved.
///
/// The system holds the path to the root while it opens it, so that a link that is put there in the meantime does not lead out.
fn open_within(named: &Path, roots: &[PathBuf]) -> io::Result<Opened> {
    let real = match std::fs::canonicalize(named) {
        // Whether there are files elsewhere is not told.
        Err(_) if !roots.iter().any(|root| named.starts_with(root)) => return Ok(Opened::Outside),
        real => real?,
    };
    let mut resolved = roots.iter().filter_map(|root| std::fs::canonicalize(root).ok());
    let Some(root) = resolved.find(|root| real.starts_with(root)) else { return Ok(Opened::Outside) };
    // A root may be a single file.
    let folder = if root == real { real.parent().unwrap_or(&root) } else { &root };
    let below = real.strip_prefix(folder).unwrap_or(&real).to_owned();
    let folder = Dir::open_ambient_dir(folder, ambient_authority())?;
    let is_file = || folder.metadata(&below).map(|found| found.is_file());
    let open = || folder.open_with(&below, OpenOptions::new().read(true).custom_flags(FLAGS)).map(File::into_std);
    match opened(&real, is_file, open) {
        // An error of cap-std itself: the path leads out of the folder.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none() => {
            Ok(Opened::Outside)
        }
        other => other,
    }
}

/// Opening a pipe waits for whoever writes into it, unless it is opened like this; files do not care.
const FLAGS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

/// What `open` opens, if it is a regular file. It is looked at before it is opened, since opening a device may do something, and
/// again afterwards, since it may have been replaced.
fn opened(
    path: &Path,
    is_file: impl FnOnce() -> io::Result<bool>,
    open: impl FnOnce() -> io::Result<std::fs::File>,
) -> io::Result<Opened> {
    if !is_file()? {
        return Ok(Opened::NotAFile);
    }
    let file = open()?;
    let stat = file.metadata()?;
    if !stat.is_file() {
        return Ok(Opened::NotAFile);
    }
    let meta = ObjectMeta {
        location: ObjectPath::default(),
        // Not used, and some times of a file system are no dates.
        last_modified: chrono::DateTime::UNIX_EPOCH,
        size: stat.len(),
        e_tag: None,
        version: None,
    };
    let (range, attributes, extensions) = (0..stat.len(), Attributes::default(), Extensions::default());
    let payload = GetResultPayload::File(file, path.to_owned());
    Ok(Opened::File(GetResult { payload, meta, range, attributes, extensions }))
}

/// A local store's error; the operating system's is one of its causes.
pub(super) fn explain(path: &Path, error: &object_store::Error) -> RowError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
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

fn explain_io(path: &Path, error: &io::Error) -> RowError {
    use io::ErrorKind as Io;
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

#[allow(clippy::disallowed_methods, reason = "tests write files of their own")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_takes_the_place_of_a_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("0.png");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        let (done, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let open = || std::fs::OpenOptions::new().read(true).custom_flags(FLAGS).open(&pipe);
            done.send(matches!(opened(&pipe, || Ok(true), open), Ok(Opened::NotAFile)))
        });
        assert_eq!(seen.recv_timeout(Duration::from_mins(1)), Ok(true));
    }

    #[test]
    fn whether_there_are_files_outside_the_roots_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("a"), "a").unwrap();
        std::os::unix::fs::symlink("../nothing", root.join("link")).unwrap();
        std::os::unix::fs::symlink("root", folder.path().join("way")).unwrap();
        let open = |path: &str| open_within(&folder.path().join(path), std::slice::from_ref(&root));
        assert!(matches!(open("root/a"), Ok(Opened::File(_))) && matches!(open("way/a"), Ok(Opened::File(_))));
        for outside in ["nothing", "way/nothing"] {
            assert!(matches!(open(outside), Ok(Opened::Outside)), "{outside}");
        }
        assert!(matches!(open("root"), Ok(Opened::NotAFile)));
        assert!(open("root/nothing").is_err() && open("root/link").is_err());
        let file = open_within(&root.join("a"), &[root.join("a")]);
        assert!(matches!(file, Ok(Opened::File(_))), "a root may be a file");
    }
}
