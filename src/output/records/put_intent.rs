//! The records `runs/<run id>/putting-<part>-<process>`: a process is about to put a part, or was when it died.
//!
//! A process may be suspended after it has seen that its run is open, and put its part much later, when the run has been closed.
//! The process that closes the run finds the intent, and takes the name of that part with a filler: the late put finds the name
//! taken. In order, a worker puts the intent, looks for an outcome, puts the part; a closer puts the outcome, lists intents, puts
//! fillers. So a part whose intent the closer does not find belongs to a worker that will see the outcome.
//!
//! An intent is removed when its put was answered. One that stays does no harm.

use std::collections::BTreeSet;

use crate::output::store::OutputStore;
use crate::output::{OutputError, run_folder};

/// The prefix of their names.
const PUTTING: &str = "putting-";

/// The intent of one process to put one part.
#[derive(Debug)]
pub struct PutIntent {
    path: String,
}

impl PutIntent {
    /// Says that this process is about to put `part` of `run`.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub fn announce(store: &OutputStore, run: &str, part: u64) -> Result<Self, OutputError> {
        let path = format!("{}/{PUTTING}{part:06}-{}", run_folder(run), store.random(16));
        store.put_over(&path, "")?;
        Ok(Self { path })
    }

    /// Says that the put was answered, so that it cannot take effect any more.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub fn answered(self, store: &OutputStore) -> Result<(), OutputError> {
        store.delete(&self.path)
    }
}

/// The parts of `run` that a process may still put.
///
/// # Errors
/// [`OutputError::Store`].
pub fn announced_parts(store: &OutputStore, run: &str) -> Result<BTreeSet<u64>, OutputError> {
    let number = |name: &String| name.strip_prefix(PUTTING)?.split_once('-')?.0.parse().ok();
    Ok(store.files(&run_folder(run))?.iter().filter_map(number).collect())
}
