//! Expands `input.manifest`: files as they are, folders as their `*.parquet` and those in folders `name=value` below, globs sorted by
//! name. As Spark and Arrow do, folders and globs leave out what is hidden or not finished: names that begin with `.` or `_`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::{ObjectStore, ObjectStoreExt, path::Path as ObjectPath};

use super::error::ManifestError;
use super::partition::is_partition;
use crate::storage::{Location, Storage};

/// What a pattern names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Found {
    /// A file of rows.
    File(Location),
    /// A folder of images.
    Images(Location),
}

/// Files that say what is in a folder of images, as Hugging Face's `imagefolder` has them.
const METADATA: [&str; 2] = ["metadata.csv", "metadata.jsonl"];

/// Every file that the patterns name, each once. A folder without Parquet files is one of images: its `metadata.csv` or
/// `metadata.jsonl`, if there is one, or else the folder itself.
pub(super) fn expand(patterns: &[Location], storage: &Arc<Storage>) -> Result<Vec<Found>, ManifestError> {
    let mut all = Vec::new();
    for pattern in patterns {
        let mut files = Vec::new();
        match pattern {
            Location::Local(_) => local(pattern, &mut files)?,
            Location::Object { .. } => remote(pattern, storage, &mut files)?,
            // A web server cannot be listed.
            Location::Http(_) => files.push(pattern.clone()),
        }
        if files.is_empty() {
            if is_folder(pattern, storage)? {
                all.push(Found::Images(pattern.clone()));
                continue;
            }
            return Err(ManifestError::NotFound { pattern: pattern.to_string() });
        }
        all.extend(files.into_iter().map(Found::File));
    }
    let mut seen = HashSet::new();
    match all.iter().find(|found| !seen.insert(*found)) {
        Some(Found::File(path) | Found::Images(path)) => Err(ManifestError::ListedTwice { path: path.to_string() }),
        None => Ok(all),
    }
}

/// Whether there is a folder with something in it.
fn is_folder(pattern: &Location, storage: &Arc<Storage>) -> Result<bool, ManifestError> {
    let Location::Object { key, .. } = pattern else {
        return Ok(pattern.local().is_some_and(Path::is_dir));
    };
    if key.contains(['*', '?', '[']) {
        return Ok(false);
    }
    let failed = |source| ManifestError::Storage { path: pattern.to_string(), source };
    let (store, prefix) = storage.open(pattern).map_err(failed)?;
    let first = storage.wait(async move { store.list(Some(&prefix)).try_next().await }).map_err(failed)?;
    Ok(first.is_some())
}

fn local(location: &Location, files: &mut Vec<Location>) -> Result<(), ManifestError> {
    let Some(path) = location.local() else { return Ok(()) };
    if path.is_file() {
        files.push(location.clone());
        return Ok(());
    }
    if path.is_dir() {
        let mut found = Vec::new();
        in_folder(path, &mut found)?;
        // As Hugging Face's hub has data sets.
        let data = path.join("data");
        if found.is_empty() && data.is_dir() {
            in_folder(&data, &mut found)?;
        }
        if found.is_empty() {
            found.extend(METADATA.map(|name| path.join(name)).into_iter().find(|file| file.is_file()));
        }
        found.sort();
        files.extend(found.into_iter().map(Location::Local));
        return Ok(());
    }
    let text = path.to_string_lossy().into_owned();
    let hidden = Hidden::of(&text);
    let matches = glob::glob(&text).map_err(|source| ManifestError::Glob { pattern: location.to_string(), source })?;
    for found in matches {
        let found = found.map_err(|error| {
            let path = error.path().display().to_string();
            ManifestError::Io { path, source: error.into() }
        })?;
        if !found.is_dir() && !hidden.hides(&found.to_string_lossy()) {
            files.push(Location::Local(found));
        }
    }
    Ok(())
}

/// The Parquet files in `folder`, and in its folders of partitions.
fn in_folder(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), ManifestError> {
    let io = |source| ManifestError::Io { path: folder.display().to_string(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if is_partition(&name) {
                in_folder(&path, found)?;
            }
        } else if !is_hidden(&name) && name.ends_with(".parquet") {
            found.push(path);
        }
    }
    Ok(())
}

/// Whether a file or folder of this name is hidden or not finished. `_year=2024` is neither.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || (name.starts_with('_') && !name.contains('='))
}

/// What the names that a glob matches must not begin with.
struct Hidden {
    /// Segments of the path that are written in full.
    named: usize,
    /// The first characters that the rest of the glob asks for.
    asked: Vec<char>,
}

impl Hidden {
    fn of(pattern: &str) -> Self {
        let segments: Vec<&str> = pattern.split('/').collect();
        let named = segments.iter().take_while(|segment| !segment.contains(['*', '?', '['])).count();
        let asked = segments[named..].iter().filter_map(|segment| segment.chars().next()).collect();
        Self { named, asked }
    }

    fn hides(&self, path: &str) -> bool {
        let is_asked_for = |name: &str| name.chars().next().is_some_and(|first| self.asked.contains(&first));
        path.split('/').skip(self.named).any(|name| is_hidden(name) && !is_asked_for(name))
    }
}

/// An object, or the objects of one listing that match.
fn remote(location: &Location, storage: &Arc<Storage>, files: &mut Vec<Location>) -> Result<(), ManifestError> {
    let Location::Object { key, .. } = location else { return Ok(()) };
    let failed = |source| ManifestError::Storage { path: location.to_string(), source };
    let text = if key.contains(['*', '?', '[']) {
        key.clone()
    } else {
        // A key that ends in a slash is a folder's; a request for it would be one for the key without the slash.
        if !key.is_empty() && !key.ends_with('/') {
            let (store, path) = storage.open(location).map_err(failed)?;
            match storage.wait(async move { store.head(&path).await }) {
                Ok(_) => {
                    files.push(location.clone());
                    return Ok(());
                }
                // A prefix with objects below it counts as a folder.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        return remote_folder(location, key.strip_suffix('/').unwrap_or(key), storage, files);
    };
    let pattern = Pattern::new(&text);
    let pattern = pattern.map_err(|source| ManifestError::Glob { pattern: location.to_string(), source })?;
    let plain = key.split('/').take_while(|segment| !segment.contains(['*', '?', '[']));
    let folder = location.with_key(&plain.collect::<Vec<_>>().join("/"));
    let (store, prefix) = storage.open(&folder).map_err(failed)?;
    let mut keys = listed(storage, store, prefix).map_err(failed)?;
    let as_paths = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let hidden = Hidden::of(&text);
    keys.retain(|key| pattern.matches_with(key.as_ref(), as_paths) && !hidden.hides(key.as_ref()));
    keys.sort();
    files.extend(keys.iter().map(|key| location.with_key(key.as_ref())));
    Ok(())
}

/// The Parquet files below the prefix `folder`, and in its folders of partitions.
fn remote_folder(
    location: &Location,
    folder: &str,
    storage: &Arc<Storage>,
    files: &mut Vec<Location>,
) -> Result<(), ManifestError> {
    let failed = |source| ManifestError::Storage { path: location.to_string(), source };
    let (store, prefix) = storage.open(&location.with_key(folder)).map_err(failed)?;
    let all = listed(storage, store, prefix.clone()).map_err(failed)?;
    let below = |prefix: &ObjectPath| {
        let is_of_table = |key: &&ObjectPath| {
            let Some(below) = key.prefix_match(prefix) else { return false };
            let segments: Vec<String> = below.map(|segment| segment.as_ref().to_owned()).collect();
            segments.split_last().is_some_and(|(name, folders)| {
                name.ends_with(".parquet") && !is_hidden(name) && folders.iter().all(|folder| is_partition(folder))
            })
        };
        all.iter().filter(is_of_table).cloned().collect::<Vec<_>>()
    };
    let mut keys = below(&prefix);
    if keys.is_empty() {
        // As Hugging Face's hub has data sets.
        keys = below(&prefix.clone().join("data"));
    }
    if keys.is_empty() {
        let metadata = METADATA.map(|name| prefix.clone().join(name));
        keys.extend(metadata.into_iter().find(|file| all.contains(file)));
    }
    keys.sort();
    files.extend(keys.iter().map(|key| location.with_key(key.as_ref())));
    Ok(())
}

/// The objects below `prefix`.
fn listed(
    storage: &Arc<Storage>,
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
) -> Result<Vec<ObjectPath>, object_store::Error> {
    storage.wait(async move { store.list(Some(&prefix)).map_ok(|object| object.location).try_collect().await })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names() {
        let hides = |pattern: &str, path: &str| Hidden::of(pattern).hides(path);
        for name in ["._a.parquet", ".tmp.parquet", "_part.parquet", "_metadata", "_temporary/0/a.parquet"] {
            assert!(hides("/d/**/*.parquet", &format!("/d/{name}")), "{name}");
        }
        assert!(!hides("/_d/.e/*.parquet", "/_d/.e/a.parquet"), "written in full");
        assert!(!hides("/d/_*.parquet", "/d/_part.parquet"), "asked for");
        assert!(hides("/d/_*.parquet", "/d/.part.parquet"));
        assert!(!hides("/d/*/*.parquet", "/d/_year=2024/a_b.parquet"));
    }
}
