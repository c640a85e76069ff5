//! Compact: rewrites the newest row of every key into one run that replaces all others.
//!
//! ```text
//! remove leftovers of earlier ones -> choose rows -> plan -> parts -> finalize -> remove the replaced runs
//! ```
//!
//! Until finalize has published the new run, OUTPUT is unchanged; from then on the replaced runs do not count, also
//! before they are removed. If the process is killed, the next compaction does the rest.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::json;

use super::discard::{remove_superseded, remove_unpublished};
use super::rewrite::rewrite;
use super::winners::Winners;
use crate::job::FailureLimits;
use crate::output::heartbeat::{Heartbeat, alive, is_heartbeat, refuse_alive};
use crate::output::part::rows::Fingerprints;
use crate::output::publish::finalize::finalize;
use crate::output::records::plan::{Identity, Plan, load_plan};
use crate::output::records::published::{
    Published, published_runs, runs_with_records, superseded, unpublished, unpublished_compactions,
};
use crate::output::records::reasons::Reasons;
use crate::output::records::run_seq::claim_run_seq;
use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, plan_path, published_path, run_folder};
use crate::row::signature::KeyHash;

/// The options of a compaction.
#[derive(Debug, Default)]
pub struct CompactRequest {
    /// Only these keys stay, if given.
    pub keep: Option<KeepKeys>,
    /// Name of the new run.
    pub run: Option<String>,
}

/// The keys that may stay.
#[derive(Debug)]
pub struct KeepKeys {
    /// The files that they were read from, for messages.
    pub source: String,
    /// Sorted.
    pub keys: Vec<KeyHash>,
}

/// How a compaction ended.
#[derive(Debug)]
pub enum CompactOutcome {
    /// The rows are in a new run.
    Compacted(Box<Compaction>),
    /// There was nothing to do, and why.
    Nothing(&'static str),
    /// A stop was requested; nothing was changed.
    Stopped,
}

/// The report of a compaction.
#[derive(Debug, Clone, Serialize)]
pub struct Compaction {
    /// The new run.
    #[serde(flatten)]
    pub published: Published,
    /// Rows left out because their key has a newer one.
    pub replaced: u64,
    /// Rows left out because their key is not among those to keep.
    pub deleted: u64,
}

/// Compacts OUTPUT; `stop` says whether a stop was requested.
///
/// # Errors
/// [`OutputError::Alive`] when another compaction is at work, [`OutputError::CannotCompact`] when the runs do not fit
/// together or no row would stay, and any failure to read or write.
pub fn compact(
    store: &OutputStore,
    request: &CompactRequest,
    stop: &dyn Fn() -> bool,
) -> Result<CompactOutcome, OutputError> {
    finish_earlier(store)?;
    let sources = published_runs(store)?;
    let Some(newest) = sources.last() else { return Ok(CompactOutcome::Nothing("no run is published")) };
    if let Some(other) = sources.iter().find(|run| run.key != newest.key) {
        let found = format!("run {} has the key `{}`, run {} `{}`", other.run, other.key, newest.run, newest.key);
        return Err(OutputError::CannotCompact { found });
    }
    let winners = Winners::choose(store, &sources, request.keep.as_ref().map(|keep| &keep.keys[..]))?;
    if let Some(keep) = request.keep.as_ref().filter(|_| winners.kept == 0 && winners.deleted > 0) {
        let found = format!("none of the keys in OUTPUT occurs in {}, so every row would go", keep.source);
        return Err(OutputError::CannotCompact { found });
    }
    if winners.kept == 0 {
        return Ok(CompactOutcome::Nothing("no run has a row"));
    }
    if sources.len() == 1 && winners.keep_all() {
        return Ok(CompactOutcome::Nothing("there is one run, and every row of it stays"));
    }
    let run = free_name(store, request.run.as_deref())?;
    let heartbeat = Heartbeat::start(store, &run)?;
    let plan = make_plan(store, &run, &sources, &winners, request)?;
    let path = plan_path(&run);
    if store.put_new(&path, crate::output::json(&plan, &path)?)? == Put::Exists {
        return Err(OutputError::NameTaken { run });
    }
    let made = refuse_rivals(store, &plan).and_then(|()| rewrite(store, &plan, &sources, &winners, stop));
    match made {
        Ok(true) => {}
        Ok(false) => return Ok(CompactOutcome::Stopped),
        Err(error) => {
            // If the unfinished run cannot be removed now, the next compaction removes it.
            if let Err(error) = remove_unpublished(store, &run) {
                tracing::warn!(run, %error, "the unfinished compaction could not be removed");
            }
            return Err(error);
        }
    }
    let (replaced, deleted) = (winners.replaced, winners.deleted);
    // Finalize needs the memory for the index.
    drop(winners);
    let published = finalize(store, &run)?;
    for run in &published.supersedes {
        remove_superseded(store, run)?;
    }
    drop(heartbeat);
    Ok(CompactOutcome::Compacted(Box::new(Compaction { published, replaced, deleted })))
}

/// Removes what earlier compactions superseded, and compactions that were not published.
fn finish_earlier(store: &OutputStore) -> Result<(), OutputError> {
    for run in superseded(store)? {
        remove_superseded(store, &run)?;
    }
    for plan in unpublished_compactions(store)? {
        refuse_alive(store, &plan.run)?;
        tracing::info!(run = plan.run, "removing a compaction that was not finished");
        remove_unpublished(store, &plan.run)?;
    }
    for run in runs_with_records(store)? {
        // A compaction or a planner that was killed before it had put anything but its heartbeat.
        let names = store.files(&run_folder(&run))?;
        if names.iter().all(|name| is_heartbeat(name)) && alive(store, &run)?.is_none() {
            remove_unpublished(store, &run)?;
        }
    }
    Ok(())
}

/// An id that no run has or had: a run with the id of a replaced one would never count.
fn free_name(store: &OutputStore, asked: Option<&str>) -> Result<String, OutputError> {
    let taken = |run: &str| -> Result<bool, OutputError> {
        let planned = store.get(&plan_path(run))?.is_some();
        Ok(planned || store.get(&published_path(run))?.is_some() || superseded(store)?.contains(run))
    };
    if let Some(run) = asked {
        return if taken(run)? { Err(OutputError::NameTaken { run: run.to_owned() }) } else { Ok(run.to_owned()) };
    }
    let first = crate::support::clock::run_id();
    let (mut run, mut attempt) = (first.clone(), 1);
    while taken(&run)? {
        attempt += 1;
        run = format!("{first}-{attempt}");
    }
    Ok(run)
}

fn make_plan(
    store: &OutputStore,
    run: &str,
    sources: &[Published],
    winners: &Winners,
    request: &CompactRequest,
) -> Result<Plan, OutputError> {
    let mut part_rows = 1;
    for source in sources {
        part_rows = part_rows.max(load_plan(store, &source.run)?.part_rows);
    }
    let names: Vec<String> = sources.iter().map(|run| run.run.clone()).collect();
    let keep = request.keep.as_ref().map(|keep| &keep.source);
    let identity = Identity::from_iter([("compact".to_owned(), json!({ "runs": names, "keep_keys": keep }))]);
    let common = |pick: fn(&Fingerprints) -> &Option<String>| {
        let different: BTreeSet<_> = winners.fingerprints.iter().map(pick).collect();
        if different.len() == 1 { different.into_iter().next().cloned().flatten() } else { None }
    };
    Ok(Plan {
        run: run.to_owned(),
        run_seq: claim_run_seq(store, run)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: crate::support::clock::now(),
        identity,
        key: sources.last().map(|run| run.key.clone()).unwrap_or_default(),
        considered: Vec::new(),
        reuses: Vec::new(),
        reasons: Reasons::default(),
        signatures: String::new(),
        supersedes: names,
        manifest: Vec::new(),
        image_roots: Vec::new(),
        rows: winners.kept,
        part_rows,
        parts: winners.kept.div_ceil(part_rows),
        batch_size: 1,
        failures: FailureLimits { max_failed_fraction: 1.0, min_failed_rows: 0 },
        caption_fingerprint: common(|made| &made.caption),
        embedding_fingerprint: common(|made| &made.embedding),
    })
}

/// Of two compactions that start together at least one finds the other's plan here; of two that overlap the later one finds
/// that its sources are gone. The same holds for a compaction and a run that copies rows of its sources.
fn refuse_rivals(store: &OutputStore, plan: &Plan) -> Result<(), OutputError> {
    for rival in unpublished(store)?.iter().filter(|rival| rival.run != plan.run) {
        if !rival.supersedes.is_empty() {
            refuse_alive(store, &rival.run)?;
        }
        if let Some(from) = rival.reuses.iter().find(|run| plan.supersedes.contains(run)) {
            return Err(OutputError::SourceInUse { run: rival.run.clone(), from: from.clone() });
        }
    }
    let counting: BTreeSet<String> = published_runs(store)?.into_iter().map(|run| run.run).collect();
    match plan.supersedes.iter().find(|run| !counting.contains(*run)) {
        Some(run) => Err(OutputError::CannotCompact {
            found: format!("another compaction has replaced run {run} in the meantime"),
        }),
        None => Ok(()),
    }
}
