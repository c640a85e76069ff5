//! Expands `input.manifest`: files as they are, folders as their `*.parquet`, globs sorted by name.

use std::collections::HashSet;
use std::sync::Arc;

use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::{ObjectStoreExt, path::Path as ObjectPath};

use super::error::ManifestError;
use crate::storage::{Location, Storage};

/// Every file that the patterns name, each once.
pub(super) fn expand(patterns: &[Location], storage: &Arc<Storage>) -> Result<Vec<Location>, ManifestError> {
    let mut files = Vec::new();
    for pattern in patterns {
        let before = files.len();
        match pattern {
            Location::Local(_) => local(pattern, &mut files)?,
            Location::Object { .. } => remote(pattern, storage, &mut files)?,
            // A web server cannot be listed.
            Location::Http(_) => files.push(pattern.clone()),
        }
        if files.len() == before {
            return Err(ManifestError::NotFound { pattern: pattern.to_string() });
        }
    }
    let mut seen = HashSet::new();
    match files.iter().find(|file| !seen.insert(*file)) {
        Some(path) => Err(ManifestError::ListedTwice { path: path.to_string() }),
        None => Ok(files),
    }
}

fn local(location: &Location, files: &mut Vec<Location>) -> Result<(), ManifestError> {
    let Some(path) = location.local() else { return Ok(()) };
    if path.is_file() {
        files.push(location.clone());
        return Ok(());
    }
    let text = path.to_string_lossy();
    let text = if path.is_dir() { format!("{}/*.parquet", Pattern::escape(&text)) } else { text.into_owned() };
    let matches = glob::glob(&text).map_err(|source| ManifestError::Glob { pattern: location.to_string(), source })?;
    for found in matches {
        let found = found.map_err(|error| {
            let path = error.path().display().to_string();
            ManifestError::Io { path, source: error.into() }
        })?;
        files.push(Location::Local(found));
    }
    Ok(())
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
        let folder = Pattern::escape(key.strip_suffix('/').unwrap_or(key));
        if folder.is_empty() { "*.parquet".to_owned() } else { format!("{folder}/*.parquet") }
    };
    let pattern = Pattern::new(&text);
    let pattern = pattern.map_err(|source| ManifestError::Glob { pattern: location.to_string(), source })?;
    let plain = key.split('/').take_while(|segment| !segment.contains(['*', '?', '[']));
    let folder = location.with_key(&plain.collect::<Vec<_>>().join("/"));
    let (store, prefix) = storage.open(&folder).map_err(failed)?;
    let listed = storage.wait(async move {
        let objects = store.list(Some(&prefix)).map_ok(|object| object.location);
        objects.try_collect::<Vec<ObjectPath>>().await
    });
    let as_paths = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let mut keys: Vec<ObjectPath> = listed.map_err(failed)?;
    keys.retain(|key| pattern.matches_with(key.as_ref(), as_paths));
    keys.sort();
    files.extend(keys.iter().map(|key| location.with_key(key.as_ref())));
    Ok(())
}
