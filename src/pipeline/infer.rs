//! The infer stage: rows become results, in batches that never cross parts. Where slots of captions that are finished can be
//! refilled, rows wait with their images encoded until there are several batches of them.
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

/// How many batches of rows a decoder is given whose slots are refilled: only the last ones leave slots empty.
const REFILLING: usize = 4;
/// Encoder states of rows that wait for more batches than one.
const WAITING_FEATURE_BYTES: usize = 128 << 20;

pub(super) fn run(
    stages: &Stages<'_>,
    mut models: Models,
    mut input: Receiver<IngestItem>,
    out: &SyncSender<FinishedPart>,
) -> Result<(), Error> {
    let meter = &stages.metrics.model;
    let mut part = OpenPart::default();
    let batches = if models.supports_continuous_batching() { REFILLING } else { 1 };
    let mut most = stages.plan.batch_size;
    while let Some(item) = meter.waiting_for_input(|| input.blocking_recv()) {
        if stages.stop.requested() {
            return Ok(());
        }
        match item {
            IngestItem::Row(row) => {
                part.add(*row, models.draws_by_key(), stages.progress);
                if part.unencoded >= most {
                    meter.busy(|| part.encode(&mut models, &mut most))?;
                    if part.pending.len() >= batches * most || part.waiting_bytes > WAITING_FEATURE_BYTES {
                        meter.busy(|| part.compute(&mut models, &mut most, batches, stages.progress))?;
                    }
                }
            }
            IngestItem::PartEnd { part: number, carried } => {
                meter.busy(|| part.encode(&mut models, &mut most))?;
                meter.busy(|| part.compute(&mut models, &mut most, batches, stages.progress))?;
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
    /// Rows that wait for the model.
    pending: Vec<Pending>,
    /// How many of them, the last ones, have images that are not encoded yet, or none.
    unencoded: usize,
    /// What was encoded for the others.
    waiting_bytes: usize,
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
    image: Option<(blake3::Hash, Picture)>,
}

enum Picture {
    Pixels(Preprocessed),
    Encoded(EncodedImage),
}

impl Pending {
    fn input(&self) -> ModelsInput {
        let image = match &self.image {
            Some((_, Picture::Encoded(image))) => Some(image.clone()),
            _ => None,
        };
        ModelsInput { image, text: self.text.clone(), prompt: self.prompt.clone(), key: self.key }
    }
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
                    let image = content_hash.zip(pixels.map(Picture::Pixels));
                    self.pending.push(Pending { index, key, text, prompt, image });
                    self.unencoded += 1;
                    Outcome::Pending
                }
            },
        };
        self.rows.push(Facts { copy, image_size, content_hash, content_signature });
        self.outcomes.push(outcome);
    }

    /// Encodes the images of pending rows that this part has not encoded yet, each once, in manifest order, at most `most` at
    /// once; that is halved when memory runs out, for good.
    fn encode(&mut self, models: &mut Models, most: &mut usize) -> Result<(), Error> {
        self.unencoded = 0;
        let waiting = self.pending.iter().filter_map(|row| match &row.image {
            Some((hash, Picture::Encoded(image))) => Some((*hash, image.clone())),
            _ => None,
        });
        let mut encoded: HashMap<_, _> = waiting.collect();
        let mut listed = HashSet::new();
        let mut is_new =
            |hash| !self.features.contains_key(hash) && !encoded.contains_key(hash) && listed.insert(*hash);
        let pixels = self.pending.iter().filter_map(|row| match &row.image {
            Some((hash, Picture::Pixels(pixels))) if is_new(hash) => Some((*hash, pixels)),
            _ => None,
        });
        let (hashes, pixels): (Vec<_>, Vec<_>) = pixels.unzip();
        let mut done = 0;
        while done < hashes.len() {
            let next = done..hashes.len().min(done + *most);
            let tried = attempt(next.len(), || models.encode_images(&pixels[next.clone()]));
            let Some(images) = halve(tried, next.len(), most, &mut self.halved)? else { continue };
            for (&hash, image) in hashes[next.clone()].iter().zip(images) {
                self.waiting_bytes += image.bytes();
                if self.feature_bytes + image.bytes() <= KEPT_FEATURE_BYTES {
                    self.feature_bytes += image.bytes();
                    self.features.insert(hash, image.clone());
                }
                encoded.insert(hash, image);
            }
            self.encoded_images += next.len();
            done = next.end;
        }
        for (hash, picture) in self.pending.iter_mut().filter_map(|row| row.image.as_mut()) {
            if let Some(image) = self.features.get(hash).or_else(|| encoded.get(hash)) {
                *picture = Picture::Encoded(image.clone());
            }
        }
        Ok(())
    }

    /// Runs the pending rows, whose images are encoded, through the model, `batches` batches in a call and at most `most` rows at
    /// once; that is halved when memory runs out, for good.
    fn compute(
        &mut self,
        models: &mut Models,
        most: &mut usize,
        batches: usize,
        progress: &Progress,
    ) -> Result<(), Error> {
        self.waiting_bytes = 0;
        while !self.pending.is_empty() {
            let next = self.pending.len().min(batches * *most);
            let inputs: Vec<_> = self.pending[..next].iter().map(Pending::input).collect();
            let at_once = next.min(*most);
            let tried = attempt(at_once, || models.run(&inputs, *most));
            let Some(outcomes) = halve(tried, at_once, most, &mut self.halved)? else { continue };
            for (row, outcome) in self.pending.drain(..next).zip(outcomes) {
                progress.row(outcome.is_err());
                self.outcomes[row.index] = Outcome::Known(outcome);
            }
        }
        Ok(())
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

/// What comes of `rows` rows at once.
fn attempt<T>(rows: usize, work: impl FnOnce() -> Result<T, OnnxError>) -> Result<T, OnnxError> {
    if failpoint::runs_out_of_memory(rows) {
        let what = "out of memory, by a switch for tests";
        return Err(OnnxError::new(OnnxErrorKind::OutOfMemory, "the model", what));
    }
    work()
}

/// What came of `rows` rows at once; `None` if memory ran out, and `most` is halved.
fn halve<T>(tried: Result<T, OnnxError>, rows: usize, most: &mut usize, halved: &mut u32) -> Result<Option<T>, Error> {
    match tried {
        Err(error) if error.kind == OnnxErrorKind::OutOfMemory && rows > 1 => {
            *most = rows.div_ceil(2);
            *halved += 1;
            tracing::warn!(rows, now = *most, "memory ran out; batches are halved from here on: {}", error.what);
            Ok(None)
        }
        tried => Ok(Some(tried?)),
    }
}
