//! `nightcap finalize`: publish a run whose parts are all there, or the parts that are.

use super::{Context, judge, print, to_json};
use crate::cli::FinalizeArgs;
use crate::error::Error;
use crate::exit::Status;
use crate::output::OutputError;
use crate::output::discard::refuse_alive;
use crate::output::finalize::{finalize, finalize_partial, load_plan};
use crate::output::store::OutputStore;

pub(super) fn execute(args: &FinalizeArgs, context: &mut Context<'_>) -> Result<Status, Error> {
    let (store, run) = (OutputStore::from_argument(&args.output)?, args.run_id.as_str());
    let published = if args.partial {
        // Whoever is at work would go on to make parts that never count.
        refuse_alive(&store, run)?;
        finalize_partial(&store, run)?.ok_or_else(|| OutputError::NoParts { run: run.to_owned() })?
    } else {
        finalize(&store, run)?
    };
    print(context, &to_json(&published)?)?;
    Ok(judge(&published.counts, &load_plan(&store, run)?.failures))
}
