//! `nightcap compact`: rewrites the newest row of every key into one run that replaces the older ones.

use std::sync::Arc;
use std::time::Duration;

use super::context::{Context, print, to_json};
use crate::cli::CompactArgs;
use crate::error::{Error, ExitStatus};
use crate::manifest::reader::{ManifestReader, Projection};
use crate::manifest::{Manifest, filter};
use crate::output::records::published::published_runs;
use crate::output::records::run_id::check_run_id;
use crate::output::store::OutputStore;
use crate::output::upkeep::compact::{CompactOutcome, CompactRequest, KeepKeys, compact};
use crate::row::signature::KeyHash;
use crate::storage::{Location, NotALocation, Storage};

pub(super) fn execute(args: &CompactArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    args.run_id.as_deref().map(check_run_id).transpose()?;
    let store = OutputStore::from_argument(&args.output)?;
    let keep = if args.keep_keys.is_empty() {
        None
    } else {
        let column = match &args.key {
            Some(column) => Some(column.clone()),
            None => published_runs(&store)?.pop().map(|run| run.key),
        };
        column.map(|column| read_keys(&args.keep_keys, &column)).transpose()?
    };
    let request = CompactRequest { keep, run: args.run_id.clone(), grace: Duration::from_secs(args.grace) };
    let stop = context.stop.clone();
    let outcome = compact(&store, &request, &|| stop.requested());
    let ended = |error| Error::from(error).while_making_parts();
    let unnamed = args.run_id.is_none();
    match outcome.map_err(|error| if unnamed { ended(error).of_unnamed_run() } else { ended(error) })? {
        CompactOutcome::Compacted(compaction) => {
            let published = &compaction.published;
            context.monitor.published(&published.run, published.parts, &published.counts);
            print(context, &to_json(&compaction)?)?;
        }
        CompactOutcome::Nothing(why) => tracing::info!("{why}; there is nothing to do"),
        CompactOutcome::Stopped => {
            tracing::warn!("stopped, and nothing was changed; run the same command again");
            return Ok(ExitStatus::Stopped);
        }
    }
    Ok(ExitStatus::Done)
}

/// The keys in `column` of the Parquet files that `patterns` name, sorted; nulls are skipped.
fn read_keys(patterns: &[String], column: &str) -> Result<KeepKeys, Error> {
    let source = patterns.join(", ");
    let folder =
        std::env::current_dir().map_err(|source| Error::System { action: "find the current folder", source })?;
    let unclear = |error: NotALocation| Error::Unfit(format!("--keep-keys: {error}"));
    let patterns = patterns.iter().map(|text| Location::pattern(&folder, text).map_err(unclear));
    let patterns = patterns.collect::<Result<Vec<_>, _>>()?;
    let manifest = Manifest::open_keys(&patterns, "--key", column, &Arc::new(Storage::from_environment()))?;
    let rows = filter::select(&manifest, None)?;
    let mut keys = Vec::new();
    for batch in ManifestReader::new(&manifest, rows, Projection::Plan) {
        let batch = batch?;
        keys.extend((0..batch.len()).filter_map(|index| Some(KeyHash::new(&batch.row(index).key?))));
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(KeepKeys { source, keys })
}
