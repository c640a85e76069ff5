//! The read stage. In: the plan and the parts to make. Out: their manifest rows, in batches that end where parts end.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use tokio::sync::mpsc::Sender;

use super::stages::Stages;
use crate::error::Error;
use crate::manifest::reader::{ManifestReader, Projection};
use crate::manifest::row::RowBatch;
use crate::output::{OutputError, run_folder};
use crate::row::signature::Signature;

/// Output of the read stage.
pub(super) enum ReadItem {
    /// Consecutive rows of the current part.
    Rows(Arc<RowBatch>),
    /// The part is complete; these are its carried columns.
    PartEnd { part: u64, carried: Vec<RecordBatch> },
}

pub(super) fn run(stages: &Stages<'_>, parts: &BTreeSet<u64>, out: &Sender<ReadItem>) -> Result<(), Error> {
    let meter = &stages.metrics.manifest;
    let wanted = stages.selection.of_parts(parts, stages.plan.part_rows);
    let mut reader = ManifestReader::new(stages.manifest, wanted, Projection::Rows);
    let mut parts = parts.iter().copied();
    let Some(mut part) = parts.next() else { return Ok(()) };
    let mut missing = stages.plan.rows_in(part);
    let mut signatures = planned_signatures(stages, part)?;
    let mut carried = Vec::new();
    while let Some(batch) = meter.busy(|| reader.next()) {
        let batch = batch?;
        let mut at = 0;
        while at < batch.len() {
            if stages.stop.requested() {
                return Ok(());
            }
            let length = (batch.len() - at).min(usize::try_from(missing).unwrap_or(usize::MAX));
            let later = signatures.split_off(length);
            let rows = Arc::new(batch.slice(at, length, std::mem::replace(&mut signatures, later)));
            at += length;
            missing -= length as u64;
            meter.add_bytes(rows.carried.get_array_memory_size() / batch.len().max(1) * length);
            carried.push(rows.carried.clone());
            // A closed channel means that a later stage has failed; that stage reports the error.
            if meter.waiting_for_output(|| out.blocking_send(ReadItem::Rows(rows))).is_err() {
                return Ok(());
            }
            if missing == 0 {
                let end = ReadItem::PartEnd { part, carried: std::mem::take(&mut carried) };
                if meter.waiting_for_output(|| out.blocking_send(end)).is_err() {
                    return Ok(());
                }
                let Some(next) = parts.next() else { return Ok(()) };
                part = next;
                missing = stages.plan.rows_in(part);
                signatures = planned_signatures(stages, part)?;
            }
        }
    }
    Ok(())
}

/// The signatures of a part's rows, as the plan has them.
fn planned_signatures(stages: &Stages<'_>, part: u64) -> Result<Vec<Signature>, Error> {
    let path = format!("{}/{}", run_folder(&stages.plan.run), stages.plan.signatures);
    let (start, length) = stages.plan.signature_range(part);
    let bytes = stages.store.range(&path, start, length)?;
    if bytes.len() as u64 != length {
        let message = format!("expected {length} bytes from byte {start} on, found {}", bytes.len());
        return Err(OutputError::Record { path, message }.into());
    }
    Ok(bytes.as_chunks().0.iter().map(|&signature| Signature::from_bytes(signature)).collect())
}
