//! Compact: rewrites the newest row of every key, and the last good one if the newest failed, into one run that replaces all others.
//!
//! ```text
//! end the compaction before -> choose rows -> claim -> plan -> parts -> finalize -> remove the replaced runs, after a while
//! ```
//!
//! Until finalize has decided that the new run is published, OUTPUT is unchanged; from then on the replaced runs do not count. One
//! compaction is at work at a time ([`compaction`](crate::output::records::compaction)). If it is killed, the next one with the same name goes on
//! with it, and any other one discards it.

use std::collections::BTreeSet;
use std::time::Duration;

use itertools::Itertools;
use serde::Serialize;
use serde_json::json;

use super::rewrite::rewrite;
use super::sweep::{remove_run, sweep};
use super::winners::Winners;
use crate::job::FailureLimits;
use crate::output::format::claim_format;
use crate::output::heartbeat::{Heartbeat, refuse_alive};
use crate::output::part::rows::Fingerprints;
use crate::output::publish::finalize::{complete_decided, finalize};
use crate::output::records::compaction::{CompactionClaim, claim_compaction, newest_compaction};
use crate::output::records::outcome::{Outcome, decide_outcome, ended_or, outcome};
use crate::output::records::picture_source::{PictureSource, ReadRules};
use crate::output::records::plan::{Identity, Plan, load_plan};
use crate::output::records::published::{Published, published_runs};
use crate::output::records::reasons::Reasons;
use crate::output::records::run_id::new_run_id;
use crate::output::records::run_seq::claim_run_seq;
use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, plan_path};
use crate::row::signature::KeyHash;
use crate::support::failpoint;

/// Where the identity of a plan holds what the rows of a compaction depend on.
const IDENTITY: &str = "compact";
/// Within it: which keys stay.
const KEEP_KEYS: &str = "keep_keys";
/// Why there is nothing to do when the same command is given again.
const MADE: &str = "this compaction is published already";

/// The options of a compaction.
#[derive(Debug, Default)]
pub struct CompactRequest {
    /// Only these keys stay, if given.
    pub keep: Option<KeepKeys>,
    /// Name of the new run.
    pub run: Option<String>,
    /// How long the runs stay that were replaced, for queries that have begun.
    pub grace: Duration,
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
    /// Rows left out because newer ones of their keys replace them.
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
    let earlier = newest_compaction(store)?;
    compact_after(store, request, stop, earlier.as_ref()).map_err(|error| match error {
        // What it read may have been replaced and removed while it was suspended.
        OutputError::Store { .. }
        | OutputError::Record { .. }
        | OutputError::NoSuchRun { .. }
        | OutputError::WrongPart { .. } => match newest_compaction(store) {
            Ok(Some(newer)) if newer.is_after(earlier.as_ref()) && !newer.is_of_this_process(store) => {
                OutputError::Overtaken { run: newer.run }
            }
            _ => error,
        },
        error => error,
    })
}

fn compact_after(
    store: &OutputStore,
    request: &CompactRequest,
    stop: &dyn Fn() -> bool,
    earlier: Option<&CompactionClaim>,
) -> Result<CompactOutcome, OutputError> {
    let asked = request.run.as_deref();
    let resumed = match earlier {
        Some(claim) if outcome(store, &claim.run)?.is_none() => {
            refuse_at_work(store, claim)?;
            let resumed = asked == Some(claim.run.as_str());
            if !resumed && decide_outcome(store, &claim.run, Outcome::Discarded)? == Outcome::Discarded {
                tracing::info!(run = claim.run, "removing a compaction that was not finished");
            }
            resumed
        }
        _ => false,
    };
    let damaged = complete_decided(store)?;
    sweep(store, request.grace)?;
    if is_made(store, request)? {
        return Ok(CompactOutcome::Nothing(MADE));
    }
    let plan = asked.filter(|_| resumed).map(|run| planned(store, run)).transpose()?.flatten();
    let mut sources = published_runs(store)?;
    if let Some(plan) = &plan {
        sources.retain(|run| plan.supersedes.contains(&run.run));
    }
    if let Some(plan) = plan.as_ref().filter(|plan| plan.identity != identity(&sources, request)) {
        // It was asked for with other keys.
        return Err(OutputError::NameTaken { run: plan.run.clone() });
    }
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
    let run = match asked {
        Some(run) if !resumed => match refuse_taken(store, run) {
            // Another process was asked for the same in the meantime.
            Err(OutputError::NameTaken { .. }) if is_made(store, request)? => return Ok(CompactOutcome::Nothing(MADE)),
            free => free?,
        },
        Some(run) => run.to_owned(),
        None => new_run_id(store),
    };
    // The storage may be another one than when the runs were made.
    claim_format(store)?;
    failpoint::hit("before_claim");
    if !resumed && !claim_compaction(store, earlier, &run)? {
        return Err(OutputError::Overtaken { run });
    }
    let _heartbeat = Heartbeat::start(store, &run)?;
    let made = match plan {
        Some(plan) => Ok(plan),
        None => make_plan(store, &run, &sources, &winners, request, &damaged).and_then(|plan| put_plan(store, plan)),
    };
    let made = made.and_then(|plan| rewrite(store, &plan, &sources, &winners, stop));
    match made {
        Ok(true) => {}
        Ok(false) => {
            // Nobody goes on with it; the next compaction removes its parts.
            if request.run.is_none() {
                decide_outcome(store, &run, Outcome::Discarded)?;
            }
            return Ok(CompactOutcome::Stopped);
        }
        Err(error) => {
            let error = ended_or(store, &run, error);
            give_up(store, request, &run, &error);
            return Err(error);
        }
    }
    let (replaced, deleted) = (winners.replaced, winners.deleted);
    // Finalize needs the memory for the index.
    drop(winners);
    let published = finalize(store, &run)?;
    sweep(store, request.grace)?;
    Ok(CompactOutcome::Compacted(Box::new(Compaction { published, replaced, deleted })))
}

/// Whether the compaction that is asked for by name is published already, and counts.
fn is_made(store: &OutputStore, request: &CompactRequest) -> Result<bool, OutputError> {
    let Some(run) = &request.run else { return Ok(false) };
    let counts =
        published_runs(store)?.iter().any(|published| published.run == *run && !published.supersedes.is_empty());
    let keeps =
        |plan: &Plan| plan.identity.get(IDENTITY).and_then(|made| made.get(KEEP_KEYS)) == Some(&keep_identity(request));
    Ok(counts && keeps(&load_plan(store, run)?))
}

/// Refuses to end a compaction that may be at work.
fn refuse_at_work(store: &OutputStore, claim: &CompactionClaim) -> Result<(), OutputError> {
    refuse_alive(store, &claim.run)?;
    match claim.has_just_begun(store)? {
        Some(worker) => Err(OutputError::Alive { run: claim.run.clone(), host: worker.host, pid: worker.pid }),
        None => Ok(()),
    }
}

/// Refuses the name of a run that there is or was.
fn refuse_taken(store: &OutputStore, run: &str) -> Result<String, OutputError> {
    if planned(store, run)?.is_some() || outcome(store, run)?.is_some() {
        return Err(OutputError::NameTaken { run: run.to_owned() });
    }
    Ok(run.to_owned())
}

fn planned(store: &OutputStore, run: &str) -> Result<Option<Plan>, OutputError> {
    store.record(&plan_path(run))
}

/// Discards a compaction that failed, so that its parts take no space. After an outage, the next one with the same name goes on.
fn give_up(store: &OutputStore, request: &CompactRequest, run: &str, error: &OutputError) {
    if request.run.is_some() && matches!(error, OutputError::Store { .. } | OutputError::Overtaken { .. }) {
        return;
    }
    let removed = match decide_outcome(store, run, Outcome::Discarded) {
        Ok(Outcome::Discarded) => remove_run(store, run).map(drop),
        // Another process has finished it.
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        tracing::warn!(run, %error, "the unfinished compaction could not be removed; the next one removes it");
    }
}

/// Puts the plan, unless another process that was asked for the same run has put one.
fn put_plan(store: &OutputStore, plan: Plan) -> Result<Plan, OutputError> {
    let (run, path) = (plan.run.as_str(), plan_path(&plan.run));
    if store.put_new(&path, crate::output::json(&plan, &path)?)? == Put::Exists {
        return Err(OutputError::Overtaken { run: run.to_owned() });
    }
    // While this process was suspended, a run of this name may have been made, replaced and removed.
    match outcome(store, run)? {
        None => Ok(plan),
        Some(Outcome::Discarded) => Err(OutputError::Discarded { run: run.to_owned() }),
        Some(_) => Err(OutputError::NameTaken { run: run.to_owned() }),
    }
}

/// What the rows of a compaction depend on.
fn identity(sources: &[Published], request: &CompactRequest) -> Identity {
    let names: Vec<&String> = sources.iter().map(|run| &run.run).collect();
    Identity::from_iter([(IDENTITY.to_owned(), json!({ "runs": names, KEEP_KEYS: keep_identity(request) }))])
}

/// The part of it that says which keys stay.
fn keep_identity(request: &CompactRequest) -> serde_json::Value {
    json!(request.keep.as_ref().map(|keep| {
        let mut hasher = blake3::Hasher::new();
        for key in &keep.keys {
            hasher.update(&key.0.to_be_bytes());
        }
        json!({ "source": keep.source, "keys": hasher.finalize().to_hex()[..32] })
    }))
}

fn make_plan(
    store: &OutputStore,
    run: &str,
    sources: &[Published],
    winners: &Winners,
    request: &CompactRequest,
    damaged: &[String],
) -> Result<Plan, OutputError> {
    let (mut part_rows, mut pictures) = (1, Vec::new());
    for source in sources.iter().rev() {
        let plan = load_plan(store, &source.run)?;
        part_rows = part_rows.max(plan.part_rows);
        pictures.extend(plan.picture_sources());
    }
    let names: Vec<String> = sources.iter().map(|run| run.run.clone()).collect();
    let replaced = sources.iter().flat_map(|run| run.supersedes.iter());
    let mut supersedes: Vec<String> = replaced.chain(&names).unique().cloned().collect();
    // Of a compaction that is decided but has no record, because its parts were damaged: a process that was suspended may put it later.
    for run in damaged {
        if load_plan(store, run).is_ok_and(|plan| !plan.supersedes.is_empty()) {
            supersedes.push(run.clone());
        }
    }
    let common = |pick: fn(&Fingerprints) -> &Option<String>| {
        let different: BTreeSet<_> = winners.fingerprints.iter().map(pick).collect();
        if different.len() == 1 { different.into_iter().next().cloned().flatten() } else { None }
    };
    Ok(Plan {
        run: run.to_owned(),
        run_seq: claim_run_seq(store, run)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: crate::support::clock::timestamp(store.process().now()),
        identity: identity(sources, request),
        key: sources.last().map(|run| run.key.clone()).unwrap_or_default(),
        considered: Vec::new(),
        reuses: Vec::new(),
        reasons: Reasons::default(),
        signatures: String::new(),
        supersedes,
        manifest: Vec::new(),
        image_roots: Vec::new(),
        read_rules: ReadRules::default(),
        pictures: PictureSource::merged(pictures),
        rows: winners.kept,
        part_rows,
        parts: winners.kept.div_ceil(part_rows),
        batch_size: 1,
        failures: FailureLimits { max_failed_fraction: 1.0, min_failed_rows: 0 },
        vector_model: None,
        caption_fingerprint: common(|made| &made.caption),
        embedding_fingerprint: common(|made| &made.embedding),
    })
}
