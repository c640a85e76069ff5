//! Sweep: removes runs that never count again: those that were discarded, and those that a compaction has replaced. The outcome of
//! the run, or the published record of the compaction, is the proof; neither is ever taken back, so a sweep that was suspended
//! removes nothing else when it goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::output::heartbeat::age;
use crate::output::records::outcome::{Outcome, decide_outcome, decided_runs, outcome};
use crate::output::records::published::{all_published, runs_with_records, unpublished};
use crate::output::records::run_id::{is_default_run_id, is_run_id};
use crate::output::store::OutputStore;
use crate::output::{OutputError, part_folder, plan_path, published_path, run_folder};

/// A process that plans a run puts its next record, and in the end the plan, within this time.
const PLANNING: Duration = Duration::from_hours(1);

/// Removes what is left of discarded runs, and the runs that were replaced at least `grace` ago: until then, a query that has begun
/// may read their parts. Runs from which an unfinished run copies rows stay. Runs of a process that was killed while it planned
/// them, and that no other process continues, are discarded.
///
/// # Errors
/// Failures to read or remove.
pub(crate) fn sweep(store: &OutputStore, grace: Duration) -> Result<(), OutputError> {
    // By name of the replaced run, the compactions that say so.
    let mut replaced: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut names: BTreeSet<String> = runs_with_records(store)?.into_iter().collect();
    let folders = store.folders("")?;
    names.extend(
        folders.iter().filter_map(|name| name.strip_prefix("run=")).filter(|run| is_run_id(run)).map(str::to_owned),
    );
    for run in all_published(store)? {
        for name in run.supersedes {
            replaced.entry(name).or_default().push(run.run.clone());
        }
        names.insert(run.run);
    }
    let in_use: BTreeSet<String> = unpublished(store)?.into_iter().flat_map(|plan| plan.reuses).collect();
    let decided = decided_runs(store)?;
    for run in &names {
        let never_counts = match (replaced.get(run), decided.contains(run)) {
            (Some(by), true) => !in_use.contains(run) && replaced_since(store, by)? >= grace,
            (Some(_), false) => false,
            (None, true) => outcome(store, run)? == Some(Outcome::Discarded),
            (None, false) => {
                is_abandoned(store, run)? && decide_outcome(store, run, Outcome::Discarded)? == Outcome::Discarded
            }
        };
        if never_counts {
            remove_run(store, run)?;
        }
    }
    Ok(())
}

/// How long ago the first of these compactions was published.
fn replaced_since(store: &OutputStore, compactions: &[String]) -> Result<Duration, OutputError> {
    let mut oldest = Duration::ZERO;
    for run in compactions {
        oldest = oldest.max(age(store, &published_path(run))?.unwrap_or_default());
    }
    Ok(oldest)
}

/// Whether the process that planned `run` was killed before it put the plan, and no other process may go on with it.
fn is_abandoned(store: &OutputStore, run: &str) -> Result<bool, OutputError> {
    if !is_default_run_id(run) || store.modified(&plan_path(run))?.is_some() {
        return Ok(false);
    }
    let names = store.files(&run_folder(run))?;
    // Its first record may be on its way.
    if names.is_empty() {
        return Ok(false);
    }
    for name in names {
        if age(store, &format!("{}/{name}", run_folder(run)))?.is_some_and(|age| age < PLANNING) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes a run that never counts again, and returns how many files of it were parts. The published record goes last: it names the
/// run to the next sweep if this one is killed.
pub(super) fn remove_run(store: &OutputStore, run: &str) -> Result<u64, OutputError> {
    // Without its plan, no process takes it for a run that waits for its published record.
    store.delete(&plan_path(run))?;
    let parts = remove_files(store, &part_folder(run))?;
    remove_files(store, &run_folder(run))?;
    store.delete(&published_path(run))?;
    Ok(parts)
}

fn remove_files(store: &OutputStore, folder: &str) -> Result<u64, OutputError> {
    let names = store.files(folder)?;
    for name in &names {
        store.delete(&format!("{folder}/{name}"))?;
    }
    store.sweep(folder)?;
    Ok(names.len() as u64)
}
