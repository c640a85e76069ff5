//! The write stage: finished parts become Parquet objects in OUTPUT, each by one conditional put.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::{FinishedPart, Stages};
use crate::error::Error;
use crate::failpoint;
use crate::output::finalize::part_summary;
use crate::output::reuse::Reuse;
use crate::output::store::Put;
use crate::output::{OutputError, part_path, published_path, run_folder};

pub(super) fn run(stages: &Stages<'_>, input: &Receiver<FinishedPart>) -> Result<(), Error> {
    let meter = &stages.metrics.write;
    while let Ok(finished) = meter.waiting_for_input(|| input.recv()) {
        meter.busy(|| write(stages, &finished))?;
    }
    Ok(())
}

fn write(stages: &Stages<'_>, finished: &FinishedPart) -> Result<(), Error> {
    let path = part_path(&stages.plan.run, finished.part);
    let (encoder, results) = (stages.encoder, &finished.results);
    let fetch = |reuse: &Arc<Reuse>| reuse.fetch(stages.store, &encoder.copied_columns(), results);
    let copies = stages.reuse.as_ref().map(fetch).transpose()?;
    let bytes = encoder.encode(finished.part, &finished.carried, results, copies.as_ref())?;
    let size = bytes.len();
    // What is put into a published run would be read as part of it.
    if stages.store.modified(&published_path(&stages.plan.run))?.is_some() {
        return Err(OutputError::Closed { run: stages.plan.run.clone() }.into());
    }
    // A folder that was removed would come back with this part alone in it.
    let plan = format!("{}/plan.json", run_folder(&stages.plan.run));
    if stages.store.modified(&plan)?.is_none() {
        return Err(OutputError::Gone { run: stages.plan.run.clone() }.into());
    }
    failpoint::hit("before_part");
    match stages.store.put_new(&path, bytes)? {
        Put::Created => tracing::debug!(path, bytes = size, "part written"),
        Put::Exists => {
            let (found, expected) = (part_summary(stages.store, &path)?.plan_digest, stages.encoder.plan_digest());
            if found != expected {
                return Err(OutputError::ForeignPart { path, found, expected: expected.to_owned() }.into());
            }
            tracing::warn!(path, "another worker of this run wrote this part first; its rows stand");
        }
    }
    failpoint::hit("after_part");
    stages.metrics.add_copied_rows(copies.map_or(0, |copies| copies.rows));
    stages.metrics.write.add_bytes(size);
    Ok(())
}
