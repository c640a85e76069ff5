//! Expands `input.manifest`: files as they are, folders as their `*.parquet` and those in folders `name=value` below, globs sorted by
//! name, archives of samples together. As Spark and Arrow do, folders and globs leave out what is hidden or not finished: names that begin with `.` or `_`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::{ObjectStore, ObjectStoreExt, path::Path as ObjectPath};
use walkdir::WalkDir;

use super::braces;
use super::error::ManifestError;
use super::partition::is_partition;
use super::saved;
use super::shard::is_shard;
use crate::preprocess::has_image_extension;
use crate::storage::{Location, Storage};

/// What a pattern names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Found {
    /// A file of rows.
    File(Location),
    /// A folder of images.
    Images(Location),
    /// Archives of samples: at least one.
    Shards(Vec<Location>),
}

/// Files that say what is in a folder of images, as Hugging Face's `imagefolder` has them.
const METADATA: [&str; 2] = ["metadata.csv", "metadata.jsonl"];

/// Every file that the patterns name, each once. A folder without Parquet files is one of images: its `metadata.csv` or
/// `metadata.jsonl`, if there is one, or else the folder itself.
pub(super) fn expand(patterns: &[Location], storage: &Arc<Storage>) -> Result<Vec<Found>, ManifestError> {
    let mut all: Vec<Found> = Vec::new();
    let patterns = patterns.iter().map(without_braces).collect::<Result<Vec<_>, _>>()?.concat();
    for pattern in &patterns {
        let mut files = Vec::new();
        match pattern {
            Location::Local(_) => local(pattern, storage, &mut files)?,
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
    if let Some(Found::File(path) | Found::Images(path)) = all.iter().find(|found| !seen.insert(*found)) {
        return Err(ManifestError::ListedTwice { path: path.to_string() });
    }
    let mut together: Vec<Found> = Vec::new();
    for found in all {
        match (found, together.last_mut()) {
            (Found::File(file), Some(Found::Shards(shards))) if is_shard(&file.file_name()) => shards.push(file),
            (Found::File(file), _) if is_shard(&file.file_name()) => together.push(Found::Shards(vec![file])),
            (found, _) => together.push(found),
        }
    }
    Ok(together)
}

/// The patterns that one with braces stands for. A file whose name has braces is that file.
fn without_braces(pattern: &Location) -> Result<Vec<Location>, ManifestError> {
    let expand = |text: &str| {
        let too_many = || ManifestError::Braces { pattern: pattern.to_string() };
        braces::expand(text).ok_or_else(too_many)
    };
    match pattern {
        Location::Local(path) => match path.to_str().filter(|_| !path.exists()) {
            Some(text) => Ok(expand(text)?.into_iter().map(|name| Location::Local(name.into())).collect()),
            None => Ok(vec![pattern.clone()]),
        },
        Location::Object { key, .. } => Ok(expand(key)?.iter().map(|key| pattern.with_key(key)).collect()),
        Location::Http(url) => {
            let path = url.path().replace("%7B", "{").replace("%7D", "}");
            let of = |path: String| {
                let mut url = url.clone();
                url.set_path(&path);
                Location::Http(url)
            };
            Ok(expand(&path)?.into_iter().map(of).collect())
        }
    }
}

/// Whether the archives of a folder are its rows rather than its Parquet files, given the names of both: those of `img2dataset` tell
/// about the archive of the same name.
fn are_of_shards(parquet: &[String], shards: &[String]) -> bool {
    let stem = |name: &str| name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned();
    let shards: HashSet<String> = shards.iter().map(|name| stem(name)).collect();
    !parquet.is_empty() && parquet.iter().all(|name| shards.contains(&stem(name)))
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

fn local(location: &Location, storage: &Arc<Storage>, files: &mut Vec<Location>) -> Result<(), ManifestError> {
    let Some(path) = location.local() else { return Ok(()) };
    if path.is_file() {
        files.push(location.clone());
        return Ok(());
    }
    if path.is_dir() {
        for file in [saved::STATE, saved::SPLITS].into_iter().filter(|file| path.join(file).is_file()) {
            if let Some(found) = saved::files(location, file, storage)? {
                files.extend(found);
                return Ok(());
            }
        }
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
        let mut shards = shards_in(path)?;
        if shards.is_empty() && data.is_dir() {
            shards = shards_in(&data)?;
        }
        let names =
            |files: &[PathBuf]| files.iter().map(|file| Location::Local(file.clone()).file_name()).collect::<Vec<_>>();
        if are_of_shards(&names(&found), &names(&shards))
            || (found.is_empty() && !shards.is_empty() && !holds_images(path))
        {
            found = shards;
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

/// The archives in `folder`.
fn shards_in(folder: &Path) -> Result<Vec<PathBuf>, ManifestError> {
    let io = |source| ManifestError::Io { path: folder.display().to_string(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !is_hidden(&name) && is_shard(&name) && path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether there are images in `folder` or below.
fn holds_images(folder: &Path) -> bool {
    let is_shown = |entry: &walkdir::DirEntry| entry.depth() == 0 || !is_hidden(&entry.file_name().to_string_lossy());
    let mut entries = WalkDir::new(folder).follow_links(true).into_iter().filter_entry(is_shown).flatten();
    entries.any(|entry| entry.file_type().is_file() && has_image_extension(entry.path()))
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
    for file in [saved::STATE, saved::SPLITS].into_iter().filter(|file| all.contains(&prefix.clone().join(*file))) {
        if let Some(found) = saved::files(&location.with_key(folder), file, storage)? {
            files.extend(found);
            return Ok(());
        }
    }
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
    let name = |key: &ObjectPath| key.filename().unwrap_or_default().to_owned();
    let shards_in = |prefix: &ObjectPath| {
        let is_there = |key: &&ObjectPath| {
            let names = key.prefix_match(prefix).map(Iterator::count);
            names == Some(1) && !is_hidden(&name(key)) && is_shard(&name(key))
        };
        all.iter().filter(is_there).cloned().collect::<Vec<_>>()
    };
    let mut shards = shards_in(&prefix);
    if shards.is_empty() {
        shards = shards_in(&prefix.clone().join("data"));
    }
    let names = |keys: &[ObjectPath]| keys.iter().map(name).collect::<Vec<_>>();
    let holds_images = || all.iter().any(|key| !is_hidden(&name(key)) && has_image_extension(Path::new(key.as_ref())));
    if are_of_shards(&names(&keys), &names(&shards)) || (keys.is_empty() && !shards.is_empty() && !holds_images()) {
        keys = shards;
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
