//! The records `seq/<number>.json`: each run claims a number of its own by a conditional put.

use serde::{Deserialize, Serialize};

use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, json};

/// The record `_nightcap/seq/<number>.json`.
#[derive(Serialize, Deserialize)]
struct SeqClaim {
    run: String,
}

/// The next free number of this OUTPUT, or the newest one if this very run claimed it before it was killed.
///
/// # Errors
/// [`OutputError::Store`] and [`OutputError::Record`].
pub fn claim_run_seq(store: &OutputStore, run: &str) -> Result<i64, OutputError> {
    let claim_path = |number: i64| format!("_nightcap/seq/{number:012}.json");
    let taken = store.files("_nightcap/seq")?;
    let newest = taken.last().and_then(|name| name.strip_suffix(".json")?.parse::<i64>().ok()).unwrap_or(0);
    if store.record::<SeqClaim>(&claim_path(newest))?.is_some_and(|claim| claim.run == run) {
        return Ok(newest);
    }
    let mut next = newest + 1;
    loop {
        let path = claim_path(next);
        if store.put_new(&path, json(&SeqClaim { run: run.to_owned() }, &path)?)? == Put::Created {
            return Ok(next);
        }
        // Another process of this run may have claimed it first.
        if store.record::<SeqClaim>(&path)?.is_some_and(|claim| claim.run == run) {
            return Ok(next);
        }
        next += 1;
    }
}
