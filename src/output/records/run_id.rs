//! The names that a run may have.

use crate::output::OutputError;

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
