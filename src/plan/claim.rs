//! Finds the run to continue, or makes a new one. Records are put conditionally: one process succeeds, the others use what it
//! put.

use arrow::datatypes::Schema;
use itertools::Itertools;
use roaring::RoaringBitmap;

use super::decide::Decision;
use super::planner::{Planner, PlanningClaim, claim_planning};
use super::{PlanError, Selection, difference};
use crate::job::FailureLimits;
use crate::manifest::{FileSnapshot, Manifest};
use crate::output::format::claim_format;
use crate::output::heartbeat::refuse_alive;
use crate::output::publish::finalize::{complete, complete_decided, finalize_partial};
use crate::output::records::outcome::{decided_runs, ended_or, outcome};
use crate::output::records::picture_source::ReadRules;
use crate::output::records::plan::{Identity, Plan, PlannedFile, PlannedModel, load_plan};
use crate::output::records::published::{published_names, published_runs, runs_with_records, superseded};
use crate::output::records::run_id::new_run_id;
use crate::output::records::run_seq::claim_run_seq;
use crate::output::records::schema::{check_schema, claim_schema};
use crate::output::store::{OutputStore, Put};
use crate::output::upkeep::discard::discard;
use crate::output::{OutputError, json, plan_path, run_folder};
use crate::support::failpoint;

/// What a new plan takes from the job; the rest depends on OUTPUT.
pub struct Draft<'a> {
    /// See [`Plan::identity`].
    pub identity: Identity,
    /// The opened manifest.
    pub manifest: &'a Manifest,
    /// Whether shards of the run start together: then one of them plans it and the others wait.
    pub sharded: bool,
    /// Whether results may be copied from published runs.
    pub reuse: bool,
    /// See [`Plan::key`].
    pub key: &'a str,
    /// See [`Plan::part_rows`].
    pub part_rows: u64,
    /// See [`Plan::failures`].
    pub failures: FailureLimits,
    /// See [`Plan::read_rules`].
    pub read_rules: ReadRules,
    /// See [`Plan::vector_model`].
    pub vector_model: Option<PlannedModel>,
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

/// What a process has to do first.
pub enum Claim {
    /// Work on a run that is planned.
    Run(Box<Claimed>),
    /// Select rows, choose the batch size, and call [`NewRun::put`].
    Plan(NewRun),
    /// Nothing: a stop was requested while another process planned.
    Stopped,
}

/// A run that this process has to plan.
pub struct NewRun {
    run: String,
    /// The user chose the id: the first plan that is put under it is the plan of the run.
    named: bool,
    /// Set when other shards may wait for the plan.
    planning: Option<PlanningClaim>,
}

/// The run named `run`, or without a name the newest unfinished run of this very job, or a new one to plan.
///
/// Without a name, unfinished runs that this job cannot continue are closed first: their finished parts are published. A run whose
/// end is decided gets its published record, if the process that decided has died before it put that.
/// `stop` says whether to stop waiting for another process that plans the run.
///
/// # Errors
/// [`PlanError`] when the named run is of another job or its manifest has changed; [`OutputError::Closed`],
/// [`OutputError::Discarded`] and [`OutputError::NameTaken`] when it has ended otherwise than whole; [`OutputError::Alive`] when
/// a process is working on an unfinished run; [`OutputError::Schema`]
/// when this job's parts would have other columns than OUTPUT has, and failures to read or write.
pub fn claim(
    store: &OutputStore,
    draft: &Draft<'_>,
    run: Option<&str>,
    stop: &dyn Fn() -> bool,
) -> Result<Claim, PlanError> {
    check_schema(store, draft.schema)?;
    if let Some(run) = run {
        refuse_ended(store, run)?;
        return claim_named(store, draft, run, stop);
    }
    complete_decided(store)?;
    let Unfinished { to_continue, to_close } = unfinished(store, draft)?;
    for run in to_close.iter().chain(to_continue.as_ref().map(|plan| &plan.run)) {
        refuse_alive(store, run)?;
    }
    if let Some(plan) = to_continue {
        warn_if_older(store, &plan)?;
        return Ok(Claim::Run(Box::new(resume(store, draft, plan)?)));
    }
    for run in &to_close {
        close(store, run)?;
    }
    Ok(Claim::Plan(NewRun { run: new_run_id(store), named: false, planning: None }))
}

/// Says so if runs were published since the run of `plan` was planned: what it goes on to compute may be there already.
fn warn_if_older(store: &OutputStore, plan: &Plan) -> Result<(), OutputError> {
    let published = published_runs(store)?;
    // A compaction has no rows of its own.
    let newer = published.iter().rfind(|run| run.supersedes.is_empty() && run.run_seq > plan.run_seq);
    if let Some(newer) = newer {
        let (run, newer) = (&plan.run, &newer.run);
        tracing::warn!(
            "going on with run {run}, which is older than the published run {newer}: rows that are in both stay as {newer} has them, and what is new since is left to the next run\nhint: to make only what is new, stop, publish the finished parts with `nightcap finalize OUTPUT --run-id {run} --partial`, and run the job again"
        );
    }
    Ok(())
}

/// Refuses the name of a run that was closed, discarded, or replaced by a compaction. A run that is published whole may be asked for
/// again.
///
/// # Errors
/// [`OutputError::Closed`], [`OutputError::Discarded`], [`OutputError::NameTaken`], and failures to read.
pub fn refuse_ended(store: &OutputStore, run: &str) -> Result<(), OutputError> {
    let Some(outcome) = outcome(store, run)? else { return Ok(()) };
    if superseded(store)?.contains(run) {
        return Err(OutputError::NameTaken { run: run.to_owned() });
    }
    complete(store, run, outcome)?.whole().map(drop)
}

fn claim_named(store: &OutputStore, draft: &Draft<'_>, run: &str, stop: &dyn Fn() -> bool) -> Result<Claim, PlanError> {
    let plan = match load_plan(store, run) {
        Ok(plan) => plan,
        Err(OutputError::NoSuchRun { .. }) if draft.sharded => match claim_planning(store, run, stop)? {
            Planner::This(planning) => {
                return Ok(Claim::Plan(NewRun { run: run.to_owned(), named: true, planning: Some(planning) }));
            }
            Planner::Other(plan) => *plan,
            Planner::Stopped => return Ok(Claim::Stopped),
        },
        Err(OutputError::NoSuchRun { .. }) => {
            return Ok(Claim::Plan(NewRun { run: run.to_owned(), named: true, planning: None }));
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Claim::Run(Box::new(resume(store, draft, plan)?)))
}

/// Publishes the finished parts of an unfinished run and leaves its other rows to the next one. A run without finished parts
/// is discarded.
fn close(store: &OutputStore, run: &str) -> Result<(), OutputError> {
    failpoint::hit("before_close");
    let closed = match finalize_partial(store, run) {
        Ok(None) => discard(store, run).map(|_| None),
        Err(OutputError::Discarded { .. }) => Ok(None),
        closed => closed,
    };
    match closed {
        Ok(Some(closed)) => {
            let rows = closed.counts.rows;
            tracing::warn!(
                run,
                rows,
                "an unfinished run of another job or manifest was closed: its finished parts are published"
            );
        }
        Ok(None) => {
            tracing::warn!(run, "an unfinished run of another job or manifest had no finished part and was discarded");
        }
        // Another process has ended it in the meantime, and a compaction may have replaced it.
        Err(OutputError::IsPublished { .. } | OutputError::NameTaken { .. } | OutputError::NoSuchRun { .. }) => {}
        Err(error) => return Err(error),
    }
    failpoint::hit("after_close");
    Ok(())
}

/// The unfinished runs of an OUTPUT, as one job sees them.
pub struct Unfinished {
    /// The newest one of the same job and manifest files, which the job continues.
    pub to_continue: Option<Plan>,
    /// The ids of the others, which the job closes.
    pub to_close: Vec<String>,
}

/// Looks at every run that has a plan and whose end is open. Compactions are left to the next compaction.
///
/// # Errors
/// When a record of OUTPUT cannot be read.
pub fn unfinished(store: &OutputStore, draft: &Draft<'_>) -> Result<Unfinished, PlanError> {
    let mut found = Unfinished { to_continue: None, to_close: Vec::new() };
    let decided = decided_runs(store)?;
    let published = published_names(store)?;
    for run in runs_with_records(store)?.into_iter().filter(|run| !decided.contains(run)) {
        let plan = match load_plan(store, &run) {
            Ok(plan) => plan,
            // Killed before its plan was put, or being planned: there is nothing to continue.
            Err(OutputError::NoSuchRun { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if !plan.supersedes.is_empty() {
            continue;
        }
        // A run without rows has nothing to continue, and rows may have become new since.
        let same = plan.rows > 0
            && plan.identity == draft.identity
            && changed_file(&plan, draft.manifest).is_none()
            && plan.reuses.iter().all(|run| published.contains(run));
        let newer = found.to_continue.as_ref().is_none_or(|best| best.run_seq < plan.run_seq);
        let to_close = if same && newer { found.to_continue.replace(plan).map(|plan| plan.run) } else { Some(run) };
        found.to_close.extend(to_close);
    }
    Ok(found)
}

/// The path of the first manifest file that is not as it was planned.
fn changed_file(plan: &Plan, manifest: &Manifest) -> Option<String> {
    let snapshot = |file: &PlannedFile| {
        let PlannedFile { uri, bytes, version, rows, .. } = file.clone();
        FileSnapshot { uri, bytes, version, rows }
    };
    let planned = plan.manifest.iter().map(snapshot);
    let found = manifest.files.iter().map(|file| file.snapshot.clone());
    let differ = planned.zip_longest(found).find(|pair| pair.as_ref().both().is_none_or(|(then, now)| then != now));
    differ.map(|pair| pair.reduce(|_, now| now).uri)
}

fn resume(store: &OutputStore, draft: &Draft<'_>, plan: Plan) -> Result<Claimed, PlanError> {
    if plan.identity != draft.identity {
        let difference = difference(&draft.identity, &plan.identity);
        return Err(PlanError::OtherJob { run: plan.run, difference });
    }
    if let Some(path) = changed_file(&plan, draft.manifest) {
        return Err(PlanError::ManifestChanged { run: plan.run, path });
    }
    let mut files = Vec::new();
    for file in &plan.manifest {
        let path = format!("{}/{}", run_folder(&plan.run), file.selection);
        let record = |message: String| OutputError::Record { path: path.clone(), message };
        let missing = || ended_or(store, &plan.run, record("it is missing".to_owned()));
        let bytes = store.get(&path)?.ok_or_else(missing)?;
        let rows = RoaringBitmap::deserialize_from(&bytes[..]).map_err(|error| record(error.to_string()))?;
        if rows.len() != file.selected || rows.max().is_some_and(|last| u64::from(last) >= file.rows) {
            return Err(record(format!("expected {} of {} rows, found others", file.selected, file.rows)).into());
        }
        files.push(rows);
    }
    Ok(Claimed { plan, selection: Selection(files), resumed: true })
}

impl NewRun {
    /// Puts the plan, or finds the plan of this name that another process has put first.
    ///
    /// # Errors
    /// As [`claim`]; [`OutputError::Discarded`] when the run was discarded in the meantime.
    pub fn put(
        self,
        store: &OutputStore,
        draft: &Draft<'_>,
        decision: Decision,
        batch_size: usize,
    ) -> Result<Claimed, PlanError> {
        let Self { mut run, named, planning } = self;
        claim_format(store)?;
        claim_schema(store, draft.schema)?;
        loop {
            let plan = write_records(store, draft, &decision, batch_size, &run)?;
            let path = plan_path(&run);
            let bytes = json(&plan, &path)?;
            failpoint::hit("before_plan");
            refuse_ended(store, &run)?;
            let put = store.put_new(&path, bytes)?;
            // The run may have ended between the look before and the put. Then the plan stays until the next compaction, and no process
            // goes on with it: the outcome was there before it, and is never removed.
            refuse_ended(store, &run)?;
            let claimed = match put {
                Put::Created => Claimed { plan, selection: decision.selection, resumed: false },
                Put::Exists if named => resume(store, draft, load_plan(store, &run)?)?,
                Put::Exists => {
                    // Another job has chosen the same default id.
                    run = new_run_id(store);
                    continue;
                }
            };
            if let Some(planning) = planning {
                planning.planned();
            }
            return Ok(claimed);
        }
    }
}

/// Claims a `run_seq` and puts row masks and signatures; the plan, which names them, is put last.
fn write_records(
    store: &OutputStore,
    draft: &Draft<'_>,
    decision: &Decision,
    batch_size: usize,
    run: &str,
) -> Result<Plan, OutputError> {
    let run_seq = claim_run_seq(store, run)?;
    // Named by content: a second process that selected the same rows puts the same object.
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
        let FileSnapshot { uri, bytes, version, rows: all } = file.snapshot.clone();
        files.push(PlannedFile { uri, bytes, version, rows: all, selected: rows.len(), selection });
    }
    let signatures = decision.signatures.iter().flat_map(|signature| signature.to_bytes()).collect();
    let signatures = put("signatures", signatures)?;
    let rows = decision.selection.rows();
    Ok(Plan {
        run: run.to_owned(),
        run_seq,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: crate::support::clock::timestamp(store.process().now()),
        identity: draft.identity.clone(),
        key: draft.key.to_owned(),
        considered: decision.considered.clone(),
        reuses: if draft.reuse { decision.considered.clone() } else { Vec::new() },
        reasons: decision.reasons.clone(),
        signatures,
        supersedes: Vec::new(),
        manifest: files,
        image_roots: decision.image_roots.clone(),
        read_rules: draft.read_rules.clone(),
        pictures: Vec::new(),
        rows,
        part_rows: draft.part_rows,
        parts: rows.div_ceil(draft.part_rows),
        batch_size,
        failures: draft.failures,
        vector_model: draft.vector_model.clone(),
        caption_fingerprint: draft.caption_fingerprint.clone(),
        embedding_fingerprint: draft.embedding_fingerprint.clone(),
    })
}
