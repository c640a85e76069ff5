//! `nightcap model inspect`: what was found in a model directory and what it can do; `nightcap model prepare`: what opening it
//! does to its graphs.

use std::path::{Path, PathBuf};

use super::{Context, print, to_json};
use crate::engine::{LoadReport, open_each};
use crate::error::Error;
use crate::exit::Status;
use crate::model::{ModelDirectory, inspect as describe};
use crate::onnx::GraphOptions;
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

pub(super) fn prepare(
    dir: &Path,
    precision: Option<&str>,
    json: bool,
    context: &mut Context<'_>,
) -> Result<Status, Error> {
    let directory = ModelDirectory::open(&local_folder(dir)?, precision)?;
    let reports = open_each(&directory, GraphOptions::default())?;
    let text = if json { to_json(&reports)? } else { reports.iter().map(line).collect() };
    print(context, &text)?;
    Ok(Status::Done)
}

fn line(report: &LoadReport) -> String {
    let LoadReport { role, file, cut_to, folded, not_copied, computed_once, seconds } = report;
    let mut done = Vec::new();
    done.extend(cut_to.as_ref().map(|outputs| match outputs.as_slice() {
        [first, more @ ..] if more.len() > 2 => format!("only what gives {first} and {} more is run", more.len()),
        few => format!("only what gives {} is run", few.join(", ")),
    }));
    done.extend((*folded > 0).then(|| format!("{folded} sizes that are known are not computed")));
    done.extend((*not_copied > 0).then(|| format!("{not_copied} values are not copied")));
    done.extend((*computed_once > 0).then(|| format!("{computed_once} values are computed once for each batch")));
    let done = if done.is_empty() { "run as it is".to_owned() } else { done.join("; ") };
    format!("{role}: {file}: {done}; opened in {seconds:.2} s\n")
}
