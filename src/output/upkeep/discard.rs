//! Discard: removes a run, in an order that leaves a valid OUTPUT if the process is killed at any moment.

use crate::output::heartbeat::refuse_alive;
use crate::output::records::published::superseded;
use crate::output::store::OutputStore;
use crate::output::{OutputError, part_folder, plan_path, published_path, run_folder};

/// Removes the unpublished `run`, and returns how many files of it were parts.
///
/// If it is killed, it leaves an unfinished run with fewer parts, or a run without a plan, which no job continues; in either
/// case another call removes the rest.
///
/// # Errors
/// [`OutputError::NoSuchRun`]; [`OutputError::IsPublished`]; [`OutputError::Alive`] when another process is working on it; and any
/// failure to read or remove.
pub fn discard(store: &OutputStore, run: &str) -> Result<u64, OutputError> {
    let is_superseded = superseded(store)?.contains(run);
    if store.get(&published_path(run))?.is_some() && !is_superseded {
        return Err(OutputError::IsPublished { run: run.to_owned() });
    }
    let has_records = store.folders("_nightcap/runs")?.iter().any(|name| name == run);
    if !has_records && !store.folders("")?.contains(&part_folder(run)) {
        return Err(OutputError::NoSuchRun { run: run.to_owned() });
    }
    refuse_alive(store, run)?;
    if is_superseded {
        // Its published record may still be there.
        store.delete(&published_path(run))?;
    }
    remove_unpublished(store, run)
}

/// Parts first: as long as there is a plan, what is left is an unfinished run like any other. Parts without a plan would be
/// in the way of a new run of this name.
pub(crate) fn remove_unpublished(store: &OutputStore, run: &str) -> Result<u64, OutputError> {
    let parts = remove_files(store, &part_folder(run))?;
    remove_records(store, run)?;
    Ok(parts)
}

/// The record that publishes it first: from then on no reader looks for its parts. The run that supersedes it names it, so
/// that what a kill leaves behind is found again.
pub(crate) fn remove_superseded(store: &OutputStore, run: &str) -> Result<(), OutputError> {
    store.delete(&published_path(run))?;
    store.delete(&plan_path(run))?;
    remove_files(store, &part_folder(run))?;
    remove_records(store, run)
}

fn remove_records(store: &OutputStore, run: &str) -> Result<(), OutputError> {
    store.delete(&plan_path(run))?;
    remove_files(store, &run_folder(run)).map(drop)
}

fn remove_files(store: &OutputStore, folder: &str) -> Result<u64, OutputError> {
    let names = store.files(folder)?;
    for name in &names {
        store.delete(&format!("{folder}/{name}"))?;
    }
    store.sweep(folder)?;
    Ok(names.len() as u64)
}
