//! The pipeline: the one file that wires the stages of a run together.
//!
//! ```text
//! read (thread)    manifest rows, part by part
//!   -> ingest      one async thread fetches; rayon decodes and resizes; rows leave in manifest order
//!   -> infer       one thread a device: encode, fuse, generate, in batches that never cross parts
//!   -> write       one thread: encode the part, put it
//! ```
//!
//! Every hand-off is bounded: rows in memory by `runtime.prefetch_bytes`, what decoding takes beside them by as much again, parts by
//! one between infer and write.

mod budget;
mod infer;
mod ingest;
mod outage;
mod read;
mod row;
mod workers;
mod write;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::record_batch::RecordBatch;

use crate::engine::Models;
use crate::error::Error;
use crate::fetch::Fetcher;
use crate::job::Job;
use crate::manifest::Manifest;
use crate::metrics::Metrics;
use crate::output::part::PartEncoder;
use crate::output::reuse::Reuse;
use crate::output::store::OutputStore;
use crate::plan::{Plan, Selection};
use crate::preprocess::Preprocessor;
use crate::progress::Progress;
use crate::results::RowResult;

/// Set from outside (by a signal) to stop a run at the next row.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks the run to stop; parts that are not complete are given up.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a run works with.
pub struct Stages<'a> {
    /// The validated job.
    pub job: &'a Job,
    /// The opened manifest.
    pub manifest: &'a Manifest,
    /// The run's plan.
    pub plan: &'a Plan,
    /// The rows that are in.
    pub selection: &'a Selection,
    /// Gets images.
    pub fetcher: &'a Fetcher,
    /// Turns images into pixel values; None in a text-only job.
    pub processor: Option<Arc<Preprocessor>>,
    /// Encodes parts.
    pub encoder: &'a PartEncoder,
    /// Earlier results that may be copied; None: every row is computed.
    pub reuse: Option<Arc<Reuse>>,
    /// Takes parts.
    pub store: &'a OutputStore,
    /// How many devices work side by side, each with a pipeline of its own; what the job sets is shared among them.
    pub lanes: usize,
    /// Counters of every stage.
    pub metrics: Arc<Metrics>,
    /// Rows done.
    pub progress: &'a Progress,
    /// The way to stop.
    pub stop: &'a Stop,
}

/// A part whose every row has its result, on its way to the writer.
struct FinishedPart {
    part: u64,
    carried: Vec<RecordBatch>,
    results: Vec<RowResult>,
    /// How often a batch was halved because memory ran out.
    halved: u32,
}

/// Makes `parts` of the plan, each in the lane of one of `models`. On return every one of them is in OUTPUT, unless a stop was
/// requested.
///
/// # Errors
/// The first failure that is not a row's: the manifest, the model or OUTPUT. Parts already put stay, and what another lane is
/// about still comes.
pub fn run(stages: &Stages<'_>, models: Vec<Models>, parts: &BTreeSet<u64>) -> Result<(), Error> {
    let lanes = models.len();
    std::thread::scope(|scope| {
        let lane = |(number, models)| {
            let parts: BTreeSet<u64> = parts.iter().copied().skip(number).step_by(lanes).collect();
            scope.spawn(move || run_lane(stages, models, &parts))
        };
        let running: Vec<_> = models.into_iter().enumerate().map(lane).collect();
        let outcomes: Vec<_> = running.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        outcomes.into_iter().try_for_each(|outcome| outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Makes `parts`, one after the other.
fn run_lane(stages: &Stages<'_>, models: Models, parts: &BTreeSet<u64>) -> Result<(), Error> {
    std::thread::scope(|scope| {
        // Capacity one batch of about 8 MiB, and one finished part: enough to overlap, little to hold.
        let (read_out, read_in) = tokio::sync::mpsc::channel(1);
        let (ingest_out, ingest_in) = tokio::sync::mpsc::channel(1024);
        let (infer_out, infer_in) = std::sync::mpsc::sync_channel(1);
        let spawn_error = |source| Error::System { action: "start a thread", source };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let read =
            thread("read").spawn_scoped(scope, move || read::run(stages, parts, &read_out)).map_err(spawn_error)?;
        let ingest = thread("ingest")
            .spawn_scoped(scope, move || ingest::run(stages, read_in, &ingest_out))
            .map_err(spawn_error)?;
        let infer = thread("infer")
            .spawn_scoped(scope, move || infer::run(stages, models, ingest_in, &infer_out))
            .map_err(spawn_error)?;
        let write = thread("write").spawn_scoped(scope, move || write::run(stages, &infer_in)).map_err(spawn_error)?;
        // A stage that fails drops its channels, and its neighbours end without an error of their own. So the order of
        // these questions does not matter.
        let outcomes = [write.join(), infer.join(), ingest.join(), read.join()];
        for outcome in outcomes {
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}
