//! The write stage. In: finished parts. Out: one Parquet object in OUTPUT for each, by one conditional put.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::stages::{FinishedPart, Stages};
use crate::error::Error;
use crate::output::part::commit::commit_part;
use crate::output::part::writer::EncodedPart;
use crate::output::part_path;
use crate::output::publish::reuse::Reuse;
use crate::output::store::Put;

pub(super) fn run(stages: &Stages<'_>, input: &Receiver<FinishedPart>) -> Result<(), Error> {
    let meter = &stages.metrics.write;
    while let Ok(finished) = meter.waiting_for_input(|| input.recv()) {
        meter.busy(|| write(stages, &finished))?;
    }
    Ok(())
}

/// Larger parts are slow to put, and a put that fails starts again from the first byte.
const LARGEST: usize = 256 << 20;

fn write(stages: &Stages<'_>, finished: &FinishedPart) -> Result<(), Error> {
    let path = part_path(&stages.plan.run, finished.part);
    let (encoder, results) = (stages.encoder, &finished.results);
    let fetch = |reuse: &Arc<Reuse>| reuse.fetch(stages.store, &encoder.copied_columns(), results);
    let copies = stages.reuse.as_ref().map(fetch).transpose()?;
    let part = encoder.encode(finished.part, &finished.carried, results, copies.as_ref(), finished.halved)?;
    let EncodedPart { bytes, counts } = part;
    let size = bytes.len();
    if size > LARGEST {
        tracing::warn!(
            path,
            bytes = size,
            "a part is put in one piece, which is meant for up to 256 MB; lower output.part_rows"
        );
    }
    if commit_part(stages.store, &stages.plan.run, encoder.plan_digest(), finished.part, bytes)? == Put::Created {
        tracing::debug!(path, bytes = size, "part written");
    }
    stages.metrics.add_copied_rows(copies.map_or(0, |copies| copies.rows));
    stages.metrics.write.add_bytes(size);
    stages.metrics.add_part(&counts, finished.halved);
    Ok(())
}
