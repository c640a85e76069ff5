//! The records `published/<run id>.json`, which `finalize` puts last. They say which runs count, which are unfinished, and which a
//! compaction has replaced.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::outcome::decided_runs;
use super::plan::{Plan, load_plan};
use crate::output::store::OutputStore;
use crate::output::{Counts, OutputError, part_folder, published_path};
use crate::support::failpoint;

/// The folder of the records that publish runs.
const PUBLISHED: &str = "_nightcap/published";
/// The most attempts to list it while a compaction removes records from it.
const MOST_LISTINGS: usize = 10;

/// The record `_nightcap/published/<run id>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The run id.
    pub run: String,
    /// As in the parts.
    pub run_seq: i64,
    /// Rows, ok, failed, failures by kind.
    #[serde(flatten)]
    pub counts: Counts,
    /// Parts.
    pub parts: u64,
    /// The numbers of the parts that count, if the run was closed before all were made; its other rows are left to later runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<BTreeSet<u64>>,
    /// The runs that this compaction replaces, and those that the compactions among them have replaced. They never count again, even
    /// if a process that was suspended puts their record another time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<String>,
    /// The key column.
    pub key: String,
    /// Name of the run's index among its records.
    pub index: String,
    /// Name of the run's reuse index among its records; None when no row has results and an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse_index: Option<String>,
    /// Name of the hashes of the run's parts among its records.
    pub part_hashes: String,
    /// When, in UTC.
    pub published_at: String,
    /// As in the parts; None without captions, or where the rows of a compaction differ.
    pub caption_fingerprint: Option<String>,
    /// The same for vectors.
    pub embedding_fingerprint: Option<String>,
}

impl Published {
    /// The numbers of the run's parts.
    #[must_use]
    pub fn part_numbers(&self) -> BTreeSet<u64> {
        self.partial.clone().unwrap_or_else(|| (0..self.parts).collect())
    }

    /// This run, if all of its parts were published.
    ///
    /// # Errors
    /// [`OutputError::Closed`].
    pub fn whole(self) -> Result<Self, OutputError> {
        match self.partial {
            None => Ok(self),
            Some(_) => Err(OutputError::Closed { run: self.run }),
        }
    }
}

/// Every published run whose rows count, oldest first.
///
/// # Errors
/// [`OutputError`] when a record cannot be read.
pub fn published_runs(store: &OutputStore) -> Result<Vec<Published>, OutputError> {
    let mut runs = all_published(store)?;
    let gone: BTreeSet<String> = runs.iter().flat_map(|run| run.supersedes.iter().cloned()).collect();
    runs.retain(|run| !gone.contains(&run.run));
    Ok(runs)
}

/// The names of the runs that a compaction has replaced. They never count again, even after their records are removed.
///
/// # Errors
/// [`OutputError`] when a record cannot be read.
pub fn superseded(store: &OutputStore) -> Result<BTreeSet<String>, OutputError> {
    Ok(all_published(store)?.into_iter().flat_map(|run| run.supersedes).collect())
}

/// The ids of all runs with a published record.
///
/// # Errors
/// [`OutputError::Store`].
pub fn published_names(store: &OutputStore) -> Result<BTreeSet<String>, OutputError> {
    let names = store.files(PUBLISHED)?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(".json")).map(str::to_owned).collect())
}

/// Every run with a record that publishes it, superseded ones included, oldest first.
///
/// # Errors
/// [`OutputError`] when a record cannot be read.
pub fn all_published(store: &OutputStore) -> Result<Vec<Published>, OutputError> {
    for _ in 0..MOST_LISTINGS {
        let names = store.files(PUBLISHED)?;
        failpoint::hit("after_published_listing");
        let runs = names.iter().filter_map(|name| name.strip_suffix(".json"));
        let runs = runs.map(|run| store.record::<Published>(&published_path(run)));
        // A record that vanished was replaced by a compaction, whose own record may be missing from this listing.
        if let Some(mut runs) = runs.collect::<Result<Option<Vec<Published>>, _>>()? {
            runs.sort_by_key(|run| run.run_seq);
            return Ok(runs);
        }
    }
    let message = "records are listed there that cannot be found".to_owned();
    Err(OutputError::Record { path: PUBLISHED.to_owned(), message })
}

/// The numbers of the parts that are there.
///
/// # Errors
/// [`OutputError::Store`].
pub fn present_parts(store: &OutputStore, run: &str) -> Result<BTreeSet<u64>, OutputError> {
    let number = |name: &String| name.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok();
    Ok(store.files(&part_folder(run))?.iter().filter_map(number).collect())
}

/// The plans of runs whose end is open.
pub(in crate::output) fn unpublished(store: &OutputStore) -> Result<Vec<Plan>, OutputError> {
    let decided = decided_runs(store)?;
    let mut found = Vec::new();
    for run in store.folders("_nightcap/runs")?.into_iter().filter(|run| !decided.contains(run)) {
        match load_plan(store, &run) {
            Ok(plan) => found.push(plan),
            Err(OutputError::NoSuchRun { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
