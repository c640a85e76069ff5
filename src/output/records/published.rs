//! The records `published/<run id>.json`, which `finalize` puts last. They say which runs count, which are unfinished, and which a
//! compaction has replaced.

use std::collections::BTreeSet;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::names::{self, MOST_ROWS};
use super::outcome::decided_runs;
use super::plan::{Plan, load_plan};
use super::run_id::is_run_id;
use crate::output::store::OutputStore;
use crate::output::{OutputError, part_folder, published_path};
use crate::support::counts::Counts;
use crate::support::failpoint;

/// The folder of the records that publish runs.
const PUBLISHED: &str = "_nightcap/published";
/// The most attempts to list it while a compaction removes records from it.
const MOST_LISTINGS: usize = 10;

/// The record `_nightcap/published/<run id>.json`. One that is read agrees with itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Published {
    /// The run id.
    #[serde(deserialize_with = "names::run_id")]
    pub run: String,
    /// As in the parts.
    #[serde(deserialize_with = "names::run_seq")]
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
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "names::run_ids")]
    pub supersedes: Vec<String>,
    /// The key column.
    pub key: String,
    /// Name of the run's index among its records.
    #[serde(deserialize_with = "names::index")]
    pub index: String,
    /// Name of the run's reuse index among its records; None when no row has results and an image.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "names::reuse_index")]
    pub reuse_index: Option<String>,
    /// Name of the hashes of the run's parts among its records.
    #[serde(deserialize_with = "names::part_hashes")]
    pub part_hashes: String,
    /// When, in UTC.
    pub published_at: String,
    /// As in the parts; None without captions, or where the rows of a compaction differ.
    pub caption_fingerprint: Option<String>,
    /// The same for vectors.
    pub embedding_fingerprint: Option<String>,
}

impl<'de> Deserialize<'de> for Published {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let published = Self::deserialize(deserializer)?;
        published.check().map_err(D::Error::custom)?;
        Ok(published)
    }
}

impl Serialize for Published {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl Published {
    /// Checks that the numbers are possible and agree with each other.
    fn check(&self) -> Result<(), String> {
        let Self { counts, parts, partial, .. } = self;
        if counts.rows > MOST_ROWS || !counts.add_up() {
            return Err(format!("its counts of rows do not add up: {counts:?}"));
        }
        // Every part that counts has a row.
        if *parts > counts.rows || (*parts == 0 && counts.rows > 0) {
            return Err(format!("expected a part for every row at most, found {parts} parts for {} rows", counts.rows));
        }
        if partial.as_ref().is_some_and(|partial| {
            partial.len() as u64 != *parts || partial.last().is_some_and(|last| *last >= MOST_ROWS)
        }) {
            return Err(format!("it counts {parts} parts and numbers others"));
        }
        Ok(())
    }

    /// The numbers of the run's parts, in order.
    pub fn part_numbers(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        match &self.partial {
            Some(numbers) => Box::new(numbers.iter().copied()),
            None => Box::new(0..self.parts),
        }
    }

    /// Whether the part of this number counts.
    #[must_use]
    pub fn counts_part(&self, part: u64) -> bool {
        self.partial.as_ref().map_or(part < self.parts, |numbers| numbers.contains(&part))
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
        let runs = runs.map(|run| load_published(store, run));
        // A record that vanished was replaced by a compaction, whose own record may be missing from this listing.
        if let Some(mut runs) = runs.collect::<Result<Option<Vec<Published>>, _>>()? {
            runs.sort_by_key(|run| run.run_seq);
            return Ok(runs);
        }
    }
    let message = "records are listed there that cannot be found".to_owned();
    Err(OutputError::Record { path: PUBLISHED.to_owned(), message })
}

/// Reads the record that publishes `run`; None: there is none.
///
/// # Errors
/// [`OutputError::Store`], and [`OutputError::Record`] when it does not parse, does not agree with itself or is that of another run.
pub fn load_published(store: &OutputStore, run: &str) -> Result<Option<Published>, OutputError> {
    let path = published_path(run);
    let refuse = |message: String| Err(OutputError::Record { path: path.clone(), message });
    if !is_run_id(run) {
        return refuse(NO_RUN_ID.to_owned());
    }
    match store.record::<Published>(&path)? {
        Some(published) if published.run != run => refuse(format!("it is the record of run {}", published.run)),
        published => Ok(published),
    }
}

/// What is wrong with the folder or the record of a run whose name is no run id.
pub(crate) const NO_RUN_ID: &str = "no run can have this name";

/// The ids of the runs that have a folder of records. Folders whose names are no run ids are left out: `status` reports them, and
/// nothing is done to them.
///
/// # Errors
/// [`OutputError::Store`].
pub fn runs_with_records(store: &OutputStore) -> Result<Vec<String>, OutputError> {
    let mut names = store.folders("_nightcap/runs")?;
    names.retain(|name| is_run_id(name));
    Ok(names)
}

/// The numbers of the parts that are there.
///
/// # Errors
/// [`OutputError::Store`].
pub fn present_parts(store: &OutputStore, run: &str) -> Result<BTreeSet<u64>, OutputError> {
    Ok(store.files(&part_folder(run))?.iter().filter_map(|name| part_number(name)).collect())
}

/// The number of a part, from the name of its file; None: that of something else.
pub(crate) fn part_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok();
    number.filter(|number| format!("part-{number:06}.parquet") == name)
}

/// The plans of runs whose end is open.
pub(in crate::output) fn unpublished(store: &OutputStore) -> Result<Vec<Plan>, OutputError> {
    let decided = decided_runs(store)?;
    let mut found = Vec::new();
    for run in runs_with_records(store)?.into_iter().filter(|run| !decided.contains(run)) {
        match load_plan(store, &run) {
            Ok(plan) => found.push(plan),
            Err(OutputError::NoSuchRun { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
