//! Runs the rows of a part through a job's models. In: images that are not encoded yet, then rows with encoded images. Out: a result
//! for each, in order. [`super::halving`] says what happens when a batch fails as a whole.

use std::sync::Arc;

use super::halving::{Halving, Runs};
use super::stages::Stages;
use super::trial_row::TrialRow;
use crate::engine::{EncodedImage, Models, ModelsInput, RowOutput};
use crate::error::Error;
use crate::onnx::{OnnxError, OnnxErrorKind};
use crate::preprocess::{Preprocessed, Preprocessor};
use crate::row::error::{RowError, Stage};
use crate::support::failpoint;

/// Batches of rows in one call with continuous batching: slots stay empty only at the end of a call.
pub(crate) const BATCHES_TO_REFILL: usize = 4;

/// The models and their batch size.
pub(super) struct BatchRunner {
    models: JobModels,
    halving: Halving,
    batches: usize,
    failures: InSuccession,
}

/// How many rows of the part at hand failed alone, one after the other.
#[derive(Default)]
struct InSuccession {
    images: usize,
    rows: usize,
}

/// The models, and what the trial row is made from.
struct JobModels {
    models: Models,
    preprocessor: Option<Arc<Preprocessor>>,
    has_text: bool,
}

/// Runs the image encoders.
struct ImageRuns<'a>(&'a mut JobModels);

/// Runs the graphs after them.
struct RowRuns<'a>(&'a mut JobModels);

impl BatchRunner {
    /// A runner of `models`, with the batch size of the plan.
    pub(super) fn new(stages: &Stages<'_>, models: Models) -> Self {
        let batches = if models.supports_continuous_batching() { BATCHES_TO_REFILL } else { 1 };
        let (preprocessor, has_text) = (stages.processor.clone(), stages.job.input.text.is_some());
        let halving = Halving::new(stages.plan.batch_size);
        Self {
            models: JobModels { models, preprocessor, has_text },
            halving,
            batches,
            failures: InSuccession::default(),
        }
    }

    /// Rows in one call of [`BatchRunner::run`].
    pub(super) const fn rows_per_call(&self) -> usize {
        self.batches * self.halving.at_once()
    }

    /// Ends a part; how often a batch of it was halved.
    pub(super) fn end_part(&mut self) -> u32 {
        self.failures = InSuccession::default();
        self.halving.take_count()
    }

    /// Encodes `images`.
    ///
    /// # Errors
    /// As [`Halving::run`].
    pub(super) fn encode(&mut self, images: &[&Preprocessed]) -> Result<Vec<Result<EncodedImage, RowError>>, Error> {
        self.halving.run(&mut ImageRuns(&mut self.models), images, 1, &mut self.failures.images)
    }

    /// Runs `rows`, whose images are encoded.
    ///
    /// # Errors
    /// As [`Halving::run`].
    pub(super) fn run(&mut self, rows: &[ModelsInput]) -> Result<Vec<Result<RowOutput, RowError>>, Error> {
        self.halving.run(&mut RowRuns(&mut self.models), rows, self.batches, &mut self.failures.rows)
    }
}

impl<'image> Runs<&'image Preprocessed> for ImageRuns<'_> {
    type Output = EncodedImage;

    fn run(
        &mut self,
        images: &[&'image Preprocessed],
        _at_once: usize,
    ) -> Result<Vec<Result<EncodedImage, RowError>>, OnnxError> {
        fits_in_memory(images.len())?;
        Ok(self.0.models.encode_images(images)?.into_iter().map(Ok).collect())
    }

    fn try_out(&mut self) -> Result<(), OnnxError> {
        self.0.try_out()
    }

    fn stage(&self, _error: &OnnxError) -> Stage {
        Stage::Encode
    }
}

impl Runs<ModelsInput> for RowRuns<'_> {
    type Output = RowOutput;

    fn run(&mut self, rows: &[ModelsInput], at_once: usize) -> Result<Vec<Result<RowOutput, RowError>>, OnnxError> {
        fits_in_memory(rows.len().min(at_once))?;
        self.0.models.run(rows, at_once)
    }

    fn try_out(&mut self) -> Result<(), OnnxError> {
        self.0.try_out()
    }

    fn stage(&self, error: &OnnxError) -> Stage {
        stage_of(error.graph.as_deref())
    }
}

/// The stage of the graph at `path`. In every layout of a model directory, exactly the decoders have `decoder` in their names.
fn stage_of(path: Option<&str>) -> Stage {
    let name = path.map(|path| path.rsplit('/').next().unwrap_or(path));
    if name.is_some_and(|name| name.contains("decoder")) { Stage::Generate } else { Stage::Encode }
}

/// Fails if a test has set a limit that `rows` rows exceed.
fn fits_in_memory(rows: usize) -> Result<(), OnnxError> {
    if failpoint::runs_out_of_memory(rows) {
        let what = "out of memory, by a switch for tests";
        return Err(OnnxError::new(OnnxErrorKind::OutOfMemory, "the model", what));
    }
    Ok(())
}

impl JobModels {
    fn try_out(&mut self) -> Result<(), OnnxError> {
        TrialRow::new(self.preprocessor.as_deref(), self.has_text).run(&mut self.models, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_by_graph() {
        for name in ["decoder_with_past_model.onnx", "decoder_model_merged_int8.onnx", "multimodal_decoder.onnx"] {
            assert_eq!(stage_of(Some(&format!("/models/blip/{name}"))), Stage::Generate, "{name}");
        }
        for path in [Some("/models/decoders/text_model.onnx"), Some("fusion.onnx"), None] {
            assert_eq!(stage_of(path), Stage::Encode, "{path:?}");
        }
    }
}
