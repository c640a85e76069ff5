//! Commits a part: one conditional put, of a run whose end is open.

use super::footer::part_summary;
use crate::output::records::outcome::{Outcome, outcome};
use crate::output::records::put_intent::PutIntent;
use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, part_path, plan_path};
use crate::support::failpoint;

/// Puts `bytes` as `part` of `run`, made for the plan of `plan_digest`. [`Put::Exists`]: another worker of the run has put that part
/// first, and its rows count.
///
/// # Errors
/// [`OutputError::Closed`], [`OutputError::Discarded`] or [`OutputError::Gone`] when the part would not count,
/// [`OutputError::ForeignPart`] when the part that is there belongs to another plan, and failures to read or write.
pub fn commit_part(
    store: &OutputStore,
    run: &str,
    plan_digest: &str,
    part: u64,
    bytes: Vec<u8>,
) -> Result<Put, OutputError> {
    let path = part_path(run, part);
    let intent = PutIntent::announce(store, run, part)?;
    refuse_ended(store, run)?;
    failpoint::hit("before_part");
    // On a local disk a put fails when the folder of its run is removed at the same time.
    let put = store.put_new(&path, bytes).or_else(|error| refuse_ended(store, run).and(Err(error)))?;
    if put == Put::Exists {
        let found = part_summary(store, &path)?;
        if found.plan_digest != plan_digest {
            let (found, expected) = (found.plan_digest, plan_digest.to_owned());
            return Err(OutputError::ForeignPart { path, found, expected });
        }
        if found.is_filler {
            // The intent stays: by it, who completes the closing knows the filler.
            return Err(OutputError::Closed { run: run.to_owned() });
        }
        tracing::warn!(path, "another worker of this run wrote this part first; its rows count");
    }
    intent.answered(store)?;
    failpoint::hit("after_part");
    Ok(put)
}

/// Refuses to put a part of `run` that would not count.
fn refuse_ended(store: &OutputStore, run: &str) -> Result<(), OutputError> {
    match outcome(store, run)? {
        Some(Outcome::Partial) => Err(OutputError::Closed { run: run.to_owned() }),
        Some(Outcome::Discarded) => Err(OutputError::Discarded { run: run.to_owned() }),
        // A put would create a removed folder again, with this part alone in it.
        _ if store.modified(&plan_path(run))?.is_none() => Err(OutputError::Gone { run: run.to_owned() }),
        // Of a published run all parts are there: the put finds this one.
        None | Some(Outcome::Published) => Ok(()),
    }
}
