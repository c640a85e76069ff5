//! The records `seq/<number>.json`: each run claims a number of its own by a conditional put.

use serde::{Deserialize, Serialize};

use super::names::{self, LAST_RUN_SEQ};
use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, json};

/// The folder of the claims.
const FOLDER: &str = "_nightcap/seq";

/// The record `_nightcap/seq/<number>.json`.
#[derive(Serialize, Deserialize)]
struct SeqClaim {
    #[serde(deserialize_with = "names::run_id")]
    run: String,
}

/// The next free number of this OUTPUT, or the newest one if this very run claimed it before it was killed.
///
/// # Errors
/// [`OutputError::Store`], and [`OutputError::Record`], also when no number is left.
pub fn claim_run_seq(store: &OutputStore, run: &str) -> Result<i64, OutputError> {
    let claim_path = |number: i64| format!("{FOLDER}/{number:012}.json");
    let mut newest = 0;
    for name in store.files(FOLDER)? {
        let Some(number) = name.strip_suffix(".json").and_then(|name| name.parse::<i128>().ok()) else { continue };
        // Also a claim of the last number would leave none for the next run.
        if !(0..i128::from(LAST_RUN_SEQ)).contains(&number) {
            let path = format!("{FOLDER}/{name}");
            let message = format!("expected a number from 1 to {}", LAST_RUN_SEQ - 1);
            return Err(OutputError::Record { path, message });
        }
        newest = newest.max(number as i64);
    }
    let is_ours = |number| -> Result<bool, OutputError> {
        Ok(store.record::<SeqClaim>(&claim_path(number))?.is_some_and(|claim| claim.run == run))
    };
    if is_ours(newest)? {
        return Ok(newest);
    }
    for next in newest + 1..LAST_RUN_SEQ {
        let path = claim_path(next);
        let claim = json(&SeqClaim { run: run.to_owned() }, &path)?;
        // Another process of this run may have claimed it first.
        if store.put_new(&path, claim)? == Put::Created || is_ours(next)? {
            return Ok(next);
        }
    }
    Err(OutputError::Record { path: FOLDER.to_owned(), message: "no number is left for another run".to_owned() })
}
