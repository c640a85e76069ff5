//! The limits of one image, and the errors of refused images. Never here: any format.

use super::image::RgbImage;
use crate::row::error::{ErrorKind, RowError, Stage};

/// Bytes a decoder may take beyond its pixels: tables, rows.
const SCRATCH_BYTES: u64 = 64 << 20;

/// The limits of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels (width times height, as the header states them).
    pub max_image_pixels: u64,
}

impl DecodeLimits {
    /// Refuses an image without pixels or with more than the limit.
    pub(super) fn check(self, format: &str, width: u64, height: u64) -> Result<(), RowError> {
        let pixels = width.saturating_mul(height);
        if pixels == 0 {
            let found = format!("expected a {format} image with pixels, its header says {width} x {height}");
            return Err(fail(ErrorKind::CorruptImage, found));
        }
        if pixels > self.max_image_pixels {
            let allowed = self.max_image_pixels;
            let found = format!(
                "the {format} header says {width} x {height} = {pixels} pixels, allowed are {allowed}\n\
                 hint: raise limits.max_image_pixels if such images are expected"
            );
            return Err(fail(ErrorKind::TooManyPixels, found));
        }
        Ok(())
    }

    /// Bytes that a decoder may take for an image within the limit: 8 a pixel (16-bit RGBA) and some scratch space.
    pub(super) const fn max_bytes(self) -> u64 {
        self.max_image_pixels.saturating_mul(8).saturating_add(SCRATCH_BYTES)
    }
}

/// A decoded image, and how large it is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The pixels, upright; of a JPEG perhaps fewer than the file has.
    pub image: RgbImage,
    /// Columns of the full image, in pixels, after EXIF rotation.
    pub full_width: u32,
    /// Rows of the full image, in pixels, after EXIF rotation.
    pub full_height: u32,
}

impl From<RgbImage> for Decoded {
    fn from(image: RgbImage) -> Self {
        Self { full_width: image.width, full_height: image.height, image }
    }
}

/// An error of the preprocessing stage.
pub(super) fn fail(kind: ErrorKind, message: impl Into<String>) -> RowError {
    RowError::new(Stage::Preprocess, kind, message)
}

/// The error of bytes that begin like `format` but cannot be decoded.
pub(super) fn corrupt(format: &str, found: impl std::fmt::Display) -> RowError {
    fail(ErrorKind::CorruptImage, format!("expected a complete {format} image, but decoding failed: {found}"))
}
