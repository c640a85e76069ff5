//! The names that a run may have.

use crate::output::OutputError;
use crate::output::store::OutputStore;

/// The letters and digits that tell default ids of the same second apart.
const RANDOM_DIGITS: usize = 4;

/// The default id of a new run, the time and a random word: `r20261123t041500z-k3f9`.
#[must_use]
pub fn new_run_id(store: &OutputStore) -> String {
    format!("{}-{}", crate::support::clock::run_time(store.process().now()), store.random(RANDOM_DIGITS))
}

/// Whether `run` is such a default id. No process goes on with a run of this name that has no plan yet.
#[must_use]
pub fn is_default_run_id(run: &str) -> bool {
    let Some((time, random)) = run.split_once('-') else { return false };
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "r00000000t000000z" && random.len() == RANDOM_DIGITS
}

/// The most characters of a run id: names of files and folders are made of it.
const LONGEST: usize = 200;

/// Whether `run` is a run id. No reader with Hive partitioning takes one for a number or a date, and as a part of a path it leads
/// nowhere else.
#[must_use]
pub fn is_run_id(run: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    run.len() <= LONGEST && run.starts_with(|c: char| c.is_ascii_lowercase()) && run.chars().all(fits)
}

/// Checks that `run` is a run id.
///
/// # Errors
/// [`OutputError::RunId`].
pub fn check_run_id(run: &str) -> Result<(), OutputError> {
    if is_run_id(run) { Ok(()) } else { Err(OutputError::RunId { run: run.to_owned() }) }
}
