//! The names that a run may have.

use crate::output::OutputError;

/// Checks that no reader with Hive partitioning takes `run` for a number or a date.
///
/// # Errors
/// [`OutputError::RunId`].
pub fn check_run_id(run: &str) -> Result<(), OutputError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if run.starts_with(|c: char| c.is_ascii_lowercase()) && run.chars().all(fits) {
        return Ok(());
    }
    Err(OutputError::RunId { run: run.to_owned() })
}
