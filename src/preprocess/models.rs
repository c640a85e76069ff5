//! The preprocessing of a job's models: one, or one for captions and another for vectors. An image is decoded once for both.

use super::config::ImageProcessor;
use super::decode;
use super::image::{PixelValues, RgbImage};
use super::limits::{DecodeLimits, fail};
use super::memory::rgb_bytes;
use super::scale::JpegScale;
use crate::row::error::{ErrorKind, RowError};

/// Pixels that every image may become, however few `limits.max_image_pixels` allows in the file.
const SMALL_PIXELS: u64 = 1 << 24;

/// The preprocessing of the job's models.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    /// For `[model]`.
    pub model: ImageProcessor,
    /// For the model that `[embedding]` names, if it does.
    pub embedding: Option<ImageProcessor>,
    /// Whether JPEGs that every model makes much smaller are decoded smaller.
    pub jpeg_scaling: bool,
}

/// One image, preprocessed for the job's models.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessed {
    /// For `[model]`.
    pub model: PixelValues,
    /// For the model that `[embedding]` names, if it does.
    pub embedding: Option<PixelValues>,
}

impl Preprocessor {
    /// The most bytes of an image's pixel values; 0 if there is no bound for all images.
    pub fn most_bytes(&self) -> usize {
        self.each().map(|processor| processor.most_bytes().unwrap_or(0)).sum()
    }

    /// Most bytes that decoding an image and processing it for every model take at once, its encoded `bytes` not counted. Reads no
    /// more than the image's header.
    pub fn memory_needed(&self, bytes: &[u8], limits: DecodeLimits) -> u64 {
        let decoding = decode::memory_needed(bytes, limits, |width, height| self.jpeg_scale(width, height));
        let (width, height) = (decoding.width, decoding.height);
        if width == 0 {
            return decoding.bytes;
        }
        let processing = self.each().map(|processor| processor.memory_needed(width, height));
        decoding.bytes.max(processing.fold(rgb_bytes(width, height), u64::saturating_add))
    }

    fn each(&self) -> impl Iterator<Item = &ImageProcessor> {
        std::iter::once(&self.model).chain(&self.embedding)
    }

    /// How small a JPEG of `width` x `height` pixels (upright) is decoded: the model that needs the larger image decides.
    pub fn jpeg_scale(&self, width: u32, height: u32) -> JpegScale {
        self.each()
            .filter(|_| self.jpeg_scaling)
            .map(|processor| processor.jpeg_scale(width, height))
            .min()
            .unwrap_or_default()
    }

    /// Preprocesses `image` for every model, unless it becomes more pixels than `limits` allow: one that is very long may, where
    /// its short side is made larger.
    ///
    /// # Errors
    /// `too_many_pixels`.
    pub fn process_within(&self, limits: DecodeLimits, image: &RgbImage) -> Result<Preprocessed, RowError> {
        let (width, height) = (image.width, image.height);
        let most = self.each().map(|processor| processor.output_pixels(width, height)).max().unwrap_or(0);
        let (own, allowed) = (u64::from(width) * u64::from(height), limits.max_image_pixels);
        if most > allowed.max(SMALL_PIXELS) {
            let message = format!(
                "resizing {width} x {height} = {own} pixels for the model makes {most}, allowed are {allowed}\n\
                 hint: raise limits.max_image_pixels if such images are expected"
            );
            return Err(fail(ErrorKind::TooManyPixels, message));
        }
        Ok(self.process(image))
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
        std::iter::once(&self.model).chain(&self.embedding).map(|pixels| pixels.data.bytes()).sum()
    }
}
