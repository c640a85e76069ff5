//! `nightcap model inspect`: what was found in a model directory and what it can do.

use std::path::{Path, PathBuf};

use super::{Context, print, to_json};
use crate::error::Error;
use crate::exit::Status;
use crate::model::inspect as describe;
use crate::storage::{Location, Storage, explain};

pub(super) fn inspect(
    dir: &Path,
    precision: Option<&str>,
    json: bool,
    context: &mut Context<'_>,
) -> Result<Status, Error> {
    let description = describe(&local_folder(dir)?, precision);
    let text = if json { to_json(&description)? } else { description.to_string() };
    print(context, &text)?;
    Ok(if description.problems.is_empty() { Status::Done } else { Status::Refused })
}

/// The model directory `dir`, fetched first where it is a URI of remote storage.
fn local_folder(dir: &Path) -> Result<PathBuf, Error> {
    let Some(uri) = dir.to_str().filter(|text| text.contains("://")) else { return Ok(dir.to_owned()) };
    let location = Location::Local(PathBuf::from("/")).resolve(uri);
    let location = location.map_err(|error| Error::Unfit(format!("DIR: {error}")))?;
    let copy = Storage::from_environment().local_copy(&location);
    copy.map_err(|error| Error::Unfit(format!("cannot fetch the model directory {location}: {}", explain(&error))))
}
