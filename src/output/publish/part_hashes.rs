//! The part hashes of a published run: what identifies the bytes of each part, by part number, as JSON.
//!
//! The record is named by its content, and the published record names it: neither a part nor the record can be exchanged or changed
//! without notice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::output::part::hashes::PartHash;
use crate::output::records::published::Published;
use crate::output::store::OutputStore;
use crate::output::{OutputError, run_folder};

/// The hashes of a run's parts.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartHashes {
    parts: BTreeMap<u64, PartHash>,
}

impl PartHashes {
    /// Adds part `part`.
    pub fn add(&mut self, part: u64, hash: PartHash) {
        self.parts.insert(part, hash);
    }

    /// Puts the record beside the run's other records and returns its name there.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub fn put(self, store: &OutputStore, folder: &str) -> Result<String, OutputError> {
        let bytes = crate::output::json(&self, folder)?;
        let name = name_of(&bytes);
        store.put_new(&format!("{folder}/{name}"), bytes)?;
        Ok(name)
    }

    /// Reads the record of a published run.
    ///
    /// # Errors
    /// [`OutputError::Store`], or [`OutputError::Record`] when it is missing or was changed.
    pub fn load(store: &OutputStore, run: &Published) -> Result<Self, OutputError> {
        let path = path(run);
        let wrong = |message: String| OutputError::Record { path: path.clone(), message };
        let bytes = store.get(&path)?.ok_or_else(|| wrong("it is missing".to_owned()))?;
        if name_of(&bytes) != run.part_hashes {
            return Err(wrong("it was changed after it was written".to_owned()));
        }
        serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))
    }

    /// What identifies part `part` of `run`.
    ///
    /// # Errors
    /// [`OutputError::Record`] when it is not there.
    pub fn of(&self, run: &Published, part: u64) -> Result<&PartHash, OutputError> {
        let message = || format!("it does not name part {part}");
        self.parts.get(&part).ok_or_else(|| OutputError::Record { path: path(run), message: message() })
    }
}

/// The path of the record of `run` within OUTPUT.
pub(in crate::output) fn path(run: &Published) -> String {
    format!("{}/{}", run_folder(&run.run), run.part_hashes)
}

fn name_of(bytes: &[u8]) -> String {
    format!("part-hashes-{}", &blake3::hash(bytes).to_hex()[..32])
}
