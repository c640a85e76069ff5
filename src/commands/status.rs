//! `nightcap status`: the runs of an OUTPUT.

use super::{Context, not_supported, print, to_json};
use crate::cli::StatusArgs;
use crate::error::Error;
use crate::exit::Status;
use crate::output::status::Status as OutputStatus;
use crate::output::store::OutputStore;

pub(super) fn execute(args: &StatusArgs, context: &mut Context<'_>) -> Result<Status, Error> {
    if args.check {
        return Err(not_supported("--check"));
    }
    let status = OutputStatus::read(&OutputStore::from_argument(&args.output)?)?;
    let text = if args.json { to_json(&status)? } else { status.to_string() };
    print(context, &text)?;
    Ok(Status::Done)
}
