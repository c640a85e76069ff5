//! The record `format.json`: the format number of OUTPUT. The first run puts it before anything else, so a folder with runs but
//! without a format number was made by a version before format numbers.
//!
//! The number is raised whenever a version can no longer read or continue what earlier ones wrote.
//!
//! Putting the record also tells whether the storage refuses a name that is taken, on which every promise about parts and records
//! rests.

use serde::{Deserialize, Serialize};

use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, json};
use crate::storage::{Failure, lacks_condition};

/// The format that this version reads and writes.
pub const FORMAT: u32 = 2;
/// The path of the record.
const PATH: &str = "_nightcap/format.json";

/// The fields that every format has.
#[derive(Debug, Serialize, Deserialize)]
struct FormatRecord {
    format: u32,
    /// The version of nightcap, for error messages.
    #[serde(default)]
    made_by: String,
}

/// Refuses an OUTPUT of another format. A folder without runs has none yet.
///
/// # Errors
/// [`OutputError::Format`], and failures to read.
pub fn check_format(store: &OutputStore) -> Result<(), OutputError> {
    // Checked twice: a first run may put the record between the other two requests.
    if is_of_this_format(store)? || !holds_runs(store)? || is_of_this_format(store)? {
        return Ok(());
    }
    let hint = "an earlier version of nightcap made it: give another `output.path`, or remove the folder";
    Err(refuse(store, "runs without a format number".to_owned(), hint))
}

/// Puts the format number into an OUTPUT that has none, and makes sure that its storage refuses a name that is taken. This is asked
/// before every new plan, since an OUTPUT may have been moved to other storage: one put that is refused, on the first use two puts.
///
/// # Errors
/// As [`check_format`], [`OutputError::NoCondition`], and failures to write.
pub fn claim_format(store: &OutputStore) -> Result<(), OutputError> {
    let is_there = is_of_this_format(store)?;
    let ours = FormatRecord { format: FORMAT, made_by: format!("nightcap {}", env!("CARGO_PKG_VERSION")) };
    let mut record = json(&ours, PATH)?;
    if put(store, record.clone())? == Put::Created {
        // Other bytes, so that a repeated put that finds the first one does not take it for its own.
        record.push(b'\n');
        if put(store, record)? == Put::Created {
            if !is_there {
                store.delete(PATH)?;
            }
            return Err(no_condition(store, "a second put of one name was not refused".to_owned()));
        }
    }
    // Another run may have put it first.
    is_of_this_format(store).map(drop)
}

/// Puts the record. Storage that cannot put conditionally may also say so.
fn put(store: &OutputStore, record: Vec<u8>) -> Result<Put, OutputError> {
    store.put_new(PATH, record).map_err(|error| match error {
        OutputError::Store { source, .. } if lacks_condition(&source) => {
            no_condition(store, Failure::of(&source).to_string())
        }
        other => other,
    })
}

fn no_condition(store: &OutputStore, found: String) -> OutputError {
    OutputError::NoCondition { location: store.location().to_string(), found }
}

/// Refuses another number; false if there is none.
fn is_of_this_format(store: &OutputStore) -> Result<bool, OutputError> {
    let Some(bytes) = store.get(PATH)? else { return Ok(false) };
    match serde_json::from_slice::<FormatRecord>(&bytes) {
        Ok(FormatRecord { format: FORMAT, .. }) => Ok(true),
        Ok(FormatRecord { format, made_by }) => {
            let made_by: String = made_by.chars().filter(|character| !character.is_control()).take(100).collect();
            let by = if made_by.is_empty() { made_by } else { format!(", made by {made_by}") };
            let hint = "another version of nightcap made it: use that version, or give another `output.path`";
            Err(refuse(store, format!("format {format}{by}"), hint))
        }
        Err(error) => {
            let hint = "put it back from a backup";
            Err(refuse(store, format!("a damaged {PATH} ({error})"), hint))
        }
    }
}

fn holds_runs(store: &OutputStore) -> Result<bool, OutputError> {
    Ok(!store.folders("_nightcap")?.is_empty() || store.folders("")?.iter().any(|name| name.starts_with("run=")))
}

fn refuse(store: &OutputStore, found: String, hint: &'static str) -> OutputError {
    OutputError::Format { location: store.location().to_string(), expected: FORMAT, found, hint }
}
