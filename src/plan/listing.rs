//! What the storage lists at the places that a manifest names: sizes and modification times, never a request an image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::PlanError;
use crate::signature::{Seen, Version};

/// Folders that are listed one by one; more are listed from the folders above them.
const MOST_FOLDERS: usize = 256;

/// The folders to list.
#[derive(Debug, Default)]
pub(super) struct Listing {
    folders: BTreeSet<PathBuf>,
    /// Whether folders were folded into those above them, which are then listed with all below.
    folded: bool,
    last: PathBuf,
}

/// What was listed.
#[derive(Debug)]
pub(super) struct Listed {
    /// By place, sorted.
    versions: Vec<(u64, Version)>,
}

impl Listing {
    /// Takes note of the folder of the image at `path`.
    pub(super) fn add(&mut self, path: &Path) {
        let Some(folder) = path.parent() else { return };
        // Rows of one folder usually stand together.
        if folder == self.last {
            return;
        }
        folder.clone_into(&mut self.last);
        if self.folded && folder.ancestors().any(|above| self.folders.contains(above)) {
            return;
        }
        self.folders.insert(folder.to_owned());
        while self.folders.len() > MOST_FOLDERS {
            self.fold();
        }
    }

    /// Replaces the deepest folders by those above them.
    fn fold(&mut self) {
        self.folded = true;
        let depth = |path: &PathBuf| path.components().count();
        let deepest = self.folders.iter().map(depth).max().unwrap_or(0);
        let folders = std::mem::take(&mut self.folders).into_iter();
        self.folders = folders
            .map(|path| match path.parent() {
                Some(parent) if path.components().count() == deepest => parent.to_owned(),
                _ => path,
            })
            .collect();
        let all = self.folders.clone();
        self.folders.retain(|path| !path.ancestors().skip(1).any(|above| all.contains(above)));
    }

    /// Lists.
    ///
    /// # Errors
    /// [`PlanError::Listing`] when a folder is there and cannot be listed.
    pub(super) fn read(self) -> Result<Listed, PlanError> {
        let mut versions = Vec::new();
        let mut folders: Vec<PathBuf> = self.folders.into_iter().collect();
        while let Some(folder) = folders.pop() {
            let failed = |source| PlanError::Listing { path: folder.clone(), source };
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    tracing::warn!(folder = %folder.display(), "a folder that the manifest names is not there");
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let path = entry.map_err(failed)?.path();
                // Links are followed; what vanishes meanwhile, or leads nowhere, is missing.
                let Ok(metadata) = std::fs::metadata(&path) else { continue };
                if metadata.is_dir() {
                    if self.folded {
                        folders.push(path);
                    }
                    continue;
                }
                let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let stamp = modified.unwrap_or_default().as_nanos().to_string();
                versions.push((Seen::uri(&path.to_string_lossy()).place(), Version::new(metadata.len(), &stamp)));
            }
        }
        versions.sort_unstable_by_key(|(place, _)| *place);
        Ok(Listed { versions })
    }
}

impl Listed {
    /// What the listing shows at a place; None: nothing.
    #[must_use]
    pub(super) fn version(&self, place: Seen) -> Option<Version> {
        let found = self.versions.binary_search_by_key(&place.place(), |(place, _)| *place).ok()?;
        Some(self.versions[found].1)
    }
}
