//! The commit of a part: its bytes become one object of OUTPUT by a conditional put, if the run is still open.

use super::footer::part_summary;
use crate::output::records::published::Published;
use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, part_path, plan_path, published_path};
use crate::support::failpoint;

/// Puts part `part` of `run`, which was made for the plan of `plan_digest`. [`Put::Exists`]: another worker of this run has put it
/// first, and its rows count.
///
/// # Errors
/// [`OutputError::Closed`] and [`OutputError::Gone`] when the run takes no more parts, [`OutputError::ForeignPart`] when a part of
/// another plan is there, and any failure to read or write.
pub fn commit_part(
    store: &OutputStore,
    run: &str,
    plan_digest: &str,
    part: u64,
    bytes: Vec<u8>,
) -> Result<Put, OutputError> {
    let path = part_path(run, part);
    check_open(store, run, part)?;
    failpoint::hit("before_part");
    let put = store.put_new(&path, bytes)?;
    match put {
        Put::Created => {
            // If this process was suspended, or its put hung, another process may have closed or removed the run.
            if let Err(error) = check_open(store, run, part) {
                store.delete(&path)?;
                return Err(error);
            }
        }
        Put::Exists => {
            let found = part_summary(store, &path)?.plan_digest;
            if found != plan_digest {
                return Err(OutputError::ForeignPart { path, found, expected: plan_digest.to_owned() });
            }
        }
    }
    Ok(put)
}

/// Checks that the run is still open, so that `part` would count.
fn check_open(store: &OutputStore, run: &str, part: u64) -> Result<(), OutputError> {
    // Readers would take a part that is put into a published run for one of its parts.
    let published = store.record::<Published>(&published_path(run))?;
    if published.is_some_and(|published| !published.part_numbers().contains(&part)) {
        return Err(OutputError::Closed { run: run.to_owned() });
    }
    // A put would create a removed folder again, with this part alone in it.
    if store.modified(&plan_path(run))?.is_none() {
        return Err(OutputError::Gone { run: run.to_owned() });
    }
    Ok(())
}
