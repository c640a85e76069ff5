//! `nightcap finalize`: publishes a run whose parts are all there, or only its finished parts.

use super::context::{Context, judge, print, to_json};
use crate::cli::FinalizeArgs;
use crate::error::{Error, ExitStatus};
use crate::output::OutputError;
use crate::output::heartbeat::{Heartbeat, refuse_alive};
use crate::output::publish::finalize::{complete, finalize, finalize_partial};
use crate::output::records::outcome::outcome;
use crate::output::records::plan::load_plan;
use crate::output::records::published::Published;
use crate::output::store::OutputStore;

pub(super) fn execute(args: &FinalizeArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let (store, run) = (OutputStore::from_argument(&args.output)?, args.run_id.as_str());
    if let Some(outcome) = outcome(&store, run)? {
        // How the run has ended is said here: if it was discarded or replaced, it has no plan any more.
        complete(&store, run, outcome)?;
    }
    let plan = load_plan(&store, run)?;
    let published = publish(&store, run, args.partial).map_err(|error| Error::from(error).while_making_parts())?;
    context.monitor.published(run, published.parts, &published.counts);
    if published.counts.rows == 0 {
        tracing::info!(run, "nothing was new: the run is published without rows");
    }
    print(context, &to_json(&published)?)?;
    Ok(judge(&published.counts, &plan.failures))
}

fn publish(store: &OutputStore, run: &str, partial: bool) -> Result<Published, OutputError> {
    // A run with a heartbeat cannot be discarded at the same time.
    let _heartbeat = Heartbeat::start(store, run)?;
    if partial {
        // A process that still works on this run would make parts that are never published.
        refuse_alive(store, run)?;
        finalize_partial(store, run)?.ok_or_else(|| OutputError::NoParts { run: run.to_owned() })
    } else {
        finalize(store, run)
    }
}
