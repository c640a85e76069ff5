//! Files of an OUTPUT on this machine, by the operating system alone: listed with whatever names they have, and removed without following a
//! link. A folder of OUTPUT that is a link may lead anywhere, so nothing is listed, put or removed through one; OUTPUT itself may be one.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

/// What a folder in OUTPUT holds.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Regular files, and links to such, but for the staging files of puts.
    pub(super) files: Vec<String>,
    /// Folders, and links to such.
    pub(super) folders: Vec<String>,
}

/// The folder at `folder` below `root`, opened without following a link; None: there is none.
fn open(root: &Path, folder: &str) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let absent = |error: Errno| if error == Errno::NOENT { Ok(None) } else { Err(error.into()) };
    let mut opened = match openat(CWD, root, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(error) => return absent(error),
    };
    for name in folder.split('/').filter(|name| !name.is_empty()) {
        if name == ".." || name == "." {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path that leads out of its folder"));
        }
        opened = match openat(&opened, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_a_folder(&opened, name)),
            Err(error) => return absent(error),
        };
    }
    Ok(Some(opened))
}

fn not_a_folder(parent: &OwnedFd, name: &str) -> io::Error {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    if stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink) {
        return io::Error::other(format!("{name} is a link, and nothing is read, written or removed through one"));
    }
    io::Error::new(io::ErrorKind::NotADirectory, format!("{name} is no folder"))
}

/// Checks that the folders above `path` that exist are no links.
///
/// # Errors
/// Which one is; those of the operating system.
pub(super) fn refuse_links(root: &Path, path: &str) -> io::Result<()> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    open(root, folder).map(drop)
}

/// The entries of `folder`, sorted; none if it does not exist. Names that are not UTF-8 are shown with replacement characters.
///
/// # Errors
/// When it is a link or no folder, and those of the operating system.
pub(super) fn entries(root: &Path, folder: &str) -> io::Result<Entries> {
    let mut entries = Entries::default();
    let Some(opened) = open(root, folder)? else { return Ok(entries) };
    for entry in Dir::read_from(&opened)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Symlink | FileType::Unknown => statat(&opened, name, AtFlags::empty())
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            kind => kind,
        };
        let text = String::from_utf8_lossy(name.to_bytes()).into_owned();
        match kind {
            FileType::Directory => entries.folders.push(text),
            FileType::RegularFile if !is_staging(name.to_bytes()) => entries.files.push(text),
            _ => {}
        }
    }
    entries.files.sort_unstable();
    entries.folders.sort_unstable();
    Ok(entries)
}

/// Whether the folder at `path` is a link.
pub(super) fn is_link(root: &Path, path: &str) -> bool {
    root.join(path).symlink_metadata().is_ok_and(|found| found.is_symlink())
}

/// Removes the file or link at `path`; nothing if there is none.
///
/// # Errors
/// When a folder above it is a link; those of the operating system.
pub(super) fn remove(root: &Path, path: &str) -> io::Result<()> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    match open(root, folder)?.map(|folder| unlinkat(&folder, name, AtFlags::empty())) {
        None | Some(Ok(()) | Err(Errno::NOENT)) => Ok(()),
        Some(Err(error)) => Err(error.into()),
    }
}

/// Removes the staging files in `folder`, and then the folder itself if it is empty.
///
/// # Errors
/// When it is a link; those of the operating system.
pub(super) fn sweep(root: &Path, folder: &str) -> io::Result<()> {
    let Some(opened) = open(root, folder)? else { return Ok(()) };
    for entry in Dir::read_from(&opened)? {
        let entry = entry?;
        if is_staging(entry.file_name().to_bytes()) {
            match unlinkat(&opened, entry.file_name(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let (above, name) = folder.rsplit_once('/').unwrap_or(("", folder));
    if let Some(above) = open(root, above)? {
        // A folder that is not empty holds files of others, and stays.
        let _ = unlinkat(&above, name, AtFlags::REMOVEDIR);
    }
    Ok(())
}

/// Whether a file is that of a put which has not ended, or never will: `NAME#1`.
fn is_staging(name: &[u8]) -> bool {
    let text = std::ffi::OsStr::from_bytes(name).to_string_lossy();
    let number = text.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
