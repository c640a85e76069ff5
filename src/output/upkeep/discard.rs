//! Discard: decides that a run does not count, then removes it.

use super::sweep::remove_run;
use crate::output::heartbeat::refuse_alive;
use crate::output::records::outcome::{Outcome, decide_outcome, outcome};
use crate::output::records::published::runs_with_records;
use crate::output::store::OutputStore;
use crate::output::{OutputError, part_folder};

/// Discards `run`, whose end is open, and returns how many files of it were parts. Of a run that is discarded already, it removes
/// what is left: a process that was killed while it discarded the run, or a worker that was suspended, may have left something.
///
/// # Errors
/// [`OutputError::NoSuchRun`]; [`OutputError::IsPublished`]; [`OutputError::Alive`] when another process is working on it; and any
/// failure to read or remove.
pub fn discard(store: &OutputStore, run: &str) -> Result<u64, OutputError> {
    let decided = if let Some(decided) = outcome(store, run)? {
        decided
    } else {
        let has_records = runs_with_records(store)?.iter().any(|name| name == run);
        if !has_records && !store.folders("")?.contains(&part_folder(run)) {
            return Err(OutputError::NoSuchRun { run: run.to_owned() });
        }
        refuse_alive(store, run)?;
        decide_outcome(store, run, Outcome::Discarded)?
    };
    if decided != Outcome::Discarded {
        return Err(OutputError::IsPublished { run: run.to_owned() });
    }
    remove_run(store, run)
}
