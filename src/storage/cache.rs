//! A local cache of model directories in remote storage: graphs are mapped from files, and many jobs share one model. In: a location.
//! Out: a local folder with exactly the files that were fetched.
//!
//! The cache is a folder of this user alone. Beside each copy lies an index with the hash of every file; a copy that is not what its
//! index says, or that another user owns a part of, is not used but fetched again. Whoever can write as this user, or as root, is not
//! kept out by that.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use object_store::{Error, ObjectMeta, Result};
use serde::{Deserialize, Serialize};
use tempfile::{Builder, NamedTempFile};
use walkdir::WalkDir;

use super::environment::variable;
use super::error::{generic, other};
use super::{Location, Storage};
use crate::support::regular_file;

/// The copy of the model in an entry of the cache.
const MODEL: &str = "model";
/// The index of that copy.
const INDEX: &str = "index.json";
/// The most bytes of an index.
const MOST_INDEX_BYTES: u64 = 16 << 20;

/// What was fetched, by name relative to the model directory.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    files: BTreeMap<String, FetchedFile>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FetchedFile {
    bytes: u64,
    /// BLAKE3, hexadecimal.
    hash: String,
}

impl Storage {
    /// A local folder with the objects below `location`, fetched unless an earlier job has fetched them: its name is a hash of their
    /// names, sizes and `ETags`. A local `location` is returned as it is.
    ///
    /// # Errors
    /// When there is no object below it, when two of them cannot both be files, when one cannot be fetched, or when the cache cannot be
    /// written or belongs to another user.
    pub fn local_copy(&self, location: &Location) -> Result<PathBuf> {
        if let Some(path) = location.local() {
            return Ok(path.to_owned());
        }
        if let Location::Http(_) = location {
            return Err(other(
                "a web server cannot be listed; copy the model directory, or put it on s3://, gs:// or az://",
            ));
        }
        let (store, prefix) = self.open(location)?;
        let (listed, below) = (store.clone(), prefix.clone());
        let mut objects: Vec<ObjectMeta> =
            self.wait(async move { listed.list(Some(&below)).try_collect::<Vec<_>>().await })?;
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        if objects.is_empty() {
            return Err(other("expected a model directory, found no object"));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(location.to_string().as_bytes());
        for object in &objects {
            let tag = object.e_tag.clone().unwrap_or_else(|| object.last_modified.to_rfc3339());
            hasher.update(format!("\n{} {} {tag}", object.location, object.size).as_bytes());
        }
        let models = models_folder()?;
        let entry = models.join(&hasher.finalize().to_hex()[..32]);
        if entry.symlink_metadata().is_ok() {
            match verify(&entry) {
                Ok(()) => return Ok(entry.join(MODEL)),
                Err(why) => tracing::warn!(copy = %entry.display(), "the copy of the model is not used: {why}"),
            }
        }
        let staging = Builder::new().prefix("fetching-").tempdir_in(&models).map_err(io_error)?;
        tracing::info!(from = %location, to = %entry.display(), objects = objects.len(), "fetching the model");
        let mut index = Index::default();
        for (name, object) in files(objects, &prefix)? {
            match self.fetch_file(location, &object, &staging.path().join(MODEL).join(&name)) {
                Err(Error::NotFound { .. }) if object.size == 0 => {}
                fetched => drop(index.files.insert(name, fetched?)),
            }
        }
        std::fs::create_dir_all(staging.path().join(MODEL)).map_err(io_error)?;
        let text = serde_json::to_vec(&index).map_err(|error| generic(error.into()))?;
        #[allow(
            clippy::disallowed_methods,
            reason = "in a folder of this process, which is renamed when it is complete"
        )]
        std::fs::write(staging.path().join(INDEX), text).map_err(io_error)?;
        publish(staging.path(), &entry, &models).map_err(io_error)?;
        Ok(entry.join(MODEL))
    }

    fn fetch_file(&self, location: &Location, object: &ObjectMeta, to: &Path) -> Result<FetchedFile> {
        let parent = to.parent().unwrap_or(Path::new("/")).to_owned();
        std::fs::create_dir_all(&parent).map_err(io_error)?;
        let mut file = NamedTempFile::new_in(&parent).map_err(io_error)?;
        let (store, _) = self.open(location)?;
        let (path, size) = (object.location.clone(), object.size);
        let (file, hash) = self.wait(async move {
            let options = object_store::GetOptions::default();
            let mut chunks = store.get_opts(&path, options).await?.into_stream();
            let (mut written, mut hasher) = (0, blake3::Hasher::new());
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                written += chunk.len() as u64;
                hasher.update(&chunk);
                std::io::Write::write_all(&mut file, &chunk).map_err(io_error)?;
            }
            if written != size {
                return Err(other(&format!("{path}: expected {size} bytes, found {written}")));
            }
            Ok((file, hasher.finalize().to_hex().to_string()))
        })?;
        file.persist(to).map_err(|error| io_error(error.error))?;
        Ok(FetchedFile { bytes: size, hash })
    }
}

fn io_error(error: io::Error) -> Error {
    generic(error.into())
}

/// The names of `objects` below `prefix`. Consoles mark a folder by an empty object, `folder/`, which is listed without the slash.
fn files(objects: Vec<ObjectMeta>, prefix: &object_store::path::Path) -> Result<BTreeMap<String, ObjectMeta>> {
    let named = objects.into_iter().filter_map(|object| {
        let parts: Vec<_> = object.location.prefix_match(prefix)?.map(|part| part.as_ref().to_owned()).collect();
        Some((parts.join("/"), object)).filter(|(name, _)| !name.is_empty())
    });
    let mut files: BTreeMap<String, ObjectMeta> = named.collect();
    let folders = files.keys().flat_map(|name| name.match_indices('/').map(move |(end, _)| (&name[..end], name)));
    // a folder and a file in it
    let both: BTreeMap<String, String> = folders
        .filter(|(folder, _)| files.contains_key(*folder))
        .map(|(folder, name)| (folder.into(), name.clone()))
        .collect();
    for (folder, name) in both {
        if files.remove(&folder).is_some_and(|object| object.size > 0) {
            let what = format!(
                "the objects {prefix}/{folder} and {prefix}/{name} cannot be files of one folder, since the first would be a file and \
                 a folder; rename or remove one of them"
            );
            return Err(other(&what));
        }
    }
    Ok(files)
}

/// `${XDG_CACHE_HOME:-~/.cache}/nightcap/models`, which only this user can read and write. A relative path does not count, as the XDG
/// specification says: whoever can write to the current folder could put models there.
pub(super) fn models_folder() -> Result<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let caches =
        caches.ok_or_else(|| other("neither XDG_CACHE_HOME nor HOME is an absolute path, so there is no cache"))?;
    std::fs::create_dir_all(&caches).map_err(io_error)?;
    let own = caches.join("nightcap");
    let models = own.join("models");
    // others may look into the first, not write into it
    make_private(&own, 0o022)?;
    make_private(&models, 0o077)?;
    Ok(models)
}

/// Makes the folder `path`, or takes the permissions `refused` from an existing one, which must belong to this user.
fn make_private(path: &Path, refused: u32) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_error(error)),
        _ => {}
    }
    let found = path.symlink_metadata().map_err(io_error)?;
    if !found.is_dir() || !is_own(&found) {
        let what = format!(
            "the cache of models, {}, must be a folder of this user ({}); found {} of user {}; set XDG_CACHE_HOME to a folder of \
             your own, or remove it",
            path.display(),
            user(),
            if found.is_dir() { "a folder" } else { "no folder" },
            found.uid()
        );
        return Err(other(&what));
    }
    if found.mode() & refused == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(found.mode() & 0o777 & !refused)).map_err(io_error)
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn is_own(found: &Metadata) -> bool {
    found.uid() == user()
}

/// Whether `entry` holds what its index says, all of it of this user, and nothing else.
///
/// # Errors
/// What is wrong with it.
fn verify(entry: &Path) -> std::result::Result<(), String> {
    let own = |path: &Path| match path.symlink_metadata() {
        Ok(found) if !is_own(&found) => Err(format!("{} belongs to user {}", path.display(), found.uid())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{}: {error}", path.display())),
    };
    let (model, index) = (entry.join(MODEL), entry.join(INDEX));
    if !own(entry)?.is_dir() || !own(&model)?.is_dir() || !own(&index)?.is_file() {
        return Err("it is no folder with a model and an index".to_owned());
    }
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = regular_file::read(&index, MOST_INDEX_BYTES).map_err(|error| unreadable(&index, &error))?;
    let Index { mut files } = serde_json::from_slice(&text).map_err(|error| unreadable(&index, &error))?;
    for found in WalkDir::new(&model).min_depth(1) {
        let found = found.map_err(|error| unreadable(&model, &error))?;
        let path = found.path();
        if own(path)?.is_dir() {
            continue;
        }
        let name = path.strip_prefix(&model).ok().and_then(Path::to_str).unwrap_or_default();
        let Some(expected) = files.remove(name) else {
            return Err(format!("{} was not fetched", path.display()));
        };
        let hash = || -> io::Result<FetchedFile> {
            let file = regular_file::open(path)?;
            let bytes = file.metadata()?.len();
            let hash = blake3::Hasher::new().update_reader(file)?.finalize().to_hex().to_string();
            Ok(FetchedFile { bytes, hash })
        };
        if !found.file_type().is_file() || hash().map_err(|error| unreadable(path, &error))? != expected {
            return Err(format!("{} has changed since it was fetched", path.display()));
        }
    }
    files.keys().next().map_or(Ok(()), |name| Err(format!("{name} is missing")))
}

/// Renames the fetched folder into place. What was there is removed, unless another job has just put a whole copy there.
fn publish(staging: &Path, entry: &Path, models: &Path) -> io::Result<()> {
    if std::fs::rename(staging, entry).is_ok() || verify(entry).is_ok() {
        return Ok(());
    }
    let old = Builder::new().prefix("replaced-").tempdir_in(models)?;
    match std::fs::rename(entry, old.path().join("entry")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match std::fs::rename(staging, entry) {
        Err(_) if verify(entry).is_ok() => Ok(()),
        renamed => renamed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(location: &str, size: u64) -> ObjectMeta {
        let (location, last_modified) = (location.into(), chrono::DateTime::UNIX_EPOCH);
        ObjectMeta { location, last_modified, size, e_tag: None, version: None }
    }

    #[test]
    fn an_object_that_would_be_a_file_and_a_folder_is_named_with_the_other() {
        let listed = |objects: &[(&str, u64)]| {
            let objects = objects.iter().map(|(location, size)| object(location, *size)).collect();
            files(objects, &"m".into()).map(|files| files.into_keys().collect::<Vec<_>>())
        };
        let clash = listed(&[("m/sub", 4), ("m/sub-a", 4), ("m/sub/x/y", 4)]).unwrap_err().to_string();
        assert!(clash.contains("the objects m/sub and m/sub/x/y cannot be files of one folder"), "{clash}");
        // the mark of a folder is no file
        assert_eq!(listed(&[("m", 0), ("m/sub", 0), ("m/sub-a", 4), ("m/sub/y", 4)]).unwrap(), ["sub-a", "sub/y"]);
        assert_eq!(listed(&[("m/empty", 0), ("m/x", 1)]).unwrap(), ["empty", "x"]);
    }
}
