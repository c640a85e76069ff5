//! Finalize: checks that every part is there and holds what the plan says, decides that the run is published, and puts its record.
//!
//! ```text
//! parts, indexes -> outcome (the decision) -> published record
//! ```
//!
//! Whoever finds a decision without its record puts the record: what a run that is decided holds does not change any more.

use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream;

use super::index::IndexBuilder;
use super::part_hashes::PartHashes;
use super::repair::repair_hint;
use super::reuse_index::ReuseIndexBuilder;
use crate::output::part::footer::{PartSummary, fetch_footer, part_summary, wrong_part};
use crate::output::part::reader::{PartReader, fetch_rows};
use crate::output::part::rows::PartRows;
use crate::output::records::outcome::{Outcome, decide_outcome, decided_runs, outcome};
use crate::output::records::plan::{Plan, load_plan};
use crate::output::records::published::{
    Published, load_published, present_parts, published_names, runs_with_records, superseded,
};
use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, part_path, published_path, run_folder};
use crate::support::counts::Counts;
use crate::support::failpoint;

/// Parts that are fetched at the same time: a bucket answers many requests as fast as one.
const PARTS_AT_ONCE: u64 = 16;
/// The most rows of them, of which the indexes need some hundred bytes each.
const ROWS_AT_ONCE: u64 = 1 << 16;

/// Publishes `run` after checking that every part is there with the right rows and schema. A run that is published already stays as it is.
///
/// # Errors
/// [`OutputError::Incomplete`] with the first missing part, [`OutputError::WrongPart`], [`OutputError::Closed`] when it was
/// published with some of its parts, [`OutputError::Discarded`], and any failure to read or write.
pub fn finalize(store: &OutputStore, run: &str) -> Result<Published, OutputError> {
    unless_decided(store, run, publish_whole(store, run))?.whole()
}

/// What `ended` says; but if it is an error and the end of `run` is decided by now, perhaps by another process that met this one, what was
/// decided.
fn unless_decided<T: From<Published>>(
    store: &OutputStore,
    run: &str,
    ended: Result<T, OutputError>,
) -> Result<T, OutputError> {
    match ended {
        Err(error) => match outcome(store, run)? {
            Some(outcome) => complete(store, run, outcome).map(T::from),
            None => Err(error),
        },
        ended => ended,
    }
}

fn publish_whole(store: &OutputStore, run: &str) -> Result<Published, OutputError> {
    if let Some(outcome) = outcome(store, run)? {
        return complete(store, run, outcome);
    }
    let plan = load_plan(store, run)?;
    let present = present_parts(store, run)?;
    if let Some(missing) = (0..plan.parts).find(|part| !present.contains(part)) {
        return Err(OutputError::Incomplete {
            run: run.to_owned(),
            present: present.range(..plan.parts).count() as u64,
            expected: plan.parts,
            first: part_path(run, missing),
        });
    }
    let record = make_record(store, &plan, &present)?;
    failpoint::hit("before_outcome");
    match decide_outcome(store, run, Outcome::Published)? {
        Outcome::Published => put_record(store, record),
        other => complete(store, run, other),
    }
}

/// Publishes the finished parts of `run`, whose other rows are left to later runs; None when there is none.
///
/// # Errors
/// [`OutputError::PartialCompaction`], [`OutputError::WrongPart`], [`OutputError::Discarded`], and any failure to read or write.
pub fn finalize_partial(store: &OutputStore, run: &str) -> Result<Option<Published>, OutputError> {
    unless_decided(store, run, publish_finished(store, run))
}

fn publish_finished(store: &OutputStore, run: &str) -> Result<Option<Published>, OutputError> {
    if let Some(outcome) = outcome(store, run)? {
        return complete(store, run, outcome).map(Some);
    }
    let plan = load_plan(store, run)?;
    if !plan.supersedes.is_empty() {
        return Err(OutputError::PartialCompaction { run: run.to_owned() });
    }
    let present = present_parts(store, run)?;
    let finished = present.range(..plan.parts).count() as u64;
    if finished == plan.parts {
        return publish_whole(store, run).map(Some);
    }
    if finished == 0 {
        return Ok(None);
    }
    // A part that cannot be published is found before the decision, while the run can still be continued.
    for &part in present.range(..plan.parts) {
        let path = part_path(run, part);
        check_part(&plan, part, &path, &part_summary(store, &path)?)?;
    }
    failpoint::hit("before_outcome");
    let decided = decide_outcome(store, run, Outcome::Partial)?;
    complete(store, run, decided).map(Some)
}

/// The published record of `run`, whose end is decided: the process that decided may have died before it put the record.
///
/// # Errors
/// [`OutputError::Discarded`], [`OutputError::NameTaken`] when a compaction has replaced the run, [`OutputError::WrongPart`], and
/// any failure to read or write.
pub fn complete(store: &OutputStore, run: &str, outcome: Outcome) -> Result<Published, OutputError> {
    if outcome == Outcome::Discarded {
        return Err(OutputError::Discarded { run: run.to_owned() });
    }
    if let Some(published) = load_published(store, run)? {
        return Ok(published);
    }
    let plan = load_plan(store, run).map_err(|error| match error {
        OutputError::NoSuchRun { run } => OutputError::NameTaken { run },
        other => other,
    })?;
    // The plan may be the late one of a process that was suspended until the run was replaced and removed.
    if superseded(store)?.contains(run) {
        return Err(OutputError::NameTaken { run: run.to_owned() });
    }
    let parts = match outcome {
        Outcome::Partial => super::fill::fill(store, &plan)?,
        _ => (0..plan.parts).collect(),
    };
    put_record(store, make_record(store, &plan, &parts)?)
}

/// Puts the published records that are missing: those of runs whose end was decided by a process that died before it put them.
///
/// A run whose parts were damaged since is left as it is: it does not count, and later runs make its rows again. Returns the ids of such
/// runs.
///
/// # Errors
/// [`OutputError::Store`], and [`OutputError::Record`] for an unreadable outcome.
pub fn complete_decided(store: &OutputStore) -> Result<Vec<String>, OutputError> {
    let mut damaged = Vec::new();
    let (decided, published) = (decided_runs(store)?, published_names(store)?);
    let runs = runs_with_records(store)?;
    for run in runs.iter().filter(|run| decided.contains(*run) && !published.contains(*run)) {
        let Some(outcome) = outcome(store, run)? else { continue };
        match complete(store, run, outcome) {
            Ok(record) => tracing::info!(run, rows = record.counts.rows, "published: its outcome was decided earlier"),
            // What is left of a run that was removed.
            Err(OutputError::Discarded { .. } | OutputError::NameTaken { .. }) => {}
            Err(OutputError::Store { source, action, path })
                if !matches!(source, object_store::Error::NotFound { .. }) =>
            {
                return Err(OutputError::Store { action, path, source });
            }
            Err(error) => {
                let (found, hint) = (error.to_string(), repair_hint(store, run, &error));
                // The hint of the error is for runs whose end is open.
                let found = found.split("\nhint: ").next().unwrap_or_default();
                tracing::warn!(
                    "run {run} was to be published and cannot be, so its rows do not count: {found}\nhint: {hint}"
                );
                damaged.push(run.clone());
            }
        }
    }
    Ok(damaged)
}

/// Puts the published record of a run that is decided. If another process has put it first, that one counts.
fn put_record(store: &OutputStore, record: Published) -> Result<Published, OutputError> {
    failpoint::hit("before_publish");
    let path = published_path(&record.run);
    match store.put_new(&path, crate::output::json(&record, &path)?)? {
        Put::Created => Ok(record),
        // Gone when a compaction has replaced the run since.
        Put::Exists => load_published(store, &record.run)?.ok_or(OutputError::NameTaken { run: record.run }),
    }
}

/// Fetches what the record and the indexes need of a part, after checking that it is one of `plan`; None for a filler.
async fn fetch_part(
    store: &OutputStore,
    plan: &Plan,
    part: u64,
) -> Result<Option<(PartSummary, PartReader)>, OutputError> {
    let path = part_path(&plan.run, part);
    let footer = fetch_footer(store, &path, None).await?;
    let summary = footer.summary(&path)?;
    if summary.is_filler {
        return Ok(None);
    }
    check_part(plan, part, &path, &summary)?;
    let reader = fetch_rows(store, &path, footer, Some(&PartRows::columns(&plan.key))).await?;
    Ok(Some((summary, reader)))
}

/// Checks `parts` (of which fillers do not count), puts the indexes of their rows, and makes the record that publishes them.
fn make_record(store: &OutputStore, plan: &Plan, parts: &BTreeSet<u64>) -> Result<Published, OutputError> {
    let run = plan.run.as_str();
    let mut counts = Counts::default();
    let mut columns: Option<String> = None;
    let mut counted = BTreeSet::new();
    let rows = plan.rows.min((parts.len() as u64).saturating_mul(plan.part_rows));
    let (mut index, mut reuse_index) = (IndexBuilder::with_capacity(rows), ReuseIndexBuilder::with_capacity(rows));
    let mut part_hashes = PartHashes::default();
    let parts: Vec<u64> = parts.range(..plan.parts).copied().collect();
    let at_once = (ROWS_AT_ONCE / plan.part_rows.max(1)).clamp(1, PARTS_AT_ONCE) as usize;
    for group in parts.chunks(at_once) {
        let fetched = stream::iter(group).map(|part| fetch_part(store, plan, *part)).buffered(at_once);
        for (part, fetched) in group.iter().copied().zip(store.wait(fetched.collect::<Vec<_>>())) {
            let Some((summary, reader)) = fetched? else { continue };
            let path = part_path(run, part);
            counted.insert(part);
            let first = columns.get_or_insert_with(|| summary.columns.clone());
            if *first != summary.columns {
                let expected = format!("the columns of the first part ({first})");
                return Err(OutputError::WrongPart { path, expected, found: summary.columns });
            }
            counts.add(&summary.counts);
            part_hashes.add(part, summary.hash);
            let mut first = 0;
            for batch in reader {
                let batch = batch.map_err(|error| wrong_part(&path, &error))?;
                let wrong = |found: String| wrong_part(&path, &found);
                let rows = PartRows::new(&batch, &plan.key).map_err(wrong)?;
                index.add(&rows).and_then(|()| reuse_index.add(part, first, &rows)).map_err(wrong)?;
                first += rows.len() as u64;
            }
        }
    }
    failpoint::hit("before_index");
    let index = index.put(store, &run_folder(run))?;
    let reuse_index = reuse_index.put(store, &run_folder(run))?;
    Ok(Published {
        run: run.to_owned(),
        run_seq: plan.run_seq,
        counts,
        parts: counted.len() as u64,
        partial: (counted.len() as u64 != plan.parts).then_some(counted),
        supersedes: plan.supersedes.clone(),
        key: plan.key.clone(),
        index,
        reuse_index,
        part_hashes: part_hashes.put(store, &run_folder(run))?,
        published_at: crate::support::clock::timestamp(store.process().now()),
        caption_fingerprint: plan.caption_fingerprint.clone(),
        embedding_fingerprint: plan.embedding_fingerprint.clone(),
    })
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
