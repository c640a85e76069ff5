//! The infer stage: rows become results, in batches that never cross parts.
//!
//! Rows equal in image and text are computed once per part, and equal images are encoded once per part (as long as the kept
//! states fit [`KEPT_FEATURE_BYTES`]), so that equal rows have equal results, whatever stands beside them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::mpsc::SyncSender;

use tokio::sync::mpsc::Receiver;

use super::ingest::IngestItem;
use super::row::IngestedRow;
use super::{FinishedPart, Stages};
use crate::engine::{EncodedImage, Models, ModelsInput, RowOutput};
use crate::error::Error;
use crate::failpoint;
use crate::onnx::{OnnxError, OnnxErrorKind};
use crate::output::reuse::Place;
use crate::preprocess::Preprocessed;
use crate::progress::Progress;
use crate::results::RowResult;
use crate::row_error::{ErrorKind, RowError, Stage};
use crate::signature::Signature;

/// Encoder states of earlier images of the part that are kept for an equal image to come.
const KEPT_FEATURE_BYTES: usize = 128 << 20;

pub(super) fn run(
    stages: &Stages<'_>,
    mut models: Models,
    mut input: Receiver<IngestItem>,
    out: &SyncSender<FinishedPart>,
) -> Result<(), Error> {
    let meter = &stages.metrics.model;
    let mut part = OpenPart::default();
    let mut most = stages.plan.batch_size;
    while let Some(item) = meter.waiting_for_input(|| input.blocking_recv()) {
        if stages.stop.requested() {
            return Ok(());
        }
        match item {
            IngestItem::Row(row) => {
                part.add(*row, models.draws_by_key(), stages.progress);
                if part.pending.len() >= stages.plan.batch_size {
                    meter.busy(|| part.compute(&mut models, &mut most, stages.progress))?;
                }
            }
            IngestItem::PartEnd { part: number, carried } => {
                meter.busy(|| part.compute(&mut models, &mut most, stages.progress))?;
                tracing::debug!(
                    part = number,
                    rows = part.rows.len(),
                    encoded_images = part.encoded_images,
                    "computed"
                );
                let halved = part.halved;
                let results = std::mem::take(&mut part).finish(stages.progress);
                meter.add_bytes(results.iter().map(RowResult::bytes).sum());
                let finished = FinishedPart { part: number, carried, results, halved };
                // Closed when writing has failed, which says why itself.
                if meter.waiting_for_output(|| out.send(finished)).is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// What makes two rows of a part the same to the model: image, text, prompt and, where captions are drawn by it, key.
type Content = (Option<blake3::Hash>, Option<String>, Option<String>, Option<u64>);

/// The part that rows are arriving for.
#[derive(Default)]
struct OpenPart {
    rows: Vec<Facts>,
    /// Of the same rows.
    outcomes: Vec<Outcome>,
    /// Where the first row of each content stands.
    first: HashMap<Content, usize>,
    /// Rows for the next batch.
    pending: Vec<Pending>,
    features: HashMap<blake3::Hash, EncodedImage>,
    feature_bytes: usize,
    encoded_images: usize,
    /// How often a batch was halved because memory ran out.
    halved: u32,
}

/// What is known of a row before the model has seen it.
struct Facts {
    copy: Option<Place>,
    image_size: Option<(u32, u32)>,
    content_hash: Option<blake3::Hash>,
    content_signature: Signature,
}

enum Outcome {
    /// In a batch to come.
    Pending,
    /// That of an earlier row of the part, with the same content.
    SameAs(usize),
    Known(Result<RowOutput, RowError>),
}

struct Pending {
    index: usize,
    key: u64,
    text: Option<String>,
    prompt: Option<String>,
    image: Option<(blake3::Hash, Preprocessed)>,
}

impl OpenPart {
    fn add(&mut self, row: IngestedRow, by_key: bool, progress: &Progress) {
        let IngestedRow { key, text, prompt, image, copy, image_size, content_hash, content_signature, room } = row;
        // Given back here, not after the batch: a batch must be able to fill up however small the budget is.
        drop(room);
        let index = self.rows.len();
        let outcome = match image {
            Err(error) => {
                progress.row(true);
                Outcome::Known(Err(error))
            }
            Ok(_) if copy.is_some() => {
                progress.row(false);
                Outcome::Known(Ok(RowOutput::default()))
            }
            Ok(pixels) => match self.first.entry((content_hash, text.clone(), prompt.clone(), by_key.then_some(key))) {
                Entry::Occupied(first) => Outcome::SameAs(*first.get()),
                Entry::Vacant(vacant) => {
                    vacant.insert(index);
                    self.pending.push(Pending { index, key, text, prompt, image: content_hash.zip(pixels) });
                    Outcome::Pending
                }
            },
        };
        self.rows.push(Facts { copy, image_size, content_hash, content_signature });
        self.outcomes.push(outcome);
    }

    /// Runs the pending rows through the model, at most `most` at once; that is halved when memory runs out, for good.
    fn compute(&mut self, models: &mut Models, most: &mut usize, progress: &Progress) -> Result<(), Error> {
        while !self.pending.is_empty() {
            let later = self.pending.split_off(self.pending.len().min(*most));
            let tried = self.compute_pending(models, progress);
            let rows = self.pending.len();
            self.pending.extend(later);
            match tried {
                Err(Error::Onnx(error)) if error.kind == OnnxErrorKind::OutOfMemory && rows > 1 => {
                    *most = rows.div_ceil(2);
                    self.halved += 1;
                    tracing::warn!(
                        rows,
                        now = *most,
                        "memory ran out; batches are halved from here on: {}",
                        error.what
                    );
                }
                tried => tried?,
            }
        }
        Ok(())
    }

    /// Runs the pending rows through the model at once. They are pending still if that fails.
    fn compute_pending(&mut self, models: &mut Models, progress: &Progress) -> Result<(), Error> {
        if failpoint::runs_out_of_memory(self.pending.len()) {
            let what = "out of memory, by a switch for tests";
            return Err(OnnxError::new(OnnxErrorKind::OutOfMemory, "the model", what).into());
        }
        let fresh = self.encode_images(models)?;
        self.encoded_images += fresh.len();
        let features = |hash| {
            let kept = self.features.get(hash);
            kept.or_else(|| fresh.iter().find(|(known, _)| known == hash).map(|(_, features)| features)).cloned()
        };
        let inputs: Vec<ModelsInput> = self
            .pending
            .iter()
            .map(|row| ModelsInput {
                image: row.image.as_ref().and_then(|(hash, _)| features(hash)),
                text: row.text.clone(),
                prompt: row.prompt.clone(),
                key: row.key,
            })
            .collect();
        let outcomes = models.run(&inputs)?;
        for (row, outcome) in self.pending.drain(..).zip(outcomes) {
            progress.row(outcome.is_err());
            self.outcomes[row.index] = Outcome::Known(outcome);
        }
        for (hash, features) in fresh {
            if self.feature_bytes + features.bytes() <= KEPT_FEATURE_BYTES {
                self.feature_bytes += features.bytes();
                self.features.insert(hash, features);
            }
        }
        Ok(())
    }

    /// Encodes the pending images that this part has not encoded yet, each once, in manifest order.
    fn encode_images(&self, models: &mut Models) -> Result<Vec<(blake3::Hash, EncodedImage)>, Error> {
        let mut listed = HashSet::new();
        let images = self.pending.iter().filter_map(|row| row.image.as_ref());
        let new: Vec<_> =
            images.filter(|(hash, _)| !self.features.contains_key(hash) && listed.insert(*hash)).collect();
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let pixels: Vec<_> = new.iter().map(|(_, pixels)| pixels).collect();
        let features = models.encode_images(&pixels)?;
        Ok(new.iter().map(|(hash, _)| *hash).zip(features).collect())
    }

    /// The results of the whole part, in manifest order.
    fn finish(self, progress: &Progress) -> Vec<RowResult> {
        let mut results: Vec<RowResult> = Vec::with_capacity(self.rows.len());
        for (facts, outcome) in self.rows.into_iter().zip(self.outcomes) {
            let outcome = match outcome {
                Outcome::Known(outcome) => outcome,
                Outcome::SameAs(first) => {
                    // The first row of a content stands before its copies, so it is among the results.
                    let outcome = results[first].outcome.clone();
                    progress.row(outcome.is_err());
                    outcome
                }
                Outcome::Pending => {
                    let message = "the model gave no answer for this row".to_owned();
                    Err(RowError::new(Stage::Generate, ErrorKind::NonFiniteOutput, message))
                }
            };
            let Facts { copy, image_size, content_hash, content_signature } = facts;
            results.push(RowResult { outcome, copy, image_size, content_hash, content_signature });
        }
        results
    }
}
