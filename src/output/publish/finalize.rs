//! Finalize: checks that every part is there and holds what the plan says, then publishes the run, once.

use std::collections::BTreeSet;

use super::index::IndexBuilder;
use super::reuse_index::ReuseIndexBuilder;
use crate::output::part::footer::{PartSummary, part_summary, wrong_part};
use crate::output::part::reader::read_part;
use crate::output::part::rows::PartRows;
use crate::output::records::plan::{Plan, load_plan};
use crate::output::records::published::{Published, present_parts};
use crate::output::store::{OutputStore, Put};
use crate::output::{Counts, OutputError, part_path, plan_path, published_path, run_folder};
use crate::support::failpoint;

/// Publishes `run` after checking that every part is there with the right rows and schema. A run that is published already stays as it is.
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
    let rows = plan.rows.min((parts.len() as u64).saturating_mul(plan.part_rows));
    let (mut index, mut reuse_index) = (IndexBuilder::with_capacity(rows), ReuseIndexBuilder::with_capacity(rows));
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
            index.add(&rows).and_then(|()| reuse_index.add(part, first, &rows)).map_err(wrong)?;
            first += rows.len() as u64;
        }
    }
    failpoint::hit("before_index");
    let index = index.put(store, &run_folder(run))?;
    let reuse_index = reuse_index.put(store, &run_folder(run))?;
    let published = Published {
        run: run.to_owned(),
        run_seq: plan.run_seq,
        counts,
        parts: parts.range(..plan.parts).count() as u64,
        partial,
        supersedes: plan.supersedes.clone(),
        key: plan.key.clone(),
        index,
        reuse_index,
        published_at: crate::support::clock::now(),
        caption_fingerprint: plan.caption_fingerprint.clone(),
        embedding_fingerprint: plan.embedding_fingerprint.clone(),
    };
    failpoint::hit("before_publish");
    // If this process was suspended, another may have removed the run.
    if store.modified(&plan_path(run))?.is_none() {
        return Err(OutputError::Gone { run: run.to_owned() });
    }
    let path = published_path(run);
    match store.put_new(&path, crate::output::json(&published, &path)?)? {
        Put::Created => Ok(published),
        // Another process has published it first: its record counts.
        Put::Exists => store.record(&path)?.ok_or_else(|| OutputError::NoSuchRun { run: run.to_owned() }),
    }
}

/// Checks that the footer of a part agrees with `plan`.
///
/// # Errors
/// [`OutputError::ForeignPart`] or [`OutputError::WrongPart`].
pub(crate) fn check_part(plan: &Plan, part: u64, path: &str, summary: &PartSummary) -> Result<(), OutputError> {
    let (found, expected) = (&summary.plan_digest, plan.digest());
    if *found != expected {
        return Err(OutputError::ForeignPart { path: path.to_owned(), found: found.clone(), expected });
    }
    let (counts, rows) = (&summary.counts, plan.rows_in(part));
    if summary.rows == rows && counts.rows == rows && counts.add_up() {
        return Ok(());
    }
    Err(OutputError::WrongPart {
        path: path.to_owned(),
        expected: format!("{rows} rows"),
        found: format!("{} rows, counted as {counts:?}", summary.rows),
    })
}
