//! One open manifest file for the Parquet reader: a local file, or ranges of a remote object.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::error::ManifestError;
use crate::storage::{Location, Storage};
use crate::support::regular_file;
use crate::support::untrusted_parquet::{check_footer, footer_length};

/// The most bytes of one request, and of a column chunk in memory.
const WINDOW_BYTES: u64 = 8 << 20;

/// An open manifest file. A remote one is read in the version that was opened.
#[derive(Debug)]
pub(super) enum Source {
    Local(File),
    Remote(Remote),
}

/// A remote object. Column chunks are read in windows, so that memory does not depend on the size of row groups.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    object: Arc<RemoteFile>,
    /// The column chunks that are about to be read.
    chunks: Vec<Range<u64>>,
    /// The last window of each of them, by the chunk's start.
    windows: Arc<Mutex<HashMap<u64, ReadWindow>>>,
}

#[derive(Debug)]
struct RemoteFile {
    storage: Arc<Storage>,
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
    size: u64,
    tag: Option<String>,
}

#[derive(Debug, Clone)]
struct ReadWindow {
    start: u64,
    bytes: Bytes,
}

/// Identifies a version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileVersion {
    /// Size in bytes.
    pub(super) bytes: u64,
    /// The `ETag`, or the last modification in nanoseconds since 1970.
    pub(super) mark: String,
}

impl Source {
    /// Opens the file at `location`.
    pub(super) fn open(location: &Location, storage: &Arc<Storage>) -> Result<(Self, FileVersion), ManifestError> {
        if let Some(path) = location.local() {
            let io = |source| ManifestError::Io { path: location.to_string(), source };
            let file = regular_file::open(path).map_err(io)?;
            let version = stat(&file).map_err(io)?;
            return Ok((Self::Local(file), version));
        }
        let failed = |source| ManifestError::Storage { path: location.to_string(), source };
        let (store, path) = storage.open(location).map_err(failed)?;
        let (asked, at) = (store.clone(), path.clone());
        let meta = storage.wait(async move { asked.head(&at).await }).map_err(failed)?;
        let modified = meta.last_modified.timestamp_nanos_opt().unwrap_or(0).to_string();
        let version = FileVersion { bytes: meta.size, mark: meta.e_tag.clone().unwrap_or(modified) };
        let object = RemoteFile { storage: storage.clone(), store, path, size: meta.size, tag: meta.e_tag };
        let remote = Remote { object: Arc::new(object), chunks: Vec::new(), windows: Arc::default() };
        Ok((Self::Remote(remote), version))
    }

    /// Another handle on the same version of the file, for reading the column chunks at `chunks`.
    pub(super) fn reopen(
        &self,
        location: &Location,
        version: &FileVersion,
        chunks: Vec<Range<u64>>,
    ) -> Result<Self, ManifestError> {
        match self {
            Self::Local(file) => {
                let io = |source| ManifestError::Io { path: location.to_string(), source };
                if stat(file).map_err(io)? != *version {
                    return Err(ManifestError::Changed { path: location.to_string() });
                }
                file.try_clone().map(Self::Local).map_err(io)
            }
            // Every request names the version.
            Self::Remote(remote) => Ok(Self::Remote(Remote { chunks, windows: Arc::default(), ..remote.clone() })),
        }
    }
}

/// Size and time of last modification.
pub(super) fn stat(file: &File) -> std::io::Result<FileVersion> {
    let stat = file.metadata()?;
    let modified = stat.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(FileVersion { bytes: stat.len(), mark: modified.as_nanos().to_string() })
}

impl Remote {
    /// Bytes from `start`: at least one, at most `length`, as many as one window holds.
    fn read(&self, start: u64, length: u64) -> Result<Bytes, ParquetError> {
        let end = start.saturating_add(length).min(self.object.size);
        let Some(chunk) = self.chunks.iter().find(|chunk| chunk.contains(&start)) else {
            return self.fetch(start..end);
        };
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = windows
            .get(&chunk.start)
            .filter(|window| (window.start..window.start + window.bytes.len() as u64).contains(&start));
        let window = if let Some(window) = kept {
            window.clone()
        } else {
            let bytes = self.fetch(start..(start + WINDOW_BYTES).min(chunk.end))?;
            let window = ReadWindow { start, bytes };
            windows.insert(chunk.start, window.clone());
            window
        };
        let from = (start - window.start) as usize;
        let to = window.bytes.len().min((end - window.start) as usize);
        Ok(window.bytes.slice(from..to))
    }

    fn fetch(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        if range.is_empty() {
            return Err(ParquetError::EOF(format!("expected bytes from {}, found the end", range.start)));
        }
        let object = &self.object;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: object.tag.clone(),
            ..GetOptions::default()
        };
        let (store, path, size) = (object.store.clone(), object.path.clone(), object.size);
        let read = object.storage.wait(async move {
            let result = store.get_opts(&path, options).await?;
            let same = result.meta.size == size;
            Ok((result.bytes().await?, same))
        });
        let (bytes, same) = read.map_err(|error| ParquetError::External(Box::new(error)))?;
        if !same {
            let source = "another size".into();
            let error = object_store::Error::Precondition { path: object.path.to_string(), source };
            return Err(ParquetError::External(Box::new(error)));
        }
        if bytes.len() as u64 != range.end - range.start {
            let (expected, found) = (range.end - range.start, bytes.len());
            return Err(ParquetError::EOF(format!("expected {expected} bytes at {}, found {found}", range.start)));
        }
        Ok(bytes)
    }
}

impl Source {
    /// Refuses a footer that the Parquet library cannot be trusted with.
    pub(super) fn check_footer(&self) -> Result<(), ParquetError> {
        let Some(at) = self.len().checked_sub(8) else { return Ok(()) };
        let tail = self.get_bytes(at, 8)?;
        let Some(tail) = tail.first_chunk() else { return Ok(()) };
        // The library says what is wrong with a file that is no Parquet at all.
        if !tail.ends_with(b"PAR1") {
            return Ok(());
        }
        let length = footer_length(*tail, self.len())?;
        check_footer(&self.get_bytes(at - length, length as usize)?)
    }

    /// Another handle on it, which shares what was read ahead.
    pub(super) fn another(&self) -> Result<Self, ParquetError> {
        match self {
            Self::Local(file) => Ok(Self::Local(file.try_clone()?)),
            Self::Remote(remote) => Ok(Self::Remote(remote.clone())),
        }
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        match self {
            Self::Local(file) => Length::len(file),
            Self::Remote(remote) => remote.object.size,
        }
    }
}

impl ChunkReader for Source {
    type T = SourceRead;

    fn get_read(&self, start: u64) -> Result<SourceRead, ParquetError> {
        match self {
            Self::Local(file) => {
                let file = Positioned { file: file.try_clone()?, at: start };
                Ok(SourceRead::Local(BufReader::new(file)))
            }
            Self::Remote(remote) => Ok(SourceRead::Remote { remote: remote.clone(), at: start, ready: Bytes::new() }),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let remote = match self {
            Self::Local(file) => {
                let end = start.checked_add(length as u64);
                if end.is_none_or(|end| end > self.len()) {
                    return Err(ParquetError::EOF(format!("expected {length} bytes at {start}, found the end")));
                }
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, start)?;
                return Ok(bytes.into());
            }
            Self::Remote(remote) => remote,
        };
        if start.checked_add(length as u64).is_none_or(|end| end > remote.object.size) {
            return Err(ParquetError::EOF(format!("expected {length} bytes at {start}, found the end")));
        }
        let mut found = remote.read(start, length as u64)?;
        while found.len() < length {
            // A page across two windows.
            let more = remote.read(start + found.len() as u64, (length - found.len()) as u64)?;
            found = [found, more].concat().into();
        }
        Ok(found)
    }
}

/// A file with a read position of its own: cloned handles share one, and several threads read the same manifest.
pub(super) struct Positioned {
    file: File,
    at: u64,
}

impl Read for Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.file.read_at(buffer, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Reads a source from an offset on.
pub(super) enum SourceRead {
    Local(BufReader<Positioned>),
    Remote { remote: Remote, at: u64, ready: Bytes },
}

impl Read for SourceRead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Local(file) => file.read(buffer),
            Self::Remote { remote, at, ready } => {
                if ready.is_empty() && *at < remote.object.size {
                    *ready = remote.read(*at, 64 << 10).map_err(std::io::Error::other)?;
                    *at += ready.len() as u64;
                }
                let length = ready.len().min(buffer.len());
                ready.copy_to_slice(&mut buffer[..length]);
                Ok(length)
            }
        }
    }
}

/// The storage's error among the causes of a Parquet or Arrow error: the file was changed or cannot be read. None: it is damaged.
pub(super) fn storage_error(location: &Location, error: &(dyn std::error::Error + 'static)) -> Option<ManifestError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<object_store::Error>() {
            let path = location.to_string();
            return Some(match error {
                object_store::Error::Precondition { .. } => ManifestError::Changed { path },
                error => {
                    let source = std::io::Error::other(crate::storage::explain(error));
                    ManifestError::Io { path, source }
                }
            });
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && let Some(code) = error.raw_os_error()
        {
            let source = std::io::Error::from_raw_os_error(code);
            return Some(ManifestError::Io { path: location.to_string(), source });
        }
        cause = error.source();
    }
    None
}
