//! Lists the images in a folder, for a new manifest.
//!
//! In: a folder of this machine, or a prefix of an object store. Out: every image below it by its path, sorted, and what was left
//! out and why. Never here: image bytes.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use futures::TryStreamExt;
use object_store::ObjectMeta;
use walkdir::WalkDir;

use crate::storage::{Location, Storage, explain};

/// Paths that a message shows of one kind.
const EXAMPLES: usize = 5;
/// Characters of a path that a message shows.
const LONGEST: usize = 300;
/// Characters of an extension that are told from each other.
const LONGEST_EXTENSION: usize = 20;
/// File name extensions that a message shows.
const EXTENSIONS: usize = 8;

/// An image in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageFile {
    /// Path below the folder, with `/`.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Last modification, microseconds since 1970, UTC.
    pub modified_us: i64,
}

/// The images in a folder and below it.
#[derive(Debug, Default)]
pub struct FolderListing {
    /// By path, each path once.
    pub images: Vec<ImageFile>,
    /// What else was found.
    pub left_out: LeftOut,
}

/// Entries of a folder that are not listed.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Files and folders whose names begin with a dot.
    pub hidden: u64,
    /// Files without the extension of an image, by their extension in lower case.
    pub other: BTreeMap<String, u64>,
    /// Links to images that are listed under their own path, and links that lead back to a folder above.
    pub linked_again: u64,
    /// Named like images, but not regular files: pipes, sockets, devices.
    pub irregular: Paths,
    /// Links that lead nowhere.
    pub broken_links: Paths,
    /// Images whose paths are not UTF-8, and so not Parquet strings.
    pub not_utf8: Paths,
    /// Files and folders that this user may not read.
    pub unreadable: Paths,
}

/// Paths of one kind: their number, and the first few.
#[derive(Debug, Default)]
pub struct Paths {
    /// How many.
    pub count: u64,
    /// The first few, as text.
    pub examples: Vec<String>,
}

impl Paths {
    /// Adds `path`, with control characters escaped, and `why`.
    #[allow(
        clippy::unnecessary_debug_formatting,
        reason = "shows bytes that are not UTF-8, and escapes control characters"
    )]
    fn add(&mut self, path: &Path, why: &str) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            let path: String = format!("{path:?}").chars().take(LONGEST).collect();
            self.examples.push(format!("{path}{why}"));
        }
    }

    /// `3 things: a, b, c`, with `one` or `many` as the noun; None without any.
    fn describe(&self, one: &str, many: &str) -> Option<String> {
        let more = if self.count > self.examples.len() as u64 { ", ..." } else { "" };
        let noun = if self.count == 1 { one } else { many };
        (self.count > 0).then(|| format!("{} {noun}: {}{more}", self.count, self.examples.join(", ")))
    }
}

/// A folder whose images cannot be listed. Ends the command with status 2 before anything was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// The path does not exist, or is not a folder.
    #[error("expected a folder of images, found {found}: {path}")]
    NotAFolder {
        /// As given.
        path: String,
        /// What is there.
        found: String,
    },
    /// Folders that this user may not read, so that the listing would be incomplete.
    #[error(
        "cannot read {what}\nhint: a manifest without the images in there would be incomplete, so none was written; let this user read the folder, or leave out what cannot be read with --skip-unreadable"
    )]
    Unreadable {
        /// How many and which.
        what: String,
    },
    /// No image at all.
    #[error(
        "found no images in {folder}{left_out}\nhint: files named like .jpg, .png, .gif, .webp, .bmp, .tiff or .avif count as images, in any case; is the disk mounted?"
    )]
    Empty {
        /// As given.
        folder: String,
        /// What was found instead.
        left_out: String,
    },
    /// A store that does not list its objects.
    #[error("cannot list {folder}: {}", explain(.source))]
    Storage {
        /// The prefix.
        folder: String,
        /// Why.
        source: object_store::Error,
    },
    /// A web server.
    #[error("{folder}: a web server cannot be listed\nhint: write the manifest yourself, with one URL a row")]
    Web {
        /// As given, without credentials.
        folder: String,
    },
}

impl LeftOut {
    /// Entries that are left out of a complete listing, one line per reason.
    #[must_use]
    pub fn expected(&self) -> Vec<String> {
        let files: u64 = self.other.values().sum();
        let mut by_count: Vec<_> = self.other.iter().collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut kinds: Vec<String> =
            by_count.iter().take(EXTENSIONS).map(|(extension, count)| format!("{count} {extension}")).collect();
        kinds.extend((by_count.len() > EXTENSIONS).then(|| "...".to_owned()));
        let line = |count: u64, one: &str, many: &str| {
            (count > 0).then(|| format!("{count} {}", if count == 1 { one } else { many }))
        };
        [
            line(files, "file of another type", "files of other types")
                .map(|all| format!("{all}: {}", kinds.join(", "))),
            line(self.hidden, "hidden file or folder", "hidden files and folders"),
            line(
                self.linked_again,
                "image or folder behind a link, listed under its own name",
                "images or folders behind links, listed under their own names",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Images that are left out, one line per reason.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        [
            self.not_utf8.describe(
                "image whose path is not UTF-8, which Parquet cannot hold",
                "images whose paths are not UTF-8, which Parquet cannot hold",
            ),
            self.broken_links.describe("link that leads nowhere", "links that lead nowhere"),
            self.irregular.describe("pipe, socket or device", "pipes, sockets and devices"),
            self.unreadable.describe("folder or file that cannot be read", "folders and files that cannot be read"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl FolderListing {
    /// The images in the folder `folder` of this machine and below it, links followed, or None when `stop` says so. A file that
    /// several paths lead to is listed under each that has no link in it, or else under the first.
    ///
    /// # Errors
    /// [`FolderError`]; [`FolderError::Unreadable`] unless `skip_unreadable`.
    pub fn local(
        folder: &Path,
        is_image: fn(&Path) -> bool,
        skip_unreadable: bool,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Self>, FolderError> {
        let not_a_folder = |found: String| FolderError::NotAFolder { path: folder.display().to_string(), found };
        let metadata = std::fs::metadata(folder).map_err(|error| {
            let is_missing = error.kind() == std::io::ErrorKind::NotFound;
            not_a_folder(if is_missing { "nothing".to_owned() } else { error.to_string() })
        })?;
        if !metadata.is_dir() {
            return Err(not_a_folder("a file".to_owned()));
        }
        let mut left_out = LeftOut::default();
        let mut found = Vec::new();
        // The depth of the link to a folder that the walk is below.
        let mut below_link: Option<usize> = None;
        let mut walk = WalkDir::new(folder).min_depth(1).follow_links(true).into_iter();
        while let Some(entry) = walk.next() {
            if stop() {
                return Ok(None);
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    left_out.failed(&error);
                    continue;
                }
            };
            below_link = below_link.filter(|depth| entry.depth() > *depth);
            if is_hidden(entry.file_name()) {
                left_out.hidden += 1;
                if entry.file_type().is_dir() {
                    walk.skip_current_dir();
                }
                continue;
            }
            if entry.file_type().is_dir() {
                if entry.path_is_symlink() && below_link.is_none() {
                    below_link = Some(entry.depth());
                }
                continue;
            }
            if !is_image(entry.path()) {
                left_out.other_type(entry.path());
            } else if !entry.file_type().is_file() {
                left_out.irregular.add(entry.path(), "");
            } else {
                let by_link = below_link.is_some() || entry.path_is_symlink();
                match (entry.path().strip_prefix(folder).ok().and_then(Path::to_str), entry.metadata()) {
                    (None, _) => left_out.not_utf8.add(entry.path(), ""),
                    (_, Err(error)) => left_out.failed(&error),
                    (Some(path), Ok(metadata)) => found.push(FoundImage {
                        file: ImageFile {
                            path: path.to_owned(),
                            bytes: metadata.len(),
                            modified_us: metadata
                                .mtime()
                                .saturating_mul(1_000_000)
                                .saturating_add(metadata.mtime_nsec() / 1000),
                        },
                        by_link,
                        identity: (metadata.dev(), metadata.ino()),
                    }),
                }
            }
        }
        if let Some(what) =
            left_out.unreadable.describe("folder or file", "folders and files").filter(|_| !skip_unreadable)
        {
            return Err(FolderError::Unreadable { what });
        }
        found.sort_unstable_by(|a, b| a.file.cmp(&b.file));
        let listed = found.len();
        let mut seen: HashSet<_> = found.iter().filter(|found| !found.by_link).map(|found| found.identity).collect();
        found.retain(|found| !found.by_link || seen.insert(found.identity));
        left_out.linked_again += (listed - found.len()) as u64;
        let images = found.into_iter().map(|found| found.file).collect();
        Self { images, left_out }.unless_empty(&folder.display()).map(Some)
    }

    /// The images among the objects below the prefix `folder`.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn remote(folder: &Location, storage: &Storage, is_image: fn(&Path) -> bool) -> Result<Self, FolderError> {
        if let Location::Http(_) = folder {
            return Err(FolderError::Web { folder: folder.to_string() });
        }
        let failed = |source| FolderError::Storage { folder: folder.to_string(), source };
        let (store, prefix) = storage.open(folder).map_err(failed)?;
        let below = prefix.clone();
        let objects = storage.wait(async move { store.list(Some(&below)).try_collect::<Vec<ObjectMeta>>().await });
        let mut listing = Self::default();
        for object in objects.map_err(failed)? {
            let Some(segments) = object.location.prefix_match(&prefix) else { continue };
            let segments: Vec<String> = segments.map(|segment| segment.as_ref().to_owned()).collect();
            let path = segments.join("/");
            if segments.iter().any(|segment| is_hidden(OsStr::new(segment))) {
                listing.left_out.hidden += 1;
            } else if is_image(Path::new(&path)) {
                let modified_us = object.last_modified.timestamp_micros();
                listing.images.push(ImageFile { path, bytes: object.size, modified_us });
            } else {
                listing.left_out.other_type(Path::new(&path));
            }
        }
        listing.images.sort_unstable();
        listing.unless_empty(folder)
    }

    fn unless_empty(self, folder: &dyn std::fmt::Display) -> Result<Self, FolderError> {
        if !self.images.is_empty() {
            return Ok(self);
        }
        let left_out = self.left_out.missed().into_iter().chain(self.left_out.expected()).collect::<Vec<_>>();
        let left_out = if left_out.is_empty() { String::new() } else { format!(", only {}", left_out.join("; ")) };
        Err(FolderError::Empty { folder: folder.to_string(), left_out })
    }
}

/// An image, before links to the same file are removed.
struct FoundImage {
    file: ImageFile,
    /// Whether its path has a link in it.
    by_link: bool,
    /// Device and inode.
    identity: (u64, u64),
}

impl LeftOut {
    /// Counts one of `what`, in the plural.
    pub(super) fn add(&mut self, what: &str) {
        *self.other.entry(what.to_owned()).or_default() += 1;
    }

    /// Counts a file of another type by its extension.
    pub(super) fn add_extension(&mut self, extension: &str) {
        let shown: String = extension.chars().take(LONGEST_EXTENSION).collect();
        self.add(&format!(".{shown}"));
    }

    /// Adds what was left out of another archive.
    pub(super) fn extend(&mut self, more: Self) {
        for (what, count) in more.other {
            *self.other.entry(what).or_default() += count;
        }
    }

    fn other_type(&mut self, path: &Path) {
        let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy().to_lowercase()));
        *self.other.entry(extension.unwrap_or_else(|| "without an extension".to_owned())).or_default() += 1;
    }

    /// Records an entry that the walk could not read.
    fn failed(&mut self, error: &walkdir::Error) {
        let path = error.path().unwrap_or(Path::new("?"));
        if error.depth() > 0 && path.file_name().is_some_and(is_hidden) {
            self.hidden += 1;
        } else if error.loop_ancestor().is_some() {
            self.linked_again += 1;
        } else if error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            // Also a file that was removed during the walk.
            self.broken_links.add(path, "");
        } else {
            let why = error.io_error().map_or_else(String::new, |error| format!(" ({error})"));
            self.unreadable.add(path, &why);
        }
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_that_is_stopped_lists_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a.png")).unwrap();
        let stopped = FolderListing::local(folder.path(), |_| true, false, &|| true).unwrap();
        assert!(stopped.is_none());
    }
}
