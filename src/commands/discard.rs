//! `nightcap discard`: removes an unpublished run.

use crate::cli::DiscardArgs;
use crate::error::{Error, ExitStatus};
use crate::output::records::run_id::check_run_id;
use crate::output::store::OutputStore;
use crate::output::upkeep::discard::discard;

pub(super) fn execute(args: &DiscardArgs) -> Result<ExitStatus, Error> {
    check_run_id(&args.run_id)?;
    let parts = discard(&OutputStore::from_argument(&args.output)?, &args.run_id)?;
    tracing::info!(run = args.run_id, parts, "discarded");
    Ok(ExitStatus::Done)
}
