//! The records `outcomes/<run id>.json`: how a run ends, decided once.
//!
//! A run is published, published in part, or discarded. Whichever process first puts the record of a run has decided; every other
//! one reads what was decided and goes along with it, however long it was suspended. The record is never changed and never
//! removed, so the name of a run is never used again. Nothing of a run is removed before its outcome, or that of a compaction that
//! replaces it, says that it may be.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, json, plan_path};

/// The folder of the records.
const OUTCOMES: &str = "_nightcap/outcomes";

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All parts of it count.
    Published,
    /// The parts that are there when it is closed count; its other rows are left to later runs.
    Partial,
    /// Nothing of it counts; what it has put may be removed.
    Discarded,
}

/// The record.
#[derive(Debug, Serialize, Deserialize)]
struct OutcomeRecord {
    outcome: Outcome,
    /// Tells the records of two processes apart that decide the same: a put that is repeated because its response was lost finds
    /// its own token.
    token: String,
    /// When, in UTC.
    decided_at: String,
}

/// The path of a run's record.
#[must_use]
pub fn outcome_path(run: &str) -> String {
    format!("{OUTCOMES}/{run}.json")
}

/// How `run` ends; None while that is open.
///
/// # Errors
/// [`OutputError::Store`] and [`OutputError::Record`].
pub fn outcome(store: &OutputStore, run: &str) -> Result<Option<Outcome>, OutputError> {
    Ok(store.record::<OutcomeRecord>(&outcome_path(run))?.map(|record| record.outcome))
}

/// Decides that `run` ends with `wanted`, unless its end is decided already. Returns the outcome that counts.
///
/// # Errors
/// [`OutputError::Store`] and [`OutputError::Record`].
pub fn decide_outcome(store: &OutputStore, run: &str, wanted: Outcome) -> Result<Outcome, OutputError> {
    let path = outcome_path(run);
    let record = OutcomeRecord {
        outcome: wanted,
        token: store.random(16),
        decided_at: crate::support::clock::timestamp(store.process().now()),
    };
    match store.put_new(&path, json(&record, &path)?)? {
        Put::Created => Ok(wanted),
        Put::Exists => outcome(store, run)?
            .ok_or_else(|| OutputError::Record { path, message: "it exists, but cannot be found".to_owned() }),
    }
}

/// The ids of all runs whose end is decided.
///
/// # Errors
/// [`OutputError::Store`].
pub fn decided_runs(store: &OutputStore) -> Result<BTreeSet<String>, OutputError> {
    let names = store.files(OUTCOMES)?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(".json")).map(str::to_owned).collect())
}

/// Why work on `run` failed: if its end is decided by now, that is the reason, whatever `error` says.
#[must_use]
pub fn ended_or(store: &OutputStore, run: &str, error: OutputError) -> OutputError {
    match outcome(store, run) {
        Ok(Some(Outcome::Discarded)) => OutputError::Discarded { run: run.to_owned() },
        Ok(Some(Outcome::Partial)) => OutputError::Closed { run: run.to_owned() },
        // A compaction has replaced it, and it was removed since.
        Ok(Some(Outcome::Published)) if matches!(store.modified(&plan_path(run)), Ok(None)) => {
            OutputError::NameTaken { run: run.to_owned() }
        }
        _ => error,
    }
}
