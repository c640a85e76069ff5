//! The trial row: one that every working model can compute. It is used to measure batch sizes, and to find out whether a model or
//! a row is at fault when a graph fails.

use crate::engine::{EncodedImage, Models, ModelsInput};
use crate::onnx::OnnxError;
use crate::preprocess::{Preprocessed, Preprocessor, RgbImage};

/// An image and a text that do not come from the job.
pub(crate) struct TrialRow {
    image: Option<Preprocessed>,
    text: Option<String>,
}

impl TrialRow {
    /// A row with an image if there is a `preprocessor`, and with a text if rows of the job have one.
    pub(crate) fn new(preprocessor: Option<&Preprocessor>, has_text: bool) -> Self {
        // A gradient, which no graph treats specially.
        let pixels = (0..480_u32).flat_map(|row| (0..640_u32).flat_map(move |column| [row, column, row + column]));
        let image = RgbImage { width: 640, height: 480, pixels: pixels.map(|value| (value / 5) as u8).collect() };
        let image = preprocessor.map(|preprocessor| preprocessor.process(&image));
        Self { image, text: has_text.then(|| "a picture of something".to_owned()) }
    }

    /// Runs a batch of `rows` copies of this row.
    ///
    /// # Errors
    /// When a graph fails.
    pub(crate) fn run(&self, models: &mut Models, rows: usize) -> Result<(), OnnxError> {
        self.run_encoded(models, rows).map(drop)
    }

    /// Runs one copy of this row. Returns the bytes of its pixels and of its encoded image.
    ///
    /// # Errors
    /// When a graph fails.
    pub(crate) fn measure(&self, models: &mut Models) -> Result<[usize; 2], OnnxError> {
        let pixels = self.image.iter().flat_map(|image| std::iter::once(&image.model).chain(&image.embedding));
        Ok([pixels.map(|pixels| size_of::<f32>() * pixels.data.len()).sum(), self.run_encoded(models, 1)?])
    }

    /// Runs a batch of `rows` copies of this row. Returns the bytes of their encoded images.
    fn run_encoded(&self, models: &mut Models, rows: usize) -> Result<usize, OnnxError> {
        let images: Vec<&Preprocessed> = self.image.iter().cycle().take(rows).collect();
        let encoded: Vec<EncodedImage> = if images.is_empty() { Vec::new() } else { models.encode_images(&images)? };
        let bytes = encoded.iter().map(EncodedImage::bytes).sum();
        let mut encoded = encoded.into_iter();
        let row = |key| ModelsInput { image: encoded.next(), text: self.text.clone(), prompt: None, key };
        let inputs: Vec<_> = (0..rows as u64).map(row).collect();
        models.run(&inputs, rows)?;
        Ok(bytes)
    }
}
