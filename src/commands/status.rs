//! `nightcap status`: lists the runs of an OUTPUT, and its damage.

use super::context::{Context, print, to_json};
use crate::cli::StatusArgs;
use crate::error::{Error, ExitStatus};
use crate::output::store::OutputStore;
use crate::output::upkeep::status::OutputStatus;
use crate::support::redact::lines;

pub(super) fn execute(args: &StatusArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let status = OutputStatus::read(&OutputStore::from_argument(&args.output)?, args.check)?;
    let text = if args.json { to_json(&status)? } else { lines(&status.to_string()) };
    print(context, &text)?;
    if status.findings.is_empty() {
        if args.check {
            tracing::info!("every part of the published runs is as the records say");
        }
        return Ok(ExitStatus::Done);
    }
    tracing::error!(findings = status.findings.len(), "this OUTPUT is damaged; stdout says where and what to do");
    Ok(ExitStatus::Refused)
}
