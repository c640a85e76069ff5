//! `nightcap manifest`: a manifest of the images in a folder, or of the samples in tar archives.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::context::Context;
use crate::cli::ManifestArgs;
use crate::error::{Error, ExitStatus};
use crate::manifest::folder::{FolderListing, ImageFile, LeftOut};
use crate::manifest::shards;
use crate::manifest::write::encode;
use crate::preprocess::has_image_extension;
use crate::storage::paths::relative_to;
use crate::storage::{Location, Storage};
use crate::support::regular_file;
use crate::support::whole_file::{self, Existing};

pub(super) fn execute(args: &ManifestArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    make(&args.folder, &args.output, args.skip_unreadable, context)
}

/// Writes the manifest of `folder` to `file`, and logs what it holds and what was left out.
///
/// An existing file whose content would not change is left alone: its modification time stays, so that an unfinished run can be
/// resumed.
pub(super) fn make(
    folder: &Path,
    file: &Path,
    skip_unreadable: bool,
    context: &Context<'_>,
) -> Result<ExitStatus, Error> {
    let base = check(file)?;
    if let Some((parquet, left_out)) = of_shards(folder, &base)? {
        return write(&parquet, file, &left_out, None);
    }
    let (listing, base) = match uri(folder)? {
        Some(location) if location.local().is_none() => {
            let storage = Storage::from_environment();
            (Some(FolderListing::remote(&location, &storage, has_image_extension)?), Base::Remote(location))
        }
        location => {
            let folder = location.as_ref().and_then(Location::local).unwrap_or(folder);
            let stop = || context.stop.requested();
            let listing = FolderListing::local(folder, has_image_extension, skip_unreadable, &stop)?;
            (listing, Base::local(&base, folder)?)
        }
    };
    let Some(listing) = listing else {
        tracing::warn!("stopped, and nothing was written; run the same command again");
        return Ok(ExitStatus::Stopped);
    };
    let parquet = encode(&listing.images, |path| base.join(path)).map_err(|error| unwritable(file, &error))?;
    write(&parquet, file, &listing.left_out, Some(&listing.images))
}

fn unwritable(file: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Unfit(format!("cannot write {}: {error}", file.display()))
}

/// The manifest of the tar archives that `source` names, if it names some.
fn of_shards(source: &Path, base: &Path) -> Result<Option<(Vec<u8>, LeftOut)>, Error> {
    let Some(text) = source.to_str() else { return Ok(None) };
    let here = std::env::current_dir().map_err(|source| Error::System { action: "find the current folder", source })?;
    let storage = Arc::new(Storage::from_environment());
    let pattern = Location::pattern(&here, text).map_err(|error| Error::Unfit(format!("FOLDER: {error}")))?;
    let Some(found) = shards::find(&pattern, &storage)? else { return Ok(None) };
    let mut bases = HashMap::new();
    for shard in &found {
        let base = match shard.folder() {
            Location::Local(folder) => Base::local(base, &folder)?,
            folder => Base::Remote(folder),
        };
        bases.insert(shard.folder(), base);
    }
    let uri =
        |shard: &Location| bases.get(&shard.folder()).map_or_else(String::new, |base| base.join(&shard.file_name()));
    Ok(Some(shards::encode(&found, &storage, uri)?))
}

/// Writes `parquet` to `file`, and logs what was `left_out`, and how many `images` a folder has.
fn write(parquet: &[u8], file: &Path, left_out: &LeftOut, images: Option<&[ImageFile]>) -> Result<ExitStatus, Error> {
    let existed = file.exists();
    // Only to compare: one that is larger, or no regular file, is not the same.
    let before = regular_file::read(file, parquet.len() as u64).ok();
    if before.as_deref() != Some(parquet) {
        whole_file::write(file, parquet, Existing::Replace).map_err(|error| unwritable(file, &error))?;
    }
    for what in left_out.missed() {
        tracing::warn!("left out: {what}");
    }
    for what in left_out.expected() {
        tracing::info!("left out: {what}");
    }
    let done = match before {
        Some(before) if before == parquet => "the manifest is there already, unchanged",
        Some(_) => "replaced the manifest",
        None if existed => "replaced the manifest",
        None => "wrote the manifest",
    };
    if let Some(images) = images {
        let bytes: u64 = images.iter().map(|image| image.bytes).sum();
        tracing::info!(images = images.len(), bytes, file = %file.display(), "{done}");
    } else {
        tracing::info!(file = %file.display(), "{done}");
    }
    Ok(ExitStatus::Done)
}

/// `argument` as a URI, if it is one.
fn uri(argument: &Path) -> Result<Option<Location>, Error> {
    let Some(text) = argument.to_str().filter(|text| text.contains("://")) else { return Ok(None) };
    let location = Location::Local(PathBuf::from("/")).resolve(text);
    let location = location.map_err(|error| Error::Unfit(format!("FOLDER: {error}")))?;
    Ok(Some(location))
}

/// The folder of `file`, or a refusal if no manifest can be written there.
fn check(file: &Path) -> Result<PathBuf, Error> {
    let refused = |why: &str| Err(Error::Unfit(format!("-o {}: {why}", file.display())));
    if file.to_str().is_some_and(|text| text.contains("://")) {
        return refused(
            "expected a path of this machine, found a URI\nhint: write it here, then copy it to where the job reads it",
        );
    }
    if file.extension().is_none_or(|extension| extension != "parquet") {
        return refused("expected a file name that ends in .parquet, so that no other file is replaced by mistake");
    }
    if std::fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return refused("expected a file, found something else of that name");
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return refused("there is no such folder to write it to\nhint: make the folder first");
    }
    Ok(folder.to_owned())
}

/// The prefix of image paths in the manifest, so that `run` finds the images.
enum Base {
    /// Relative to the manifest's folder, or absolute.
    Local(String),
    Remote(Location),
}

impl Base {
    /// For a manifest in `manifest_folder` and images in `folder`.
    fn local(manifest_folder: &Path, folder: &Path) -> Result<Self, Error> {
        let base = relative_to(manifest_folder, folder)
            .map_err(|source| Error::System { action: "find the folder of images", source })?;
        let base = base.into_os_string().into_string().map_err(|base| {
            let hint = "write the manifest into a folder above the images, which it then names by relative paths";
            let base = base.display();
            Error::Unfit(format!("{base}: expected a path in UTF-8, as Parquet holds no other\nhint: {hint}"))
        })?;
        Ok(Self::Local(base))
    }

    fn join(&self, path: &str) -> String {
        match self {
            Self::Local(base) if base.is_empty() || base.ends_with('/') => format!("{base}{path}"),
            Self::Local(base) => format!("{base}/{path}"),
            Self::Remote(location) => format!("{}/{path}", location.to_string().trim_end_matches('/')),
        }
    }
}
