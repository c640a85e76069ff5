//! The records `compactions/<number>.json`: which compaction is at work. One at a time: a compaction begins by claiming the next
//! number, after the outcome of the compaction before it is decided.
//!
//! A compaction that died, or is suspended, holds up the next one for at most a minute: then the next one decides that it is
//! discarded. If it goes on after all, it cannot publish any more. So no two compactions replace the same run.

use serde::{Deserialize, Serialize};

use super::names;
use crate::output::heartbeat::{Beat, is_fresh, is_heartbeat};
use crate::output::store::{OutputStore, Put};
use crate::output::worker::Worker;
use crate::output::{OutputError, json, run_folder};

/// The folder of the records.
const COMPACTIONS: &str = "_nightcap/compactions";

/// The claim of a compaction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompactionClaim {
    /// The id of the run that it makes.
    #[serde(deserialize_with = "names::run_id")]
    pub run: String,
    /// The process that began it.
    #[serde(flatten)]
    beat: Beat,
    /// Its number.
    #[serde(skip)]
    number: u64,
}

/// The newest compaction, if there was one.
///
/// # Errors
/// [`OutputError::Store`] and [`OutputError::Record`].
pub fn newest_compaction(store: &OutputStore) -> Result<Option<CompactionClaim>, OutputError> {
    let names = store.files(COMPACTIONS)?;
    let Some(number) = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse::<u64>().ok()).max() else {
        return Ok(None);
    };
    let claim: Option<CompactionClaim> = store.record(&claim_path(number))?;
    Ok(claim.map(|claim| CompactionClaim { number, ..claim }))
}

/// Claims the number after `newest` for the compaction `run`; false if another one has claimed it.
///
/// # Errors
/// [`OutputError::Store`].
pub fn claim_compaction(store: &OutputStore, newest: Option<&CompactionClaim>, run: &str) -> Result<bool, OutputError> {
    let number = newest.map_or(0, |claim| claim.number).saturating_add(1);
    let (path, beat) = (claim_path(number), Beat::this(store));
    let claim = CompactionClaim { run: run.to_owned(), beat, number };
    Ok(store.put_new(&path, json(&claim, &path)?)? == Put::Created)
}

impl CompactionClaim {
    /// Whether it began after `other`.
    #[must_use]
    pub fn is_after(&self, other: Option<&Self>) -> bool {
        other.is_none_or(|other| self.number > other.number)
    }

    /// Whether the process that uses `store` began it.
    #[must_use]
    pub fn is_of_this_process(&self, store: &OutputStore) -> bool {
        self.beat.worker == store.process().worker()
    }

    /// The process that has just begun this compaction, if it may be at work. As soon as it has a heartbeat, that says so.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub fn has_just_begun(&self, store: &OutputStore) -> Result<Option<Worker>, OutputError> {
        if store.files(&run_folder(&self.run))?.iter().any(|name| is_heartbeat(name)) {
            return Ok(None);
        }
        let begun = !self.beat.is_over(store)
            && self.beat.worker != store.process().worker()
            && is_fresh(store, &claim_path(self.number))?;
        Ok(begun.then(|| self.beat.worker.clone()))
    }
}

fn claim_path(number: u64) -> String {
    format!("{COMPACTIONS}/{number:012}.json")
}
