//! Lists the folders of a manifest's images: sizes and `ETags` (modification times on disk) without a request for each
//! image.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::TryStreamExt;
use object_store::ObjectMeta;

use super::PlanError;
use crate::row::error::ErrorKind;
use crate::row::signature::{ContentFingerprint, ListedVersion};
use crate::storage::{Failure, Location, Storage, explain, keys};

/// The most folders that are listed one by one. If there are more, parents are listed instead.
const MOST_FOLDERS: usize = 256;
/// The most objects in subfolders that are skipped; with more, the store is asked for the folder without its subfolders.
const MOST_DEEPER: usize = 10_000;

/// The folders to list.
#[derive(Debug, Default)]
pub(super) struct Listing {
    folders: BTreeSet<Location>,
    /// Whether folders were replaced by their parents, which are then listed with all subfolders.
    folded: bool,
    last: Option<Location>,
}

/// The objects that were listed.
#[derive(Debug)]
pub(super) struct Listed {
    /// Their versions by the hash of the URI, sorted.
    versions: Vec<(u64, ListedVersion)>,
    /// Nanoseconds since 1970, if a folder may hold objects that were not listed.
    incomplete: Option<u128>,
}

impl Listing {
    /// Adds the folder of the image at `location`; false if its storage cannot be listed.
    pub(super) fn add(&mut self, location: &Location) -> bool {
        match location {
            Location::Http(_) => return false,
            // Reading one that cannot be spelled fails with a message of its own.
            Location::Object { key, .. } if !keys::is_listable(key) => return false,
            Location::Object { .. } | Location::Local(_) => {}
        }
        let folder = location.folder();
        // Consecutive rows usually name images of one folder.
        if self.last.as_ref() == Some(&folder) {
            return true;
        }
        self.last = Some(folder.clone());
        if self.folded && self.folders.iter().any(|listed| folder.starts_with(listed)) {
            return true;
        }
        self.folders.insert(folder);
        while self.folders.len() > MOST_FOLDERS {
            self.fold();
        }
        true
    }

    /// Replaces the deepest folders by their parents.
    fn fold(&mut self) {
        self.folded = true;
        let depth = |folder: &Location| folder.to_string().split('/').count();
        let deepest = self.folders.iter().map(depth).max().unwrap_or(0);
        let folders = std::mem::take(&mut self.folders).into_iter();
        let folders: BTreeSet<Location> =
            folders.map(|folder| if depth(&folder) == deepest { folder.folder() } else { folder }).collect();
        // A folder sorts before its subfolders.
        for folder in folders {
            if !self.folders.iter().any(|above| folder.starts_with(above)) {
                self.folders.insert(folder);
            }
        }
    }

    /// Lists the folders, and keeps the objects whose URI hash is in `wanted` (see [`ContentFingerprint::uri_hash`]). Nothing is listed
    /// outside `roots`, unless they are empty.
    ///
    /// A folder that cannot be listed does not end planning. The images of one that does not exist are missing, and fetching them
    /// gives the error. Those of one that may not be listed may be there: what is not found elsewhere counts as new.
    ///
    /// # Errors
    /// [`PlanError::Listing`] when a store or disk does not answer, or when all folders are refused.
    pub(super) fn read(self, mut wanted: Vec<u64>, storage: &Storage, roots: &[Location]) -> Result<Listed, PlanError> {
        wanted.sort_unstable();
        wanted.dedup();
        let mut found = ListedVersions { wanted: Arc::new(wanted), versions: Vec::new(), refused: false };
        let roots = Roots::new(roots);
        let folders: Vec<Location> =
            self.folders.iter().flat_map(|folder| roots.listed_for(folder, self.folded)).collect();
        let storage = storage.within(&roots.all);
        let (mut refused, mut first) = (0, None);
        for folder in &folders {
            let listed = match folder {
                Location::Local(path) => list_disk(path, self.folded, &roots, &mut Vec::new(), &mut found),
                _ => list_store(&storage, folder, self.folded, &mut found),
            };
            let Err(failure) = listed else { continue };
            let error = || PlanError::Listing { folder: folder.clone(), message: failure.what.clone() };
            if failure.is_outage {
                return Err(error());
            }
            refused += usize::from(failure.is_refused);
            found.refused |= failure.may_exist;
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
        let incomplete =
            found.refused.then(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()));
        if incomplete.is_some() {
            tracing::warn!("a folder may be read and not listed; images that were not found in a listing count as new");
        }
        found.versions.sort_unstable_by_key(|(hash, _)| *hash);
        Ok(Listed { versions: found.versions, incomplete })
    }
}

/// The locations that images must be in, `limits.roots`; none: anywhere.
struct Roots {
    all: Vec<Location>,
    /// Those of this machine, with links resolved.
    on_disk: Vec<PathBuf>,
}

impl Roots {
    fn new(roots: &[Location]) -> Self {
        let on_disk = roots.iter().filter_map(Location::local).filter_map(|root| root.canonicalize().ok()).collect();
        Self { all: roots.to_vec(), on_disk }
    }

    /// What to list for the images in `folder`, and for those below it if it was `folded`.
    fn listed_for(&self, folder: &Location, folded: bool) -> Vec<Location> {
        if let Location::Local(path) = folder {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            let leads_to_one = self.hold(&real) || self.on_disk.iter().any(|root| root.starts_with(&real));
            return Vec::from_iter(leads_to_one.then(|| folder.clone()));
        }
        if folder.is_within(&self.all) {
            return vec![folder.clone()];
        }
        let below = self.all.iter().filter(|root| folded && root.starts_with(folder));
        below.cloned().collect()
    }

    /// Whether the file or folder `path` of this machine, whose links are resolved, may be read.
    fn hold(&self, path: &Path) -> bool {
        self.all.is_empty() || self.on_disk.iter().any(|root| path.starts_with(root))
    }

    /// What may be looked at in `folder`: all entries of a root, and what leads to one from a folder above.
    fn entries<'a>(&'a self, folder: &'a Path) -> io::Result<Box<dyn Iterator<Item = io::Result<PathBuf>> + 'a>> {
        if self.all.is_empty() {
            return Ok(Box::new(std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()))));
        }
        let real = folder.canonicalize()?;
        if !self.hold(&real) {
            let next = |root: &PathBuf| Some(folder.join(root.strip_prefix(&real).ok()?.components().next()?));
            let ways: BTreeSet<PathBuf> = self.on_disk.iter().filter_map(next).collect();
            return Ok(Box::new(ways.into_iter().map(Ok)));
        }
        let entries = std::fs::read_dir(folder)?.map(|entry| {
            let entry = entry?;
            let leads_out =
                entry.file_type()?.is_symlink() && !entry.path().canonicalize().is_ok_and(|real| self.hold(&real));
            Ok((!leads_out).then(|| entry.path()))
        });
        Ok(Box::new(entries.filter_map(io::Result::transpose)))
    }
}

/// The wanted objects that were found.
struct ListedVersions {
    /// Sorted.
    wanted: Arc<Vec<u64>>,
    versions: Vec<(u64, ListedVersion)>,
    /// Whether a folder that exists may not be listed.
    refused: bool,
}

/// Why a folder was not listed.
struct NotListed {
    what: String,
    /// Access is denied, or the bucket does not exist: the job is wrong, if the same is true of all others.
    is_refused: bool,
    /// Access is denied, so there may be images in it, which may be read.
    may_exist: bool,
    /// The storage did not answer, so the folder may exist.
    is_outage: bool,
}

impl From<io::Error> for NotListed {
    fn from(error: io::Error) -> Self {
        use std::io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied};
        let is_refused = error.kind() == PermissionDenied;
        let is_nowhere = matches!(error.kind(), NotFound | NotADirectory | InvalidFilename | InvalidInput)
            || error.raw_os_error() == Some(libc::ELOOP);
        Self { what: error.to_string(), is_refused, may_exist: is_refused, is_outage: !is_refused && !is_nowhere }
    }
}

impl From<object_store::Error> for NotListed {
    fn from(error: object_store::Error) -> Self {
        let kind = Failure::of(&error).kind;
        let is_refused = matches!(kind, ErrorKind::Forbidden | ErrorKind::NotFound);
        let may_exist = kind == ErrorKind::Forbidden;
        Self { what: explain(&error), is_refused, may_exist, is_outage: !is_refused && kind != ErrorKind::InvalidUri }
    }
}

/// `above`: device and inode of the folders above this one, to detect a link that leads back to one of them.
fn list_disk(
    folder: &Path,
    below: bool,
    roots: &Roots,
    above: &mut Vec<(u64, u64)>,
    found: &mut ListedVersions,
) -> Result<(), NotListed> {
    let metadata = std::fs::metadata(folder)?;
    let identity = (metadata.dev(), metadata.ino());
    if above.contains(&identity) {
        return Ok(());
    }
    above.push(identity);
    for path in roots.entries(folder)? {
        let path = path?;
        // Links are followed; files that vanish while listing, and dangling links, are missing.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            // The manifest may name no image below it, so only an outage is an error.
            match if below { list_disk(&path, below, roots, above, found) } else { Ok(()) } {
                Err(failure) if failure.is_outage => return Err(failure),
                Err(failure) => found.refused |= failure.may_exist,
                Ok(()) => {}
            }
            continue;
        }
        let hash = ContentFingerprint::uri(&Location::Local(path).to_string()).uri_hash();
        if found.wanted.binary_search(&hash).is_ok() {
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let stamp = modified.unwrap_or_default().as_nanos().to_string();
            found.versions.push((hash, ListedVersion::new(metadata.len(), &stamp)));
        }
    }
    above.pop();
    Ok(())
}

fn list_store(storage: &Storage, folder: &Location, below: bool, found: &mut ListedVersions) -> Result<(), NotListed> {
    let (store, prefix) = storage.open(folder)?;
    let (folder, wanted) = (folder.clone(), found.wanted.clone());
    let versions = storage.wait(async move {
        let version = |meta: ObjectMeta| {
            let hash = ContentFingerprint::uri(&folder.with_key(meta.location.as_ref()).to_string()).uri_hash();
            wanted.binary_search(&hash).ok()?;
            let stamp = meta.e_tag.unwrap_or_else(|| meta.last_modified.to_rfc3339());
            Some((hash, ListedVersion::new(meta.size, &stamp)))
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
                // Large subfolders that are not wanted: this request leaves them out, but holds the folder's listing in memory.
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
    /// The content of the object at `uri`, as far as listings tell.
    pub(super) fn content(&self, uri: ContentFingerprint) -> ContentFingerprint {
        let found = self.versions.binary_search_by_key(&uri.uri_hash(), |(hash, _)| *hash).ok();
        match (found.map(|found| self.versions[found].1), self.incomplete) {
            (None, Some(time)) => uri.not_listed(time),
            (version, _) => uri.listed(version),
        }
    }
}
