//! The infer stage. In: rows with pixel values. Out: finished parts with a result for each row. Batches never cross parts. This file
//! decides when rows go through the models; [`super::open_part`] knows which rows wait and which results are there.
//!
//! A batch of images is encoded as soon as it is complete, and its rows are run. With continuous batching, rows wait, with their
//! images encoded, until there are several batches of them.

use std::sync::mpsc::SyncSender;

use tokio::sync::mpsc::Receiver;

use super::batch_runner::BatchRunner;
use super::open_part::OpenPart;
use super::row::IngestItem;
use super::stages::{FinishedPart, Stages};
use crate::engine::Models;
use crate::error::Error;
use crate::output::part::result::RowResult;

/// Rows wait for further batches as long as their encoder states have at most this many bytes.
const MOST_WAITING_BYTES: usize = 128 << 20;

pub(super) fn run(
    stages: &Stages<'_>,
    models: Models,
    mut input: Receiver<IngestItem>,
    out: &SyncSender<FinishedPart>,
) -> Result<(), Error> {
    let (meter, progress) = (&stages.metrics.model, stages.progress);
    let mut runner = BatchRunner::new(stages, models);
    let mut part = OpenPart::default();
    while let Some(item) = meter.waiting_for_input(|| input.blocking_recv()) {
        if stages.stop.requested() {
            return Ok(());
        }
        match item {
            IngestItem::Row(row) => {
                part.add(*row, runner.draws_by_key(), progress);
                if part.arrived() >= runner.image_batch_size() {
                    meter.busy(|| part.encode(&mut runner, progress))?;
                    if part.ready() >= runner.rows_per_call() || part.images().waiting_bytes() > MOST_WAITING_BYTES {
                        meter.busy(|| part.run(&mut runner, progress))?;
                    }
                }
            }
            IngestItem::PartEnd { part: number, carried } => {
                meter.busy(|| part.encode(&mut runner, progress))?;
                meter.busy(|| part.run(&mut runner, progress))?;
                let (rows, encoded_images) = (part.len(), part.images().encoded());
                tracing::debug!(part = number, rows, encoded_images, "computed");
                let results = std::mem::take(&mut part).finish(progress)?;
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
