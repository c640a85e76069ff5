//! What the storage lists at the places that a manifest names: sizes and `ETags` (modification times on disk), never a request
//! an image.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use futures::TryStreamExt;
use object_store::ObjectMeta;
use object_store::path::Path as ObjectPath;

use super::PlanError;
use crate::row_error::ErrorKind;
use crate::signature::{Seen, Version};
use crate::storage::{Failure, Location, Storage, explain};

/// Folders that are listed one by one; more are listed from the folders above them.
const MOST_FOLDERS: usize = 256;
/// Objects in folders below the one that is wanted that are passed over before they are left out by the store.
const MOST_DEEPER: usize = 10_000;

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

    /// Lists, and keeps what is at the places of `wanted` (see [`Seen::place`]). Where `roots` are given, nothing is listed that
    /// lies outside of them.
    ///
    /// A folder that cannot be had is no reason not to plan: its images are taken for missing, and reading them says why.
    ///
    /// # Errors
    /// [`PlanError::Listing`] when a store or disk does not answer, or when all folders are refused.
    pub(super) fn read(self, mut wanted: Vec<u64>, storage: &Storage, roots: &[Location]) -> Result<Listed, PlanError> {
        wanted.sort_unstable();
        wanted.dedup();
        let mut found = Found { wanted: Arc::new(wanted), versions: Vec::new() };
        let folders: Vec<&Location> = self.folders.iter().filter(|folder| may_hold(folder, roots)).collect();
        let (mut refused, mut first) = (0, None);
        for folder in &folders {
            let listed = match folder {
                Location::Local(path) => list_disk(path, self.folded, &mut Vec::new(), &mut found),
                _ => list_store(storage, folder, self.folded, &mut found),
            };
            let Err(failure) = listed else { continue };
            let error = || PlanError::Listing { folder: (*folder).clone(), message: failure.what.clone() };
            if failure.is_outage {
                return Err(error());
            }
            refused += usize::from(failure.is_refused);
            first.get_or_insert_with(error);
            tracing::debug!(%folder, why = failure.what, "cannot be listed");
        }
        if let Some(PlanError::Listing { folder, message }) = first {
            if refused == folders.len() {
                return Err(PlanError::Listing { folder, message });
            }
            let why = message.lines().next().unwrap_or_default();
            tracing::warn!(example = %folder, why, "folders that the manifest names cannot be listed; their images count as missing");
        }
        found.versions.sort_unstable_by_key(|(place, _)| *place);
        Ok(Listed { versions: found.versions })
    }
}

/// Whether images in `folder`, or below it, may be read.
fn may_hold(folder: &Location, roots: &[Location]) -> bool {
    // On disk, links count as what they lead to.
    let real = |place: &Location| match place {
        Location::Local(path) => Location::Local(path.canonicalize().unwrap_or_else(|_| path.clone())),
        other => other.clone(),
    };
    let folder = real(folder);
    roots.is_empty() || roots.iter().map(real).any(|root| folder.lies_in(&root) || root.lies_in(&folder))
}

/// What was found at the places that are wanted.
struct Found {
    /// Sorted.
    wanted: Arc<Vec<u64>>,
    versions: Vec<(u64, Version)>,
}

/// Why a folder was not listed.
struct NotListed {
    what: String,
    /// It may not be listed, or its bucket is not there: the job's fault, if the same is true of all others.
    is_refused: bool,
    /// It may be there, and nobody knows what is in it.
    is_outage: bool,
}

impl From<std::io::Error> for NotListed {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied};
        let is_refused = error.kind() == PermissionDenied;
        let is_nowhere = matches!(error.kind(), NotFound | NotADirectory | InvalidFilename | InvalidInput)
            || error.raw_os_error() == Some(libc::ELOOP);
        Self { what: error.to_string(), is_refused, is_outage: !is_refused && !is_nowhere }
    }
}

impl From<object_store::Error> for NotListed {
    fn from(error: object_store::Error) -> Self {
        let kind = Failure::of(&error).kind;
        let is_refused = matches!(kind, ErrorKind::Forbidden | ErrorKind::NotFound);
        Self { what: explain(&error), is_refused, is_outage: !is_refused && kind != ErrorKind::InvalidUri }
    }
}

/// `above`: device and inode of the folders that this one lies in, by which a link that leads back is known.
fn list_disk(folder: &Path, below: bool, above: &mut Vec<(u64, u64)>, found: &mut Found) -> Result<(), NotListed> {
    let metadata = std::fs::metadata(folder)?;
    let identity = (metadata.dev(), metadata.ino());
    if above.contains(&identity) {
        return Ok(());
    }
    above.push(identity);
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // Links are followed; what vanishes meanwhile, or leads nowhere, is missing.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            // Nobody knows whether the manifest names anything in there.
            match if below { list_disk(&path, below, above, found) } else { Ok(()) } {
                Err(failure) if failure.is_outage => return Err(failure),
                _ => continue,
            }
        }
        let place = Seen::uri(&Location::Local(path).to_string()).place();
        if found.wanted.binary_search(&place).is_ok() {
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let stamp = modified.unwrap_or_default().as_nanos().to_string();
            found.versions.push((place, Version::new(metadata.len(), &stamp)));
        }
    }
    above.pop();
    Ok(())
}

fn list_store(storage: &Storage, folder: &Location, below: bool, found: &mut Found) -> Result<(), NotListed> {
    let (store, prefix) = storage.open(folder)?;
    let (folder, wanted) = (folder.clone(), found.wanted.clone());
    let versions = storage.wait(async move {
        let version = |meta: ObjectMeta| {
            let place = Seen::uri(&folder.with_key(meta.location.as_ref()).to_string()).place();
            wanted.binary_search(&place).ok()?;
            let stamp = meta.e_tag.unwrap_or_else(|| meta.last_modified.to_rfc3339());
            Some((place, Version::new(meta.size, &stamp)))
        };
        let (mut versions, mut deeper) = (Vec::new(), 0);
        let mut objects = store.list(Some(&prefix));
        while let Some(meta) = objects.try_next().await? {
            let is_deeper = meta.location.prefix_match(&prefix).is_some_and(|parts| parts.count() > 1);
            if below || !is_deeper {
                versions.extend(version(meta));
                continue;
            }
            deeper += 1;
            if deeper > MOST_DEEPER {
                // Whole trees lie below that nobody asked for. This leaves them out, at the price of holding the folder.
                let direct = store.list_with_delimiter(Some(&prefix)).await?;
                return Ok(direct.objects.into_iter().filter_map(version).collect());
            }
        }
        Ok(versions)
    })?;
    found.versions.extend(versions);
    Ok(())
}

impl Listed {
    /// What the listing shows at a place; None: nothing.
    pub(super) fn version(&self, place: Seen) -> Option<Version> {
        let found = self.versions.binary_search_by_key(&place.place(), |(place, _)| *place).ok()?;
        Some(self.versions[found].1)
    }
}
