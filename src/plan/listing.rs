//! What the storage lists at the places that a manifest names: sizes and `ETags` (modification times on disk), never a request
//! an image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use futures::TryStreamExt;
use object_store::ObjectMeta;
use object_store::path::Path as ObjectPath;

use super::PlanError;
use crate::signature::{Seen, Version};
use crate::storage::{Location, Storage, explain};

/// Folders that are listed one by one; more are listed from the folders above them.
const MOST_FOLDERS: usize = 256;

/// The folders to list.
#[derive(Debug, Default)]
pub(super) struct Listing {
    folders: BTreeSet<Location>,
    /// Whether folders were folded into those above them, which are then listed with all below.
    folded: bool,
    last: Option<Location>,
}

/// What was listed.
#[derive(Debug)]
pub(super) struct Listed {
    /// By place, sorted.
    versions: Vec<(u64, Version)>,
}

impl Listing {
    /// Takes note of the folder of the image at `location`; false where nothing can be listed.
    pub(super) fn add(&mut self, location: &Location) -> bool {
        match location {
            Location::Http(_) => return false,
            // No object has such a name; reading it says so.
            Location::Object { key, .. } if ObjectPath::parse(key).is_err() => return false,
            Location::Object { .. } | Location::Local(_) => {}
        }
        let folder = location.folder();
        // Rows of one folder usually stand together.
        if self.last.as_ref() == Some(&folder) {
            return true;
        }
        self.last = Some(folder.clone());
        if self.folded && self.folders.iter().any(|listed| folder.lies_in(listed)) {
            return true;
        }
        self.folders.insert(folder);
        while self.folders.len() > MOST_FOLDERS {
            self.fold();
        }
        true
    }

    /// Replaces the deepest folders by those above them.
    fn fold(&mut self) {
        self.folded = true;
        let depth = |folder: &Location| folder.to_string().split('/').count();
        let deepest = self.folders.iter().map(depth).max().unwrap_or(0);
        let folders = std::mem::take(&mut self.folders).into_iter();
        let folders: BTreeSet<Location> =
            folders.map(|folder| if depth(&folder) == deepest { folder.folder() } else { folder }).collect();
        // Whatever lies in a folder sorts behind it.
        for folder in folders {
            if !self.folders.iter().any(|above| folder.lies_in(above)) {
                self.folders.insert(folder);
            }
        }
    }

    /// Lists.
    ///
    /// # Errors
    /// [`PlanError::Listing`] when a folder is there and cannot be listed, or a store does not answer.
    pub(super) fn read(self, storage: &Storage) -> Result<Listed, PlanError> {
        let mut versions = Vec::new();
        for folder in &self.folders {
            let listed = match folder {
                Location::Local(path) => list_disk(path, self.folded, &mut versions).map_err(|error| error.to_string()),
                _ => list_store(storage, folder, self.folded, &mut versions).map_err(|error| explain(&error)),
            };
            listed.map_err(|message| PlanError::Listing { folder: folder.clone(), message })?;
        }
        versions.sort_unstable_by_key(|(place, _)| *place);
        Ok(Listed { versions })
    }
}

fn list_disk(folder: &Path, below: bool, versions: &mut Vec<(u64, Version)>) -> std::io::Result<()> {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), "a folder that the manifest names is not there");
                continue;
            }
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            // Links are followed; what vanishes meanwhile, or leads nowhere, is missing.
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if below {
                    folders.push(path);
                }
                continue;
            }
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let stamp = modified.unwrap_or_default().as_nanos().to_string();
            let place = Seen::uri(&Location::Local(path).to_string()).place();
            versions.push((place, Version::new(metadata.len(), &stamp)));
        }
    }
    Ok(())
}

fn list_store(
    storage: &Storage,
    folder: &Location,
    below: bool,
    versions: &mut Vec<(u64, Version)>,
) -> object_store::Result<()> {
    let (store, prefix) = storage.open(folder)?;
    let folder = folder.clone();
    let version = move |meta: ObjectMeta| {
        let stamp = meta.e_tag.unwrap_or_else(|| meta.last_modified.to_rfc3339());
        let place = Seen::uri(&folder.with_key(meta.location.as_ref()).to_string()).place();
        (place, Version::new(meta.size, &stamp))
    };
    let found: Vec<_> = storage.wait(async move {
        if below {
            store.list(Some(&prefix)).map_ok(version).try_collect().await
        } else {
            Ok(store.list_with_delimiter(Some(&prefix)).await?.objects.into_iter().map(version).collect())
        }
    })?;
    versions.extend(found);
    Ok(())
}

impl Listed {
    /// What the listing shows at a place; None: nothing.
    pub(super) fn version(&self, place: Seen) -> Option<Version> {
        let found = self.versions.binary_search_by_key(&place.place(), |(place, _)| *place).ok()?;
        Some(self.versions[found].1)
    }
}
