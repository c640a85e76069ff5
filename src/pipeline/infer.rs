//! The infer stage. In: rows with pixel values. Out: finished parts with a result for each row. Batches never cross parts. This file
//! decides when rows go through the models; [`super::open_part`] knows which rows wait and which results are there.
//!
//! A batch of images is encoded as soon as it is complete, and its rows are run. With continuous batching, rows wait, with their
//! images encoded, until there are several batches of them.

use std::sync::mpsc::{Receiver, SyncSender};

use super::assemble::{AssembledRows, BatchEnd};
use super::batch_runner::BatchRunner;
use super::encoded_images::most_bytes;
use super::open_part::OpenPart;
use super::stages::{FinishedPart, Stages};
use crate::engine::Models;
use crate::error::Error;
use crate::onnx::Device;
use crate::output::part::result::RowResult;

/// Runs `models` on `device`. Rows wait for further batches as long as their encoder states have at most [`most_bytes`].
pub(super) fn run(
    stages: &Stages<'_>,
    models: Models,
    device: Device,
    input: &Receiver<AssembledRows>,
    out: &SyncSender<FinishedPart>,
) -> Result<(), Error> {
    let (meter, progress) = (&stages.metrics.model, stages.progress);
    let mut runner = BatchRunner::new(stages, models);
    let most_bytes = most_bytes(device);
    let mut part = OpenPart::new(most_bytes);
    while let Ok(AssembledRows { rows, end }) = meter.waiting_for_input(|| input.recv()) {
        if stages.stop.requested() {
            return Ok(());
        }
        for row in rows {
            part.add(row, progress);
        }
        match end {
            None => {}
            Some(BatchEnd::Batch) => {
                meter.busy(|| part.encode(&mut runner, progress))?;
                if part.ready() >= runner.rows_per_call() || part.images().waiting_bytes() > most_bytes {
                    meter.busy(|| part.run(&mut runner, progress))?;
                }
            }
            Some(BatchEnd::Part { part: number, carried }) => {
                meter.busy(|| part.encode(&mut runner, progress))?;
                meter.busy(|| part.run(&mut runner, progress))?;
                let (rows, encoded_images) = (part.len(), part.images().encoded());
                tracing::debug!(part = number, rows, encoded_images, "computed");
                let results = std::mem::replace(&mut part, OpenPart::new(most_bytes)).finish(progress)?;
                meter.add_bytes(results.iter().map(RowResult::bytes).sum());
                let finished = FinishedPart { part: number, carried, results, halved: runner.end_part() };
                // Closed when writing has failed, which says why itself.
                if meter.waiting_for_output(|| out.send(finished)).is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}
