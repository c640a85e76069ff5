//! Removes an unpublished run.

use super::store::OutputStore;
use super::{OutputError, part_path, run_folder};
use crate::output::finalize::present_parts;

/// Removes the parts, then the plan, then the other records of `run`: killed in between, what is left is a run without parts or
/// without a plan, which nobody goes on with.
///
/// # Errors
/// [`OutputError::Store`].
pub fn discard(store: &OutputStore, run: &str) -> Result<(), OutputError> {
    for part in present_parts(store, run)? {
        store.delete(&part_path(run, part))?;
    }
    let folder = run_folder(run);
    store.delete(&format!("{folder}/plan.json"))?;
    for name in store.files(&folder)? {
        store.delete(&format!("{folder}/{name}"))?;
    }
    Ok(())
}
