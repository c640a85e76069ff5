//! Local files that a user or a model directory names, opened and read. In: a path. Out: an open regular file, or its content up to a
//! bound. Never here: a file that blocks or never ends. A named pipe waits for whoever writes into it, and `/dev/zero` has no end.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens the regular file at `path`, whose links are followed. What was opened is looked at, not the path, so that nothing can take
/// its place in between.
///
/// # Errors
/// Those of the file system, and an error that says what was found if it is not a regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // without O_NONBLOCK, opening a pipe would wait; on regular files it has no effect
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => unexpected("a socket or a device"),
        _ => error,
    })?;
    let found = file.metadata()?;
    if found.is_file() { Ok(file) } else { Err(unexpected(kind(&found))) }
}

/// The content of the regular file at `path`, which has at most `most` bytes.
///
/// # Errors
/// Those of [`open`], and one that names both sizes if the file is larger. No more than `most` bytes are ever read.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    let mut content = Vec::new();
    if size <= most {
        // a file of /proc has size 0 and content
        file.take(most + 1).read_to_end(&mut content)?;
    }
    match size.max(content.len() as u64) {
        found if found > most => {
            Err(io::Error::other(format!("expected a file of at most {most} bytes, found one of {found}")))
        }
        _ => Ok(content),
    }
}

/// As [`read`], for text in UTF-8.
///
/// # Errors
/// As [`read`], and one if it is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| io::Error::other("expected text in UTF-8"))
}

fn unexpected(found: &str) -> io::Error {
    io::Error::other(format!("expected a regular file, found {found}"))
}

fn kind(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test writes its own files")]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::{read, read_text};

    #[test]
    fn nothing_but_regular_files_of_bounded_size_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let _listener = UnixListener::bind(at("socket")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
        // sparse: takes no disk
        std::fs::File::create(at("large")).unwrap().set_len(5 << 30).unwrap();
        std::fs::write(at("text"), "four").unwrap();
        std::fs::write(at("bytes"), [0xff]).unwrap();
        let said = |name: &str, most| read(&at(name), most).unwrap_err().to_string();
        assert_eq!(said("pipe", 9), "expected a regular file, found a named pipe");
        assert_eq!(said("socket", 9), "expected a regular file, found a socket or a device");
        assert_eq!(said("folder", 9), "expected a regular file, found a folder");
        assert_eq!(said("zero", 9), "expected a regular file, found a device");
        assert_eq!(said("large", 1 << 20), "expected a file of at most 1048576 bytes, found one of 5368709120");
        assert_eq!(said("text", 3), "expected a file of at most 3 bytes, found one of 4");
        assert_eq!(read(&at("text"), 4).unwrap(), b"four");
        // of /proc, which has size 0 and content
        let status = std::path::Path::new("/proc/self/status");
        assert!(read(status, 10).unwrap_err().to_string().contains("found one of 11"));
        assert!(!read(status, 1 << 20).unwrap().is_empty());
        assert_eq!(read_text(&at("bytes"), 9).unwrap_err().to_string(), "expected text in UTF-8");
    }
}
