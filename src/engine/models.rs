//! The models of a job: one, or one for captions and another for embeddings. In: rows with images and texts. Out: for each row the
//! outputs of all models.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::batch::{Engine, RowInput, RowOutput};
use super::encode::vision::ImageFeatures;
use crate::onnx::OnnxError;
use crate::preprocess::{PixelValues, Preprocessed};
use crate::row::error::RowError;

/// The loaded models of a job.
#[derive(Debug)]
pub struct Models {
    /// `[model]`: captions, and embeddings if there is no other model for them.
    pub model: Engine,
    /// The model that `[embedding]` names.
    pub embedding: Option<Engine>,
}

/// The outputs of the image encoders of a job's models for one image.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedImage {
    model: Arc<ImageFeatures>,
    embedding: Option<Arc<ImageFeatures>>,
}

/// One row for the job's models.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelsInput {
    /// From [`Models::encode_images`].
    pub image: Option<EncodedImage>,
    /// As in [`RowInput`].
    pub text: Option<String>,
    /// As in [`RowInput`].
    pub prompt: Option<String>,
    /// As in [`RowInput`].
    pub key: u64,
}

impl EncodedImage {
    /// Its size in memory.
    pub fn bytes(&self) -> usize {
        self.model.bytes() + self.embedding.as_ref().map_or(0, |features| features.bytes())
    }
}

impl Models {
    /// Whether a caption depends on its row's key, so that rows equal otherwise get captions of their own.
    pub fn draws_by_key(&self) -> bool {
        self.model.draws_by_key()
    }

    /// As [`Engine::set_time`].
    pub fn set_time(&mut self, time: DateTime<Utc>) {
        self.model.set_time(time);
    }

    /// Encodes `images` with every model.
    ///
    /// # Errors
    /// As [`Engine::encode_images`].
    pub fn encode_images(&mut self, images: &[&Preprocessed]) -> Result<Vec<EncodedImage>, OnnxError> {
        let pixels: Vec<&PixelValues> = images.iter().map(|image| &image.model).collect();
        let encoded = self.model.encode_images(&pixels)?;
        let Some(engine) = &mut self.embedding else {
            return Ok(encoded.into_iter().map(|model| EncodedImage { model, embedding: None }).collect());
        };
        let pixels: Vec<&PixelValues> = images.iter().filter_map(|image| image.embedding.as_ref()).collect();
        let both = encoded.into_iter().zip(engine.encode_images(&pixels)?);
        Ok(both.map(|(model, embedding)| EncodedImage { model, embedding: Some(embedding) }).collect())
    }

    /// As [`Engine::device_bytes`].
    pub fn device_bytes(&self, batch_size: usize) -> usize {
        self.model.device_bytes(batch_size)
    }

    /// As [`Engine::supports_continuous_batching`].
    pub fn supports_continuous_batching(&self) -> bool {
        self.model.supports_continuous_batching()
    }

    /// Runs `rows`, at most `batch_size` at once. The results are in the order of `rows`; a row that fails in one model fails
    /// alone.
    ///
    /// # Errors
    /// When a run fails as a whole.
    pub fn run(
        &mut self,
        rows: &[ModelsInput],
        batch_size: usize,
    ) -> Result<Vec<Result<RowOutput, RowError>>, OnnxError> {
        let input = |row: &ModelsInput, image| RowInput {
            image,
            text: row.text.clone(),
            prompt: row.prompt.clone(),
            key: row.key,
        };
        let of_model = |row: &ModelsInput| input(row, row.image.as_ref().map(|image| image.model.clone()));
        let outputs = self.model.run(&rows.iter().map(of_model).collect::<Vec<_>>(), batch_size)?;
        let Some(engine) = &mut self.embedding else { return Ok(outputs) };
        let of_embedding = |row: &ModelsInput| input(row, row.image.as_ref().and_then(|image| image.embedding.clone()));
        let vectors = engine.run(&rows.iter().map(of_embedding).collect::<Vec<_>>(), batch_size)?;
        let join = |(captioned, embedded): (Result<RowOutput, RowError>, _)| {
            let (captioned, embedded): (RowOutput, RowOutput) = (captioned?, embedded?);
            Ok(RowOutput { caption: captioned.caption, ..embedded })
        };
        let mut results: Vec<_> = outputs.into_iter().zip(vectors).map(join).collect();
        engine.compare_captions(&mut results, batch_size)?;
        Ok(results)
    }
}
