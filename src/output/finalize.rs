//! Finalize: every part is there and holds what the plan says, then the run is published, once.

use std::collections::BTreeSet;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde::{Deserialize, Serialize};

use super::store::{OutputStore, Put};
use super::{Counts, OutputError, part_path, published_path, run_folder};
use crate::failpoint;
use crate::plan::Plan;

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
    /// When, in UTC.
    pub published_at: String,
    /// As in the parts.
    pub caption_fingerprint: Option<String>,
    /// As in the parts.
    pub embedding_fingerprint: Option<String>,
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
    let path = format!("{}/plan.json", run_folder(run));
    store.record(&path)?.ok_or_else(|| OutputError::NoSuchRun { run: run.to_owned() })
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
    let wrong = |found: String| OutputError::WrongPart {
        path: path.to_owned(),
        expected: "a Parquet file written by nightcap".to_owned(),
        found,
    };
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
fn footer(store: &OutputStore, path: &str) -> Result<Result<ParquetMetaData, ParquetError>, OutputError> {
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
/// [`OutputError::Incomplete`] with the first missing part, [`OutputError::WrongPart`], and any failure to read or write.
pub fn finalize(store: &OutputStore, run: &str) -> Result<Published, OutputError> {
    if let Some(published) = store.record(&published_path(run))? {
        return Ok(published);
    }
    let plan = load_plan(store, run)?;
    let digest = plan.digest();
    let present = present_parts(store, run)?;
    if let Some(missing) = (0..plan.parts).find(|part| !present.contains(part)) {
        return Err(OutputError::Incomplete {
            run: run.to_owned(),
            present: present.iter().filter(|part| **part < plan.parts).count() as u64,
            expected: plan.parts,
            first: part_path(run, missing),
        });
    }
    let mut counts = Counts::default();
    let mut columns: Option<String> = None;
    for part in 0..plan.parts {
        let path = part_path(run, part);
        let summary = part_summary(store, &path)?;
        let wrong =
            |expected: String, found: String| Err(OutputError::WrongPart { path: path.clone(), expected, found });
        if summary.plan_digest != digest {
            return Err(OutputError::ForeignPart { path, found: summary.plan_digest, expected: digest });
        }
        let expected = plan.rows_in(part);
        if summary.rows != expected
            || summary.counts.rows != expected
            || summary.counts.ok + summary.counts.failed != expected
        {
            return wrong(
                format!("{expected} rows"),
                format!("{} rows, counted as {:?}", summary.rows, summary.counts),
            );
        }
        let first = columns.get_or_insert_with(|| summary.columns.clone());
        if *first != summary.columns {
            return wrong(format!("the columns of the first part ({first})"), summary.columns);
        }
        counts.add(&summary.counts);
    }
    let published = Published {
        run: run.to_owned(),
        run_seq: plan.run_seq,
        counts,
        parts: plan.parts,
        published_at: crate::clock::now(),
        caption_fingerprint: plan.caption_fingerprint,
        embedding_fingerprint: plan.embedding_fingerprint,
    };
    failpoint::hit("before_publish");
    let path = published_path(run);
    match store.put_new(&path, super::json(&published, &path)?)? {
        Put::Created => Ok(published),
        // Another worker was faster; what it says counts.
        Put::Exists => store.record(&path)?.ok_or_else(|| OutputError::NoSuchRun { run: run.to_owned() }),
    }
}
