//! Finds the run to go on with, or makes a new one: exactly one process wins each conditional put, the others use what won.

use std::collections::BTreeSet;

use arrow::datatypes::{FieldRef, Schema};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::decide::Decision;
use super::{Identity, Plan, PlanError, PlannedFile, Selection, difference};
use crate::error::Error;
use crate::failpoint;
use crate::job::FailureLimits;
use crate::manifest::Manifest;
use crate::output::discard::{discard, refuse_alive};
use crate::output::finalize::{finalize_partial, load_plan, published_runs, superseded};
use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, json, plan_path, published_path, run_folder};

/// What a new plan would hold, except for what OUTPUT decides.
pub struct Draft<'a> {
    /// See [`Plan::identity`].
    pub identity: Identity,
    /// The opened manifest.
    pub manifest: &'a Manifest,
    /// Decides which rows are in; called only when a new plan is made.
    pub decide: &'a dyn Fn(&OutputStore) -> Result<Decision, Error>,
    /// Whether a run is planned even when it has no rows: its shards, and whoever finalizes it, must agree that there are none.
    pub even_empty: bool,
    /// Whether results may be copied from published runs.
    pub reuse: bool,
    /// See [`Plan::key`].
    pub key: &'a str,
    /// See [`Plan::part_rows`].
    pub part_rows: u64,
    /// Gives [`Plan::batch_size`] for so many rows; called only when a new plan is made.
    pub batch_size: &'a dyn Fn(u64) -> Result<usize, Error>,
    /// See [`Plan::failures`].
    pub failures: FailureLimits,
    /// See [`Plan::caption_fingerprint`].
    pub caption_fingerprint: Option<String>,
    /// See [`Plan::embedding_fingerprint`].
    pub embedding_fingerprint: Option<String>,
    /// The schema of the parts.
    pub schema: &'a Schema,
}

/// A run that this process may work on.
pub struct Claimed {
    /// Its plan.
    pub plan: Plan,
    /// The rows that are in.
    pub selection: Selection,
    /// Whether an earlier attempt had made the plan.
    pub resumed: bool,
}

/// The run named `run`, or without a name the newest unfinished run of this very job, or a new one; None when a new one would
/// have no rows and [`Draft::even_empty`] does not ask for it.
///
/// Without a name, unfinished runs that cannot be gone on with are closed first: their finished parts are published.
///
/// # Errors
/// [`PlanError`] when the named run is of another job or its manifest has changed, or somebody is at work; [`OutputError::Schema`]
/// when this job's parts would have other columns than OUTPUT has, and failures to read or write.
pub fn claim(store: &OutputStore, draft: &Draft<'_>, run: Option<&str>) -> Result<Option<Claimed>, Error> {
    check_schema(store, draft.schema)?;
    if let Some(run) = run {
        if superseded(store)?.contains(run) {
            // It would be published and never count.
            return Err(OutputError::NameTaken { run: run.to_owned() }.into());
        }
        return match load_plan(store, run) {
            Ok(plan) => resume(store, draft, plan).map(Some),
            Err(OutputError::NoSuchRun { .. }) => create(store, draft, run, true),
            Err(error) => Err(error.into()),
        };
    }
    let Unfinished { goes_on, stale } = unfinished(store, draft)?;
    for run in stale.iter().chain(goes_on.as_ref().map(|plan| &plan.run)) {
        refuse_alive(store, run)?;
    }
    if let Some(plan) = goes_on {
        return resume(store, draft, plan).map(Some);
    }
    for run in &stale {
        close(store, run)?;
    }
    create(store, draft, &crate::clock::run_id(), false)
}

/// Publishes the finished parts of an unfinished run, whose other rows are left to the next; a run without any is discarded.
fn close(store: &OutputStore, run: &str) -> Result<(), Error> {
    failpoint::hit("before_close");
    if let Some(closed) = finalize_partial(store, run)? {
        let rows = closed.counts.rows;
        tracing::warn!(
            run,
            rows,
            "an unfinished run of another job or manifest was closed: its finished parts are published"
        );
    } else {
        discard(store, run)?;
        tracing::warn!(run, "an unfinished run of another job or manifest had no finished part and was discarded");
    }
    failpoint::hit("after_close");
    Ok(())
}

/// Checks that `run` is a name that no reader takes for a number or a date.
///
/// # Errors
/// [`PlanError::RunId`].
pub fn check_run_id(run: &str) -> Result<(), PlanError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if run.starts_with(|c: char| c.is_ascii_lowercase()) && run.chars().all(fits) {
        return Ok(());
    }
    Err(PlanError::RunId { run: run.to_owned() })
}

/// One OUTPUT has one schema, which its first plan fixed: compares `schema` with it, if there is one yet.
///
/// # Errors
/// [`OutputError::Schema`] with what differs.
pub fn check_schema(store: &OutputStore, schema: &Schema) -> Result<(), OutputError> {
    let Some(theirs) = store.record::<Vec<String>>(SCHEMA)? else { return Ok(()) };
    let ours = describe(schema);
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (theirs.iter().collect(), ours.iter().collect());
    let list = |names: Vec<&&String>| match names.as_slice() {
        [] => "nothing".to_owned(),
        names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    };
    let (gone, added) = (old.difference(&new).collect::<Vec<_>>(), new.difference(&old).collect::<Vec<_>>());
    let difference = match (gone.is_empty() && added.is_empty(), ours == theirs) {
        (true, true) => return Ok(()),
        (true, false) => "the order of the columns".to_owned(),
        (false, _) => format!("{} there, {} here", list(gone), list(added)),
    };
    Err(OutputError::Schema { difference })
}

/// The record of OUTPUT's schema: a list of columns.
const SCHEMA: &str = "_nightcap/schema.json";

fn describe(schema: &Schema) -> Vec<String> {
    let column = |field: &FieldRef| {
        let nullability = if field.is_nullable() { "" } else { " not null" };
        format!("{} {}{nullability}", field.name(), field.data_type())
    };
    schema.fields().iter().map(column).collect()
}

/// The unfinished runs of an OUTPUT, as one job sees them.
pub struct Unfinished {
    /// The newest one of the same job and manifest.
    pub goes_on: Option<Plan>,
    /// The ids of the others.
    pub stale: Vec<String>,
}

/// Looks at every run that has a plan and is not published. Compactions are left to the next compaction.
///
/// # Errors
/// When a record of OUTPUT cannot be read.
pub fn unfinished(store: &OutputStore, draft: &Draft<'_>) -> Result<Unfinished, Error> {
    let mut found = Unfinished { goes_on: None, stale: Vec::new() };
    let superseded = superseded(store)?;
    let counting: BTreeSet<String> = published_runs(store)?.into_iter().map(|run| run.run).collect();
    for run in store.folders("_nightcap/runs")? {
        if superseded.contains(&run) || store.get(&published_path(&run))?.is_some() {
            continue;
        }
        let plan = match load_plan(store, &run) {
            Ok(plan) => plan,
            // Killed before its plan was put, or while it was discarded: there is nothing to go on with.
            Err(OutputError::NoSuchRun { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if !plan.supersedes.is_empty() {
            continue;
        }
        // One without rows has nothing to go on with, and something may be new by now.
        let same = plan.rows > 0
            && plan.identity == draft.identity
            && changed_file(&plan, draft.manifest).is_none()
            && plan.reuses.iter().all(|run| counting.contains(run));
        let newer = found.goes_on.as_ref().is_none_or(|best| best.run_seq < plan.run_seq);
        let stale = if same && newer { found.goes_on.replace(plan).map(|plan| plan.run) } else { Some(run) };
        found.stale.extend(stale);
    }
    Ok(found)
}

/// The path of the first manifest file that is not as it was planned.
fn changed_file(plan: &Plan, manifest: &Manifest) -> Option<String> {
    let planned: Vec<_> = plan.manifest.iter().map(|file| &file.snapshot).collect();
    let longest = planned.len().max(manifest.files.len());
    (0..longest).find_map(|index| {
        let (then, now) = (planned.get(index), manifest.files.get(index).map(|file| &file.snapshot));
        let path = now.or(then.copied()).map(|file| file.uri.clone());
        if then.copied() == now { None } else { path }
    })
}

fn resume(store: &OutputStore, draft: &Draft<'_>, plan: Plan) -> Result<Claimed, Error> {
    if plan.identity != draft.identity {
        let difference = difference(&draft.identity, &plan.identity);
        return Err(PlanError::OtherJob { run: plan.run, difference }.into());
    }
    if let Some(path) = changed_file(&plan, draft.manifest) {
        return Err(PlanError::ManifestChanged { run: plan.run, path }.into());
    }
    let mut files = Vec::new();
    for file in &plan.manifest {
        let path = format!("{}/{}", run_folder(&plan.run), file.selection);
        let record = |message: String| OutputError::Record { path: path.clone(), message };
        let bytes = store.get(&path)?.ok_or_else(|| record("it is missing".to_owned()))?;
        files.push(RoaringBitmap::deserialize_from(&bytes[..]).map_err(|error| record(error.to_string()))?);
    }
    Ok(Claimed { plan, selection: Selection(files), resumed: true })
}

/// Puts a new plan. `named`: the user chose the id, so whoever put a plan of that name first decides what it holds.
fn create(store: &OutputStore, draft: &Draft<'_>, run: &str, named: bool) -> Result<Option<Claimed>, Error> {
    // First what can be refused, then the first put.
    let decision = (draft.decide)(store)?;
    if decision.selection.rows() == 0 && !draft.even_empty {
        return Ok(None);
    }
    store.put_new(SCHEMA, json(&describe(draft.schema), SCHEMA)?)?;
    check_schema(store, draft.schema)?;
    let mut attempt = 1;
    let mut run = run.to_owned();
    loop {
        let plan = write_records(store, draft, &decision, &run)?;
        let path = plan_path(&run);
        let bytes = json(&plan, &path)?;
        failpoint::hit("before_plan");
        if store.put_new(&path, bytes.clone())? == Put::Created {
            return Ok(Some(Claimed { plan, selection: decision.selection, resumed: false }));
        }
        if named {
            return resume(store, draft, load_plan(store, &run)?).map(Some);
        }
        // Another job took this second's name.
        attempt += 1;
        run = format!("{}-{attempt}", crate::clock::run_id());
    }
}

/// Claims a `run_seq` and puts the row masks; the plan that names both is put last.
fn write_records(store: &OutputStore, draft: &Draft<'_>, decision: &Decision, run: &str) -> Result<Plan, Error> {
    let run_seq = claim_run_seq(store, run)?;
    // Named by content: a second worker that planned the same rows puts the same object.
    let put = |kind: &str, bytes: Vec<u8>| {
        let name = format!("{kind}-{}", &blake3::hash(&bytes).to_hex()[..32]);
        store.put_new(&format!("{}/{name}", run_folder(run)), bytes).map(|_| name)
    };
    let mut files = Vec::new();
    for (file, rows) in draft.manifest.files.iter().zip(&decision.selection.0) {
        let mut bytes = Vec::with_capacity(rows.serialized_size());
        let damaged = |error: std::io::Error| OutputError::Record { path: run.to_owned(), message: error.to_string() };
        rows.serialize_into(&mut bytes).map_err(damaged)?;
        let selection = put("selection", bytes)?;
        files.push(PlannedFile { snapshot: file.snapshot.clone(), selected: rows.len(), selection });
    }
    let signatures = decision.signatures.iter().flat_map(|signature| signature.to_bytes()).collect();
    let signatures = put("signatures", signatures)?;
    let rows = decision.selection.rows();
    Ok(Plan {
        run: run.to_owned(),
        run_seq,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: crate::clock::now(),
        identity: draft.identity.clone(),
        key: draft.key.to_owned(),
        considered: decision.considered.clone(),
        reuses: if draft.reuse { decision.considered.clone() } else { Vec::new() },
        reasons: decision.reasons.clone(),
        signatures,
        supersedes: Vec::new(),
        manifest: files,
        image_roots: decision.image_roots.clone(),
        rows,
        part_rows: draft.part_rows,
        parts: rows.div_ceil(draft.part_rows),
        batch_size: (draft.batch_size)(rows)?,
        failures: draft.failures,
        caption_fingerprint: draft.caption_fingerprint.clone(),
        embedding_fingerprint: draft.embedding_fingerprint.clone(),
    })
}

/// The record `_nightcap/seq/<number>.json`.
#[derive(Serialize, Deserialize)]
struct SeqClaim {
    run: String,
}

/// The next free number of this OUTPUT, or the newest one if this very run claimed it before it was killed.
pub(crate) fn claim_run_seq(store: &OutputStore, run: &str) -> Result<i64, Error> {
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
        // Another worker of this run may have been faster.
        if store.record::<SeqClaim>(&path)?.is_some_and(|claim| claim.run == run) {
            return Ok(next);
        }
        next += 1;
    }
}
