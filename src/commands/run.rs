//! `nightcap run`: claim a run, make its missing parts, publish it.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use super::context::{Context, judge};
use super::prepare::{PreparedJob, prepare};
use super::{calibrate, device_memory};
use crate::cli::RunArgs;
use crate::engine::Models;
use crate::error::{Error, ExitStatus};
use crate::fetch::Fetcher;
use crate::monitor::RunProgress;
use crate::output::heartbeat::Heartbeat;
use crate::output::publish::finalize::finalize;
use crate::output::publish::reuse::Reuse;
use crate::output::records::outcome::ended_or;
use crate::output::records::plan::load_plan;
use crate::output::records::published::{load_published, present_parts};
use crate::output::records::run_id::check_run_id;
use crate::output::records::stage_times::put_stage_times;
use crate::output::store::OutputStore;
use crate::output::{OutputError, part_path};
use crate::pipeline::{self, Stages};
use crate::plan::PlanError;
use crate::plan::claim::{Claim, Claimed, claim, refuse_ended};
use crate::plan::shard::Shard;
use crate::support::counts::Counts;
use crate::support::metrics::{DeviceTraffic, Metrics, ModelWaits, StageTimes};
use crate::support::progress::Progress;

pub(super) fn execute(args: &RunArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    run(args, context).map_err(|error| if args.run_id.is_none() { error.of_unnamed_run() } else { error })
}

fn run(args: &RunArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    args.run_id.as_deref().map(check_run_id).transpose()?;
    let shard = Shard::resolve(args.shard.as_deref(), context.variable)?;
    if shard.is_some() && args.run_id.is_none() {
        let why = "a shard needs --run-id, so that all shards work on one run\nhint: give every shard the same id, as in --run-id r20261123";
        return Err(PlanError::Shard(why.to_owned()).into());
    }
    let mut prepared = prepare(&args.job)?;
    let mut models = LazyModels::default();
    // A model that cannot be loaded is found before anything is written, except where nothing is left to do with it.
    if !is_made(&prepared, args.run_id.as_deref(), shard)? {
        models.load(&prepared)?;
    }
    let store = OutputStore::create(&prepared.job.output.path, &prepared.storage)?;
    prepared.fit(&store)?;
    let claimed = match claim_run(&store, &prepared, &mut models, args.run_id.as_deref(), shard.is_some(), context)? {
        ToDo::Run(claimed) => claimed,
        ToDo::Nothing => {
            tracing::info!("nothing is new; no run was made");
            return Ok(ExitStatus::Done);
        }
        ToDo::Stop => {
            tracing::warn!("stopped while another process planned the run; run the same command again to go on");
            return Ok(ExitStatus::Stopped);
        }
    };
    let run = claimed.plan.run.clone();
    work_on(&prepared, &claimed, &store, models, shard, context).map_err(|error| match error {
        Error::Output(error) => Error::Output(ended_or(&store, &run, error)),
        Error::Interrupted(error) => match *error {
            Error::Output(error) => Error::Output(ended_or(&store, &run, error)).while_making_parts(),
            error => Error::Interrupted(Box::new(error)),
        },
        error => error,
    })
}

/// The models of a job, loaded when they are needed: loading takes seconds to minutes.
#[derive(Default)]
struct LazyModels {
    loaded: Option<Vec<Models>>,
}

impl LazyModels {
    fn load(&mut self, prepared: &PreparedJob) -> Result<&mut [Models], Error> {
        if self.loaded.is_none() {
            self.loaded = Some(prepared.load_models()?);
        }
        Ok(self.loaded.as_deref_mut().unwrap_or_default())
    }

    fn into_loaded(self, prepared: &PreparedJob) -> Result<Vec<Models>, Error> {
        self.loaded.map_or_else(|| prepared.load_models(), Ok)
    }
}

/// Whether the parts of `run`, as far as they are those of `shard`, are there already.
fn is_made(prepared: &PreparedJob, run: Option<&str>, shard: Option<Shard>) -> Result<bool, Error> {
    let Some(run) = run else { return Ok(false) };
    let output = &prepared.job.output.path;
    if output.local().is_some_and(|path| !path.exists()) {
        return Ok(false);
    }
    let store = OutputStore::open(output, &prepared.storage)?;
    // What is wrong with a plan is said by the claim.
    let Ok(plan) = load_plan(&store, run) else { return Ok(false) };
    let (present, ours) = (present_parts(&store, run)?, shard.unwrap_or(Shard::WHOLE));
    Ok((0..plan.parts).all(|part| !ours.makes(part) || present.contains(&part)))
}

/// Makes the parts of the run that are missing, and publishes it unless this is a shard.
fn work_on(
    prepared: &PreparedJob,
    claimed: &Claimed,
    store: &OutputStore,
    models: LazyModels,
    shard: Option<Shard>,
    context: &mut Context<'_>,
) -> Result<ExitStatus, Error> {
    let run = claimed.plan.run.as_str();
    // prompts with a date have that of the plan, in all parts and however often the run is resumed
    let planned = claimed.plan.created();
    let limits = &prepared.job.limits.failures;
    if let Some(published) = load_published(store, run)? {
        let published = published.whole()?;
        context.monitor.published(run, published.parts, &published.counts);
        tracing::info!(run, "this run is published already; there is nothing to do");
        return Ok(if shard.is_some() { ExitStatus::Done } else { judge(&published.counts, limits) });
    }
    let interrupted = |error: OutputError| Error::from(error).while_making_parts();
    let ours = shard.unwrap_or(Shard::WHOLE);
    let _heartbeat = Heartbeat::of_shard(store, run, (ours.index, ours.count)).map_err(interrupted)?;
    let present = present_parts(store, run).map_err(interrupted)?;
    let reasons: Vec<String> = claimed.plan.reasons.named().map(|(name, rows)| format!("{rows} {name}")).collect();
    tracing::info!(
        run,
        rows = claimed.plan.rows,
        parts = claimed.plan.parts,
        parts_done = present.len(),
        reasons = reasons.join(", "),
        output = %prepared.job.output.path,
        "{}", if claimed.resumed { "resuming an unfinished run" } else { "starting a new run" }
    );
    if claimed.plan.rows == 0 {
        tracing::info!(run, "nothing is new; finalize publishes a run without rows");
    }
    let missing: BTreeSet<u64> =
        (0..claimed.plan.parts).filter(|part| ours.makes(*part) && !present.contains(part)).collect();
    if !missing.is_empty() {
        let mut models = models.into_loaded(prepared)?;
        for models in &mut models {
            models.set_time(planned);
        }
        make_parts(prepared, claimed, store, models, &missing, context)?;
    }
    if context.stop.requested() {
        tracing::warn!(run, "stopped; run the same command again to resume");
        return Ok(ExitStatus::Stopped);
    }
    if let Some(shard) = shard {
        refuse_ended(store, run)?;
        let hint = format!("nightcap finalize {} --run-id {run}", prepared.job.output.path);
        tracing::info!(run, shard = shard.index, of = shard.count, "shard finished; when all have: {hint}");
        return Ok(ExitStatus::Done);
    }
    let published = finalize(store, run).map_err(interrupted)?;
    let counts = &published.counts;
    context.monitor.published(run, published.parts, counts);
    tracing::info!(run, rows = counts.rows, ok = counts.ok, failed = counts.failed, "published");
    if counts.failed > 0 {
        let kinds: Vec<_> = counts.failures.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        tracing::warn!("some rows failed: {}; their error_message says why", kinds.join(", "));
    }
    warn_of_captions(counts);
    Ok(judge(counts, limits))
}

/// Warns of captions that somebody should look at.
fn warn_of_captions(counts: &Counts) {
    let Counts { ok, empty_captions: empty, repeating_captions: repeating, .. } = *counts;
    if empty > 0 {
        tracing::warn!(captions = empty, of = ok, "some captions are empty");
    }
    if repeating > 0 {
        tracing::warn!(captions = repeating, of = ok, "some captions repeat themselves; `caption_repeats` says which");
    }
}

/// What to do after the run was claimed.
enum ToDo {
    Run(Box<Claimed>),
    Nothing,
    Stop,
}

fn claim_run(
    store: &OutputStore,
    prepared: &PreparedJob,
    models: &mut LazyModels,
    run: Option<&str>,
    sharded: bool,
    context: &Context<'_>,
) -> Result<ToDo, Error> {
    let (draft, asked) = (prepared.draft(sharded), prepared.job.runtime.batch_size);
    let claimed = match claim(store, &draft, run, &|| context.stop.requested())? {
        Claim::Stopped => return Ok(ToDo::Stop),
        Claim::Run(claimed) => claimed,
        Claim::Plan(new_run) => {
            let decision = prepared.decide(Some(store))?;
            let rows = decision.selection.rows();
            // Shards and `finalize` need a plan that says that the run has no rows; a single process needs no run then.
            if rows == 0 && !sharded {
                return Ok(ToDo::Nothing);
            }
            let models = models.load(prepared)?;
            let device = prepared.job.runtime.devices.first().copied().unwrap_or_default();
            let fits = device_memory::most_rows(prepared, models)?;
            let wanted = match asked {
                Some(rows) => rows,
                None => calibrate::batch_size(models, device, prepared.processor.as_deref(), rows, fits)?,
            };
            let batch_size = fits.map_or(wanted, |fits| wanted.min(fits));
            if batch_size < wanted {
                tracing::info!(rows = batch_size, wanted, "the batch size that fits `runtime.device_memory_bytes`");
            }
            Box::new(new_run.put(store, &draft, decision, batch_size)?)
        }
    };
    let planned = claimed.plan.batch_size;
    if let Some(asked) = asked.filter(|asked| planned != *asked && claimed.resumed) {
        tracing::warn!(
            planned,
            asked,
            "the run keeps the batch size of its plan, so that all its parts are computed alike"
        );
    }
    Ok(ToDo::Run(claimed))
}

fn make_parts(
    prepared: &PreparedJob,
    claimed: &Claimed,
    store: &OutputStore,
    models: Vec<Models>,
    missing: &BTreeSet<u64>,
    context: &Context<'_>,
) -> Result<(), Error> {
    let rows = missing.iter().map(|part| claimed.plan.rows_in(*part)).sum();
    let Some(first) = missing.first() else { return Ok(()) };
    tracing::debug!(first = part_path(&claimed.plan.run, *first), parts = missing.len(), "making parts");
    let reuse = Reuse::open(store, &claimed.plan)?.map(Arc::new);
    let (metrics, progress) = (Arc::new(Metrics::default()), Progress::new(&context.terminal, rows));
    let (run, parts) = (claimed.plan.run.clone(), missing.len() as u64);
    let published = None;
    context.monitor.observe(RunProgress {
        run,
        planned_rows: rows,
        planned_parts: parts,
        published,
        metrics: Some(metrics.clone()),
        uses_gpus: prepared.job.runtime.devices.iter().any(|device| device.has_memory()),
    });
    let (fetcher, encoder) = (Fetcher::new(&prepared.job.limits, &prepared.storage), prepared.encoder(&claimed.plan));
    let stages = Stages {
        job: &prepared.job,
        manifest: &prepared.manifest,
        plan: &claimed.plan,
        selection: &claimed.selection,
        fetcher: &fetcher,
        processor: prepared.processor.clone(),
        encoder: &encoder,
        reuse,
        store,
        lanes: models.len(),
        metrics: metrics.clone(),
        progress: &progress,
        stop: &context.stop,
    };
    let outcome = pipeline::run(&stages, models, missing);
    progress.finish();
    outcome.map_err(Error::while_making_parts)?;
    if metrics.copied_rows() > 0 {
        tracing::info!(rows = metrics.copied_rows(), "copied from earlier runs by content");
    }
    // For people only: the run is as good without it.
    if let Err(error) = put_stage_times(store, &claimed.plan.run, &metrics.stages()) {
        tracing::warn!(%error, "the times of the stages are not kept in OUTPUT");
    }
    report_stages(&metrics, context);
    Ok(())
}

/// Logs how long each stage was busy and waited: a table, or with JSON logs one event per stage.
fn report_stages(metrics: &Metrics, context: &Context<'_>) {
    if context.json_log {
        for StageTimes { stage, busy_s, wait_input_s, wait_output_s, bytes } in metrics.stages() {
            tracing::info!(stage, busy_s, wait_input_s, wait_output_s, bytes, "stage");
        }
        let ModelWaits { pixels_s, host_s, nothing_s } = metrics.model_waits();
        tracing::info!(pixels_s, host_s, nothing_s, "the model waited");
        if let Some(DeviceTraffic { runs, bytes_to_device, bytes_to_host }) = metrics.device_traffic() {
            tracing::info!(runs, bytes_to_device, bytes_to_host, "copied between host and device");
        }
    } else {
        // The run is finished: a closed stderr is no reason to fail.
        let _ = write!(context.terminal.clone(), "{metrics}");
    }
}
