//! Many archives of samples as one table. In: the archives. Out: a Parquet file of their samples, which names images as parts of the
//! archives. Never here: the bytes of images.
//!
//! Several archives are read at once, since most of the time is spent waiting for storage; their samples are in the order of the archives.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use parquet::file::reader::ChunkReader;

use super::error::ManifestError;
use super::folder::LeftOut;
use super::listing::{Found, expand};
use super::rows::{Format, convert};
use super::shard::{Name, each_sample, is_shard, stem};
use super::source::{FileVersion, Source};
use crate::storage::{Location, Storage};

/// Archives that are read at once.
const AT_ONCE: usize = 8;

/// What was found in archives.
#[derive(Debug, Default)]
pub(super) struct Indexed {
    /// The versions of the archives.
    pub(super) versions: Vec<FileVersion>,
    /// Members that are no part of a row.
    pub(super) left_out: LeftOut,
}

/// The archives that `pattern` names; None: it names something else, or nothing.
///
/// # Errors
/// When storage cannot be listed.
pub fn find(pattern: &Location, storage: &Arc<Storage>) -> Result<Option<Vec<Location>>, ManifestError> {
    match expand(std::slice::from_ref(pattern), storage) {
        Ok(found) => Ok(match <[Found; 1]>::try_from(found) {
            Ok([Found::Shards(shards)]) => Some(shards),
            _ => None,
        }),
        Err(ManifestError::NotFound { .. }) if !is_shard(&pattern.file_name()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The samples of `shards` as a Parquet file, whose images name the archives by what `uri` makes of them; and what was left out.
///
/// # Errors
/// When an archive cannot be read, or is no whole archive of samples.
pub fn encode(
    shards: &[Location],
    storage: &Arc<Storage>,
    uri: impl Fn(&Location) -> String + Sync,
) -> Result<(Vec<u8>, LeftOut), ManifestError> {
    let io = |source| ManifestError::Io { path: shards.first().map(ToString::to_string).unwrap_or_default(), source };
    let mut file = tempfile::tempfile().map_err(io)?;
    let Indexed { left_out, .. } = index(shards, storage, uri, &file)?;
    let mut parquet = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut parquet)).map_err(io)?;
    Ok((parquet, left_out))
}

/// Writes the samples of `shards` as a Parquet file into `to`. `uri` gives the text that images name an archive by.
///
/// # Errors
/// When an archive cannot be read, or is no whole archive of samples.
pub(super) fn index(
    shards: &[Location],
    storage: &Arc<Storage>,
    uri: impl Fn(&Location) -> String + Sync,
    to: &File,
) -> Result<Indexed, ManifestError> {
    let path = shards.first().map(ToString::to_string).unwrap_or_default();
    let io = |source| ManifestError::Io { path: path.clone(), source };
    let mut all = tempfile::tempfile().map_err(io)?;
    let mut indexed = Indexed::default();
    for some in shards.chunks(AT_ONCE) {
        let read: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|shard| scope.spawn(|| one(shard, storage, &uri(shard)))).collect();
            threads.into_iter().map(|thread| thread.join().map_err(|_| "it was not read".to_owned())).collect()
        });
        for (shard, read) in some.iter().zip(read) {
            let path = shard.to_string();
            let (mut rows, version, left_out) = read.map_err(|why| ManifestError::Rows { path, why })??;
            io::copy(&mut rows, &mut all).map_err(io)?;
            indexed.versions.push(version);
            indexed.left_out.extend(left_out);
        }
    }
    let all = Source::Local(all);
    let open = || all.get_read(0).map_err(|error| error.to_string());
    let to = to.try_clone().map_err(io)?;
    convert(Format::JsonLines, open, to).map_err(|why| ManifestError::Rows { path: path.clone(), why })?;
    Ok(indexed)
}

/// The samples of one archive, as lines of JSON.
fn one(shard: &Location, storage: &Arc<Storage>, uri: &str) -> Result<(File, FileVersion, LeftOut), ManifestError> {
    let path = || shard.to_string();
    let (opened, version) = Source::open(shard, storage)?;
    let whole = 0..version.bytes;
    let source = opened.reopen(shard, &version, vec![whole])?;
    let mut rows = BufWriter::new(tempfile::tempfile().map_err(|source| ManifestError::Io { path: path(), source })?);
    let (name, mut left_out) = (shard.file_name(), LeftOut::default());
    let name = Name { uri, stem: stem(&name) };
    let written = each_sample(&source, name, &mut left_out, &mut |sample| {
        serde_json::to_writer(&mut rows, &sample).map_err(|error| error.to_string())?;
        rows.write_all(b"\n").map_err(|error| error.to_string())
    });
    written.map_err(|why| ManifestError::Rows { path: path(), why })?;
    // Not another version: what was read may be of both.
    opened.reopen(shard, &version, Vec::new())?;
    let rows = rows.into_inner().map_err(io::IntoInnerError::into_error);
    let rows = rows.and_then(|mut rows| rows.seek(SeekFrom::Start(0)).map(|_| rows));
    Ok((rows.map_err(|source| ManifestError::Io { path: path(), source })?, version, left_out))
}
