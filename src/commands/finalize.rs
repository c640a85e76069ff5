//! `nightcap finalize`: publish a run whose parts are all there.

use super::{Context, judge, not_supported, print, to_json};
use crate::cli::FinalizeArgs;
use crate::error::Error;
use crate::exit::Status;
use crate::output::finalize::{finalize, load_plan};
use crate::output::store::OutputStore;

pub(super) fn execute(args: &FinalizeArgs, context: &mut Context<'_>) -> Result<Status, Error> {
    if args.partial {
        return Err(not_supported("--partial"));
    }
    let store = OutputStore::from_argument(&args.output)?;
    let published = finalize(&store, &args.run_id)?;
    print(context, &to_json(&published)?)?;
    Ok(judge(&published.counts, &load_plan(&store, &args.run_id)?.failures))
}
