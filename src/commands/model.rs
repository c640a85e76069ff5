//! `nightcap model inspect`: what was found in a model directory and what it can do.

use std::path::Path;

use super::{Context, print, to_json};
use crate::error::Error;
use crate::exit::Status;
use crate::model::inspect as describe;

pub(super) fn inspect(
    dir: &Path,
    precision: Option<&str>,
    json: bool,
    context: &mut Context<'_>,
) -> Result<Status, Error> {
    let description = describe(dir, precision);
    let text = if json { to_json(&description)? } else { description.to_string() };
    print(context, &text)?;
    Ok(if description.problems.is_empty() { Status::Done } else { Status::Refused })
}
