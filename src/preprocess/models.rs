//! The preprocessing of a job's models: one, or one for captions and another for vectors. An image is decoded once for both.

use super::{ImageProcessor, JpegScale, PixelValues, RgbImage};

/// What happens to every image before the job's models.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    /// For `[model]`.
    pub model: ImageProcessor,
    /// For the model that `[embedding]` names, if it does.
    pub embedding: Option<ImageProcessor>,
    /// Whether JPEGs that every model makes much smaller are decoded smaller.
    pub jpeg_scaling: bool,
}

/// One image as the job's models take it.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessed {
    /// For `[model]`.
    pub model: PixelValues,
    /// For the model that `[embedding]` names, if it does.
    pub embedding: Option<PixelValues>,
}

impl Preprocessor {
    /// The most values an image becomes; 0 if that depends on the image.
    pub fn most_values(&self) -> usize {
        let each = std::iter::once(&self.model).chain(&self.embedding);
        each.map(|processor| processor.most_values().unwrap_or(0)).sum()
    }

    /// How small a JPEG of `width` x `height` pixels (upright) is decoded: the model that needs the larger picture decides.
    pub fn jpeg_scale(&self, width: u32, height: u32) -> JpegScale {
        let each = std::iter::once(&self.model).chain(&self.embedding).filter(|_| self.jpeg_scaling);
        each.map(|processor| processor.jpeg_scale(width, height)).min().unwrap_or_default()
    }

    /// Preprocesses `image` for every model.
    pub fn process(&self, image: &RgbImage) -> Preprocessed {
        let embedding = self.embedding.as_ref().map(|processor| processor.process(image));
        Preprocessed { model: self.model.process(image), embedding }
    }
}

impl Preprocessed {
    /// Its size in memory.
    pub fn bytes(&self) -> usize {
        std::iter::once(&self.model).chain(&self.embedding).map(|pixels| size_of_val(pixels.data.as_slice())).sum()
    }
}
