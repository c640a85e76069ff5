//! Finalize: every part is there and holds what the plan says, then the run is published, once.

use std::collections::BTreeSet;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde::{Deserialize, Serialize};

use super::contents::ContentsBuilder;
use super::index::{IndexBuilder, PartRows};
use super::part_reader::{read_part, wrong_part};
use super::store::{OutputStore, Put};
use super::{Counts, OutputError, part_path, plan_path, published_path, run_folder};
use crate::failpoint;
use crate::plan::Plan;

/// The folder of the records that publish runs.
const PUBLISHED: &str = "_nightcap/published";
/// So often it is listed while records vanish from it; a compaction makes that happen once.
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
    /// The numbers of the parts that count, where the run was closed before all were made; the other rows are left to later
    /// runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<BTreeSet<u64>>,
    /// The runs whose rows this one took over, and which no longer count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<String>,
    /// The key column.
    pub key: String,
    /// Name of the run's index among its records.
    pub index: String,
    /// Name of the run's contents among its records; None when no row has results and an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<String>,
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

/// The names of the runs whose rows a compaction took over. They never count again, also those that are long removed.
///
/// # Errors
/// [`OutputError`] when a record cannot be read.
pub fn superseded(store: &OutputStore) -> Result<BTreeSet<String>, OutputError> {
    Ok(all_published(store)?.into_iter().flat_map(|run| run.supersedes).collect())
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
        // One that is gone again was taken over by a compaction, whose own record may be missing from this listing.
        if let Some(mut runs) = runs.collect::<Result<Option<Vec<Published>>, _>>()? {
            runs.sort_by_key(|run| run.run_seq);
            return Ok(runs);
        }
    }
    let message = "records are listed there that cannot be found".to_owned();
    Err(OutputError::Record { path: PUBLISHED.to_owned(), message })
}

/// What a part's footer says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSummary {
    /// Digest of the plan it was made for.
    pub plan_digest: String,
    /// Rows by outcome.
    pub counts: Counts,
    /// Rows that the Parquet footer itself counts.
    pub rows: u64,
    /// Names and Parquet types of its columns.
    pub columns: String,
}

/// Reads a run's plan.
///
/// # Errors
/// [`OutputError`], or [`OutputError::NoSuchRun`].
pub fn load_plan(store: &OutputStore, run: &str) -> Result<Plan, OutputError> {
    store.record(&plan_path(run))?.ok_or_else(|| OutputError::NoSuchRun { run: run.to_owned() })
}

/// The numbers of the parts that are there.
///
/// # Errors
/// [`OutputError::Store`].
pub fn present_parts(store: &OutputStore, run: &str) -> Result<BTreeSet<u64>, OutputError> {
    let number = |name: &String| name.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok();
    Ok(store.files(&format!("run={run}"))?.iter().filter_map(number).collect())
}

/// Reads the footer of the part at `path`.
///
/// # Errors
/// [`OutputError::Store`], or [`OutputError::WrongPart`] when it is no part of ours.
pub fn part_summary(store: &OutputStore, path: &str) -> Result<PartSummary, OutputError> {
    let wrong = |found: String| wrong_part(path, &found);
    let metadata = footer(store, path)?.map_err(|error| wrong(error.to_string()))?;
    let file = metadata.file_metadata();
    let value = |key: &str| {
        let entries = file.key_value_metadata().into_iter().flatten();
        let found =
            entries.filter(|entry| entry.key == format!("nightcap.{key}")).find_map(|entry| entry.value.clone());
        found.ok_or_else(|| wrong(format!("no `nightcap.{key}` in its footer")))
    };
    let counts = serde_json::from_str(&value("counts")?).map_err(|error| wrong(error.to_string()))?;
    let columns = file.schema_descr().columns();
    let columns = columns.iter().map(|column| format!("{} {}", column.path(), column.physical_type()));
    Ok(PartSummary {
        plan_digest: value("plan")?,
        counts,
        rows: u64::try_from(file.num_rows()).unwrap_or(0),
        columns: columns.collect::<Vec<_>>().join(", "),
    })
}

/// The Parquet footer of the object at `path`, by one short read and, for a long footer, a second.
pub(super) fn footer(store: &OutputStore, path: &str) -> Result<Result<ParquetMetaData, ParquetError>, OutputError> {
    let mut length = 64 << 10;
    loop {
        let (tail, size): (Bytes, u64) = store.tail(path, length)?;
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&tail, size) {
            Ok(()) => return Ok(reader.finish()),
            Err(ParquetError::NeedMoreData(needed)) if (needed as u64) > length && length < size => {
                length = needed as u64;
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// Publishes `run` after checking that every part is there with the right rows and schema. Publishing twice is harmless.
///
/// # Errors
/// [`OutputError::Incomplete`] with the first missing part, [`OutputError::WrongPart`], [`OutputError::Closed`] when it was
/// published with some of its parts, and any failure to read or write.
pub fn finalize(store: &OutputStore, run: &str) -> Result<Published, OutputError> {
    if let Some(published) = store.record::<Published>(&published_path(run))? {
        return published.whole();
    }
    let plan = load_plan(store, run)?;
    let present = present_parts(store, run)?;
    if let Some(missing) = (0..plan.parts).find(|part| !present.contains(part)) {
        return Err(OutputError::Incomplete {
            run: run.to_owned(),
            present: present.iter().filter(|part| **part < plan.parts).count() as u64,
            expected: plan.parts,
            first: part_path(run, missing),
        });
    }
    publish(store, &plan, &present, None)?.whole()
}

/// Publishes the finished parts of `run`, whose other rows are left to later runs; None when there is none.
///
/// # Errors
/// [`OutputError::PartialCompaction`], [`OutputError::WrongPart`], and any failure to read or write.
pub fn finalize_partial(store: &OutputStore, run: &str) -> Result<Option<Published>, OutputError> {
    if let Some(published) = store.record(&published_path(run))? {
        return Ok(Some(published));
    }
    let plan = load_plan(store, run)?;
    if !plan.supersedes.is_empty() {
        return Err(OutputError::PartialCompaction { run: run.to_owned() });
    }
    let present: BTreeSet<u64> = present_parts(store, run)?.range(..plan.parts).copied().collect();
    if present.is_empty() && plan.parts > 0 {
        return Ok(None);
    }
    let partial = (present.len() as u64 != plan.parts).then(|| present.clone());
    publish(store, &plan, &present, partial).map(Some)
}

fn publish(
    store: &OutputStore,
    plan: &Plan,
    parts: &BTreeSet<u64>,
    partial: Option<BTreeSet<u64>>,
) -> Result<Published, OutputError> {
    let run = plan.run.as_str();
    let mut counts = Counts::default();
    let mut columns: Option<String> = None;
    let rows = plan.rows.min(parts.len() as u64 * plan.part_rows);
    let (mut index, mut contents) = (IndexBuilder::with_capacity(rows), ContentsBuilder::with_capacity(rows));
    for &part in parts.range(..plan.parts) {
        let path = part_path(run, part);
        let summary = part_summary(store, &path)?;
        check_part(plan, part, &path, &summary)?;
        let first = columns.get_or_insert_with(|| summary.columns.clone());
        if *first != summary.columns {
            let expected = format!("the columns of the first part ({first})");
            return Err(OutputError::WrongPart { path, expected, found: summary.columns });
        }
        counts.add(&summary.counts);
        let mut first = 0;
        for batch in read_part(store, &path, Some(&PartRows::columns(&plan.key)))? {
            let batch = batch.map_err(|error| wrong_part(&path, &error))?;
            let wrong = |found: String| wrong_part(&path, &found);
            let rows = PartRows::new(&batch, &plan.key).map_err(wrong)?;
            index.add(&rows).and_then(|()| contents.add(part, first, &rows)).map_err(wrong)?;
            first += rows.len() as u64;
        }
    }
    failpoint::hit("before_index");
    let index = index.put(store, &run_folder(run))?;
    let contents = contents.put(store, &run_folder(run))?;
    let published = Published {
        run: run.to_owned(),
        run_seq: plan.run_seq,
        counts,
        parts: parts.range(..plan.parts).count() as u64,
        partial,
        supersedes: plan.supersedes.clone(),
        key: plan.key.clone(),
        index,
        contents,
        published_at: crate::clock::now(),
        caption_fingerprint: plan.caption_fingerprint.clone(),
        embedding_fingerprint: plan.embedding_fingerprint.clone(),
    };
    failpoint::hit("before_publish");
    // Whoever took this process for dead has removed the run, and parts with it.
    if store.modified(&plan_path(run))?.is_none() {
        return Err(OutputError::Gone { run: run.to_owned() });
    }
    let path = published_path(run);
    match store.put_new(&path, super::json(&published, &path)?)? {
        Put::Created => Ok(published),
        // Another worker was faster; what it says counts.
        Put::Exists => store.record(&path)?.ok_or_else(|| OutputError::NoSuchRun { run: run.to_owned() }),
    }
}

/// Whether a part's footer says what `plan` does.
///
/// # Errors
/// [`OutputError::ForeignPart`] or [`OutputError::WrongPart`].
pub(super) fn check_part(plan: &Plan, part: u64, path: &str, summary: &PartSummary) -> Result<(), OutputError> {
    let (found, expected) = (&summary.plan_digest, plan.digest());
    if *found != expected {
        return Err(OutputError::ForeignPart { path: path.to_owned(), found: found.clone(), expected });
    }
    let (counts, rows) = (&summary.counts, plan.rows_in(part));
    if summary.rows == rows && counts.rows == rows && counts.ok + counts.failed == rows {
        return Ok(());
    }
    Err(OutputError::WrongPart {
        path: path.to_owned(),
        expected: format!("{rows} rows"),
        found: format!("{} rows, counted as {counts:?}", summary.rows),
    })
}
