//! The write stage. In: finished parts. Out: one Parquet object in OUTPUT for each, by one conditional put.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::stages::{FinishedPart, Stages};
use crate::error::Error;
use crate::output::part::footer::part_summary;
use crate::output::publish::reuse::Reuse;
use crate::output::records::published::Published;
use crate::output::store::Put;
use crate::output::{OutputError, part_path, plan_path, published_path};
use crate::support::failpoint;

pub(super) fn run(stages: &Stages<'_>, input: &Receiver<FinishedPart>) -> Result<(), Error> {
    let meter = &stages.metrics.write;
    while let Ok(finished) = meter.waiting_for_input(|| input.recv()) {
        meter.busy(|| write(stages, &finished))?;
    }
    Ok(())
}

/// Larger parts are slow to put, and a put that fails starts again from the first byte.
const LARGEST: usize = 256 << 20;

/// Checks that the run is still open, so that `part` would count.
fn check_open(stages: &Stages<'_>, part: u64) -> Result<(), Error> {
    let run = &stages.plan.run;
    // Readers would take a part that is put into a published run for one of its parts.
    let published = stages.store.record::<Published>(&published_path(run))?;
    if published.is_some_and(|published| !published.counts_part(part)) {
        return Err(OutputError::Closed { run: run.clone() }.into());
    }
    // A put would create a removed folder again, with this part alone in it.
    if stages.store.modified(&plan_path(run))?.is_none() {
        return Err(OutputError::Gone { run: run.clone() }.into());
    }
    Ok(())
}

fn write(stages: &Stages<'_>, finished: &FinishedPart) -> Result<(), Error> {
    let path = part_path(&stages.plan.run, finished.part);
    let (encoder, results) = (stages.encoder, &finished.results);
    let fetch = |reuse: &Arc<Reuse>| reuse.fetch(stages.store, &encoder.copied_columns(), results);
    let copies = stages.reuse.as_ref().map(fetch).transpose()?;
    let bytes = encoder.encode(finished.part, &finished.carried, results, copies.as_ref(), finished.halved)?;
    let size = bytes.len();
    if size > LARGEST {
        tracing::warn!(
            path,
            bytes = size,
            "a part is put in one piece, which is meant for up to 256 MB; lower output.part_rows"
        );
    }
    check_open(stages, finished.part)?;
    failpoint::hit("before_part");
    match stages.store.put_new(&path, bytes)? {
        Put::Created => {
            // If this process was suspended, or its put hung, another process may have closed or removed the run.
            if let Err(error) = check_open(stages, finished.part) {
                stages.store.delete(&path)?;
                return Err(error);
            }
            tracing::debug!(path, bytes = size, "part written");
        }
        Put::Exists => {
            let (found, expected) = (part_summary(stages.store, &path)?.plan_digest, stages.encoder.plan_digest());
            if found != expected {
                return Err(OutputError::ForeignPart { path, found, expected: expected.to_owned() }.into());
            }
            tracing::warn!(path, "another worker of this run wrote this part first; its rows count");
        }
    }
    failpoint::hit("after_part");
    stages.metrics.add_copied_rows(copies.map_or(0, |copies| copies.rows));
    stages.metrics.write.add_bytes(size);
    Ok(())
}
