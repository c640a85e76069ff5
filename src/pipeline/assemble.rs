//! The assemble stage. In: rows with pixel values, in manifest order. Out: the same rows, batch by batch, with the pixels of a batch
//! one after the other in memory that the device copies from fastest, so that the infer stage only starts runs. While that stage runs
//! one batch, the next is assembled here.
//!
//! Which rows share a batch depends on the plan and the rows of the part: a batch ends with its last row that needs the model, and
//! batches never cross parts. Rows that equal an earlier one of the part in image, text and prompt need no model.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::mpsc::SyncSender;

use arrow::record_batch::RecordBatch;
use tokio::sync::mpsc::Receiver;

use super::batch_pixels::BatchPixels;
use super::row::{IngestItem, IngestedRow};
use super::stages::Stages;
use crate::onnx::{Device, host_memory};

/// Rows that need no model are passed on when there are so many, so that the run's progress is seen.
const MOST_HELD_ROWS: usize = 1024;

/// The number of a row in its part, in manifest order. The only index of a row in this stage and the next: rows that wait keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartRow(pub(super) usize);

/// A row of a batch.
pub(super) struct BatchRow {
    /// The row; its memory is not reserved any more.
    pub(super) row: IngestedRow,
    /// The earlier row of the part that it has its result from, if there is one.
    pub(super) same_as: Option<PartRow>,
}

/// Rows of one part, in manifest order.
pub(super) struct AssembledRows {
    pub(super) rows: Vec<BatchRow>,
    pub(super) end: Option<BatchEnd>,
}

/// What ends with the last row.
pub(super) enum BatchEnd {
    Batch,
    Part { part: u64, carried: Vec<RecordBatch> },
}

/// What results depend on within a part: image, text, prompt and, if captions are sampled by it, the key.
type ContentKey = (Option<blake3::Hash>, Option<String>, Option<String>, Option<u64>);

/// The rows of the part that arrive now.
#[derive(Default)]
struct Assembly {
    /// Rows that were not passed on.
    rows: Vec<BatchRow>,
    /// How many rows of the part were.
    passed_on: usize,
    /// The first row of each content.
    first: HashMap<ContentKey, PartRow>,
    /// Images of the part whose pixels were copied to a batch.
    copied: HashSet<blake3::Hash>,
    /// Rows of the batch that need the model.
    in_batch: usize,
}

/// `by_key`: whether captions depend on the key.
pub(super) fn run(
    stages: &Stages<'_>,
    device: Device,
    by_key: bool,
    mut input: Receiver<IngestItem>,
    out: &SyncSender<AssembledRows>,
) {
    let mut pixels = BatchPixels::new(host_memory(device), stages.plan.batch_size);
    let mut assembly = Assembly::default();
    while let Some(item) = input.blocking_recv() {
        if stages.stop.requested() {
            return;
        }
        let end = match item {
            IngestItem::Row(row) => {
                assembly.add(*row, by_key, &mut pixels);
                (assembly.in_batch >= stages.plan.batch_size).then_some(BatchEnd::Batch)
            }
            IngestItem::PartEnd { part, carried } => Some(BatchEnd::Part { part, carried }),
        };
        if end.is_some() || assembly.rows.len() >= MOST_HELD_ROWS.max(stages.plan.batch_size) {
            let rows = assembly.pass_on(end, &mut pixels);
            // Closed when the next stage has ended, which reports its own error.
            if out.send(rows).is_err() {
                return;
            }
        }
    }
}

impl Assembly {
    fn add(&mut self, mut row: IngestedRow, by_key: bool, pixels: &mut BatchPixels) {
        let number = self.passed_on + self.rows.len();
        let mut same_as = None;
        if row.image.is_ok() && row.copy.is_none() {
            let key = by_key.then_some(row.key);
            match self.first.entry((row.content_hash, row.text.clone(), row.prompt.clone(), key)) {
                Entry::Occupied(first) => {
                    same_as = Some(*first.get());
                    row.image = Ok(None);
                }
                Entry::Vacant(vacant) => {
                    vacant.insert(PartRow(number));
                    self.in_batch += 1;
                    // the pixels of an image that came before are needed only if its states were not kept
                    if let (Ok(Some(image)), Some(hash)) = (&mut row.image, row.content_hash)
                        && self.copied.insert(hash)
                    {
                        pixels.take(self.rows.len(), image);
                    }
                }
            }
        }
        // Released here, not after the batch: a batch must be able to fill up however small the budget is.
        row.reservation = None;
        self.rows.push(BatchRow { row, same_as });
    }

    /// The rows that wait. Pixels move to the memory of the batch.
    fn pass_on(&mut self, end: Option<BatchEnd>, pixels: &mut BatchPixels) -> AssembledRows {
        let mut rows = std::mem::take(&mut self.rows);
        pixels.give(rows.iter_mut().map(|row| row.row.image.as_mut().ok()?.as_mut()));
        match end {
            None => self.passed_on += rows.len(),
            Some(BatchEnd::Batch) => (self.passed_on, self.in_batch) = (self.passed_on + rows.len(), 0),
            Some(BatchEnd::Part { .. }) => *self = Self::default(),
        }
        AssembledRows { rows, end }
    }
}
