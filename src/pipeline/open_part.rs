//! The part whose rows arrive now. In: rows in manifest order. Out: a result for each, in the same order.
//!
//! Rows equal in image, text and prompt are computed once per part (the assemble stage finds them), and equal images are encoded once per part (as long as the
//! kept states fit, see [`EncodedImages`]). So equal rows of a part have equal results, whatever batch they are in.

use super::assemble::{BatchRow, PartRow};
use super::batch_runner::BatchRunner;
use super::encoded_images::EncodedImages;
use super::row::IngestedRow;
use crate::engine::{ModelsInput, RowOutput};
use crate::error::Error;
use crate::output::part::copies::CopySource;
use crate::output::part::result::RowResult;
use crate::preprocess::Preprocessed;
use crate::row::error::RowError;
use crate::row::signature::Signature;
use crate::support::progress::Progress;

/// Rows of one part that go through the model.
pub(super) struct OpenPart {
    rows: Vec<RowFacts>,
    /// For the same rows.
    progress: Vec<RowProgress>,
    /// Rows whose image is not encoded yet, and rows without an image between them.
    arrived: Vec<PendingRow>,
    /// Rows that can be run; all come before those of `arrived`.
    ready: Vec<(PartRow, ModelsInput)>,
    images: EncodedImages,
}

/// What is known of a row before the model has seen it.
struct RowFacts {
    copy: Option<CopySource>,
    image_size: Option<(u32, u32)>,
    content_hash: Option<blake3::Hash>,
    content_signature: Signature,
}

/// How far a row has come.
enum RowProgress {
    /// In `arrived` or `ready`.
    Pending,
    /// It has the result of an earlier row with the same content.
    SameAs(PartRow),
    Done(Result<RowOutput, RowError>),
}

/// A row whose image, if it has one, is to be encoded.
struct PendingRow {
    row: PartRow,
    image: Option<(blake3::Hash, Preprocessed)>,
    /// The input without the image.
    input: ModelsInput,
}

impl OpenPart {
    /// A part without rows; states of `most_kept` bytes are kept for equal images later in it.
    pub(super) fn new(most_kept: usize) -> Self {
        let (rows, progress, arrived, ready) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { rows, progress, arrived, ready, images: EncodedImages::new(most_kept) }
    }

    /// Takes the next row.
    pub(super) fn add(&mut self, BatchRow { row, same_as }: BatchRow, progress: &Progress) {
        let IngestedRow { key, text, prompt, image, copy, image_size, content_hash, content_signature, .. } = row;
        let row = PartRow(self.rows.len());
        let state = match image {
            Err(error) => {
                progress.row(true);
                RowProgress::Done(Err(error))
            }
            Ok(_) if copy.is_some() => {
                progress.row(false);
                RowProgress::Done(Ok(RowOutput::default()))
            }
            Ok(pixels) => same_as.map_or_else(
                || {
                    let input = ModelsInput { image: None, text, prompt, key };
                    self.arrived.push(PendingRow { row, image: content_hash.zip(pixels), input });
                    RowProgress::Pending
                },
                RowProgress::SameAs,
            ),
        };
        self.rows.push(RowFacts { copy, image_size, content_hash, content_signature });
        self.progress.push(state);
    }

    /// Rows so far.
    pub(super) const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Rows that can be run.
    pub(super) const fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The images of the part.
    pub(super) const fn images(&self) -> &EncodedImages {
        &self.images
    }

    /// Encodes the images of arrived rows that this part has not encoded yet, each once, in manifest order; the rows are ready then.
    ///
    /// # Errors
    /// As [`BatchRunner::encode`].
    pub(super) fn encode(&mut self, runner: &mut BatchRunner, progress: &Progress) -> Result<(), Error> {
        let arrived = std::mem::take(&mut self.arrived);
        let images = arrived.iter().filter_map(|row| row.image.as_ref().map(|(hash, pixels)| (*hash, pixels)));
        self.images.encode(images, runner)?;
        for PendingRow { row, image, input } in arrived {
            match image.map(|(hash, _)| self.images.get(&hash)).transpose()?.transpose() {
                Ok(image) => self.ready.push((row, ModelsInput { image, ..input })),
                Err(error) => self.finish_row(row, Err(error), progress),
            }
        }
        Ok(())
    }

    /// Runs the ready rows.
    ///
    /// # Errors
    /// As [`BatchRunner::run`].
    pub(super) fn run(&mut self, runner: &mut BatchRunner, progress: &Progress) -> Result<(), Error> {
        let (rows, inputs): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ready).into_iter().unzip();
        let results = runner.run(&inputs)?;
        self.images.release_waiting();
        for (row, result) in rows.into_iter().zip(results) {
            self.finish_row(row, result, progress);
        }
        Ok(())
    }

    fn finish_row(&mut self, row: PartRow, result: Result<RowOutput, RowError>, progress: &Progress) {
        progress.row(result.is_err());
        self.progress[row.0] = RowProgress::Done(result);
    }

    /// The results of the whole part, in manifest order.
    ///
    /// # Errors
    /// [`Error::Internal`] if a row has none.
    pub(super) fn finish(self, progress: &Progress) -> Result<Vec<RowResult>, Error> {
        let mut results: Vec<RowResult> = Vec::with_capacity(self.rows.len());
        for (number, (facts, state)) in self.rows.into_iter().zip(self.progress).enumerate() {
            let outcome = match state {
                RowProgress::Done(result) => result,
                RowProgress::SameAs(first) => {
                    // The first row with this content comes before the others, so its result is there.
                    let outcome = results[first.0].outcome.clone();
                    progress.row(outcome.is_err());
                    outcome
                }
                RowProgress::Pending => {
                    return Err(Error::Internal(format!("row {number} of a part was not run through the model")));
                }
            };
            let RowFacts { copy, image_size, content_hash, content_signature } = facts;
            results.push(RowResult { outcome, copy, image_size, content_hash, content_signature });
        }
        Ok(results)
    }
}
