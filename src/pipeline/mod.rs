//! The pipeline makes the parts of a plan. In: the plan, the opened manifest, the loaded models. Out: parts in OUTPUT. Never here:
//! which rows a run has, and whether it is complete.
//!
//! This file starts the stages and connects them. What they share is in [`stages`]; each stage has a file of its own, and the files
//! in brackets are its own.
//!
//! ```text
//!             manifest, plan
//!                   |
//!   lane 0          v                                             one lane per device, each makes its own parts
//!   +---------------------------------------------------------------------------------------------------------+
//!   | read    thread: manifest rows, cut where parts end                                                      |
//!   |   |     channel: 1 batch of rows (about 8 MiB)                                                          |
//!   |   v                                                                                                     |
//!   | ingest  thread with an async runtime: fetches, in which nothing blocks; rayon decodes and resizes;      |
//!   |   |     rows leave in manifest order (row, workers, budget, outage)                                     |
//!   |   |     channel: rows, as many as fit in `runtime.prefetch_bytes`                                       |
//!   |   v                                                                                                     |
//!   | assemble   thread: collects the rows of a batch, and copies their pixels to memory that the device      |
//!   |   |     copies from fastest (batch_pixels)                                                              |
//!   |   |     channel: none, so that one batch is assembled while another one runs                            |
//!   |   v                                                                                                     |
//!   | infer   thread: encodes images, runs rows, collects the results of a part                               |
//!   |   |     (open_part, encoded_images, batch_runner, halving, trial_row)                                   |
//!   |   |     channel: 1 finished part                                                                        |
//!   |   v                                                                                                     |
//!   | write   thread: encodes the part and puts it into OUTPUT                                                |
//!   +---------------------------------------------------------------------------------------------------------+
//!                   |
//!                   v
//!   OUTPUT/run=.../part-000000.parquet
//! ```
//!
//! Memory is bounded: fetched rows by `runtime.prefetch_bytes`, decoding by as much again, the pixels of batches by two batches, and
//! finished parts by one between infer and write.
//!
//! # When a stage fails
//! A stage that fails, or panics, stops all stages of all lanes: they end at the next row, runs of graphs at the next operator, and
//! finished parts are still written. [`run`] returns the first failure.

mod assemble;
mod batch_pixels;
mod batch_runner;
mod budget;
mod encoded_images;
mod halving;
mod infer;
mod ingest;
mod open_part;
mod outage;
mod read;
mod row;
mod stages;
pub(crate) mod trial_row;
mod workers;
mod write;

use std::collections::BTreeSet;
use std::sync::mpsc::{self, Sender};
use std::thread::{Builder, Scope};

pub(crate) use self::batch_runner::BATCHES_TO_REFILL;
pub(crate) use self::encoded_images::most_bytes as most_state_bytes;
pub use self::stages::{Stages, Stop};
use crate::engine::Models;
use crate::error::Error;
use crate::onnx::{RunContext, Transfers};
use crate::panics;
use crate::support::metrics::DeviceTraffic;

/// Makes `parts` of the plan, each in the lane of one of `models`. On return every one of them is in OUTPUT, unless a stop was
/// requested.
///
/// # Errors
/// The first failure that is not a row's: the manifest, the model or OUTPUT. Parts already put stay.
pub fn run(stages: &Stages<'_>, models: Vec<Models>, parts: &BTreeSet<u64>) -> Result<(), Error> {
    let lanes = models.len();
    let stop = stages.stop.nested();
    let stages = Stages { stop: &stop, ..stages.clone() };
    let contexts = (0..lanes).map(|_| RunContext::new()).collect::<Result<Vec<_>, _>>()?;
    let (failed, failures) = mpsc::channel();
    std::thread::scope(|scope| {
        for (number, models) in models.into_iter().enumerate() {
            let parts = parts.iter().copied().skip(number).step_by(lanes).collect();
            let lane = Lane { stages: &stages, number, contexts: &contexts, failed: failed.clone() };
            lane.start(scope, models, parts);
        }
    });
    drop(failed);
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// The stages of one device.
#[derive(Clone)]
struct Lane<'a> {
    stages: &'a Stages<'a>,
    number: usize,
    /// Of the model runs of every lane.
    contexts: &'a [RunContext],
    /// Takes failures, in the order of time.
    failed: Sender<Error>,
}

impl<'a> Lane<'a> {
    /// Starts the threads that make `parts`, one part after the other.
    fn start<'scope>(self, scope: &'scope Scope<'scope, 'a>, models: Models, parts: BTreeSet<u64>) {
        let stages = self.stages;
        let (read_out, read_in) = tokio::sync::mpsc::channel(1);
        let (ingest_out, ingest_in) = tokio::sync::mpsc::channel(1024);
        let (assemble_out, assemble_in) = mpsc::sync_channel(0);
        let (infer_out, infer_in) = mpsc::sync_channel(1);
        let device = stages.job.runtime.devices.get(self.number).copied().unwrap_or_default();
        let by_key = models.draws_by_key();
        let (contexts, number) = (self.contexts, self.number);
        self.spawn(scope, "read", move || read::run(stages, &parts, &read_out));
        self.spawn(scope, "ingest", move || ingest::run(stages, read_in, &ingest_out));
        self.spawn(scope, "assemble", move || {
            assemble::run(stages, device, by_key, ingest_in, &assemble_out);
            Ok(())
        });
        self.spawn(scope, "infer", move || {
            let context = contexts.get(number).cloned().map_or_else(RunContext::new, Ok)?;
            let outcome = context.enter(|| infer::run(stages, models, device, &assemble_in, &infer_out));
            stages.metrics.add_run_time(context.run_time());
            let Transfers { runs, to_device, to_host } = context.transfers();
            let (bytes_to_device, bytes_to_host) = (to_device.bytes, to_host.bytes);
            stages.metrics.add_device_traffic(DeviceTraffic { runs, bytes_to_device, bytes_to_host });
            outcome
        });
        self.spawn(scope, "write", move || write::run(stages, &infer_in));
    }

    /// Starts the thread of one stage. A stage that does not start or ends early drops its channels, and its neighbours end.
    fn spawn<'scope>(
        &self,
        scope: &'scope Scope<'scope, 'a>,
        stage: &'static str,
        work: impl FnOnce() -> Result<(), Error> + Send + 'scope,
    ) where
        'a: 'scope,
    {
        let lane = self.clone();
        let work = move || {
            if let Err(error) = panics::caught(stage, work) {
                lane.fail(stage, error);
            }
        };
        if let Err(source) = Builder::new().name(stage.to_owned()).spawn_scoped(scope, work) {
            self.fail(stage, Error::System { action: "start a thread", source });
        }
    }

    /// Stops every lane because of `error`, also those in the middle of a run.
    fn fail(&self, stage: &str, error: Error) {
        if self.stages.lanes > 1 && !self.stages.stop.requested() {
            let device = self.stages.job.runtime.devices.get(self.number).map(ToString::to_string).unwrap_or_default();
            let what = error.to_string();
            let what = what.lines().next().unwrap_or_default();
            tracing::error!(lane = self.number, device, stage, "stopping the work on all devices: {what}");
        }
        // Fails only if `run` has returned, which waits for this thread.
        let _ = self.failed.send(error);
        self.stages.stop.request();
        self.contexts.iter().for_each(RunContext::interrupt);
    }
}
