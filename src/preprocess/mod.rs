//! Encoded image bytes in, normalised `pixel_values` out, bit for bit what Pillow 13 and the slow (Pillow-backed) image
//! processors of transformers 4.57.6 give for `ImageOps.exif_transpose(Image.open(..)).convert("RGB")`.
//!
//! Two steps: [`decode()`] turns bytes into upright 8-bit RGB, [`ImageProcessor::process`] resizes, crops, rescales and
//! normalises. No file is opened here, nothing is cached, and no input makes it panic.
//!
//! Where a job asks for it, [`decode_scaled()`] takes the place of the first: a JPEG much larger than what it will be resized to
//! is decoded at a fraction of its size, bit for bit as after Pillow's `draft`. That is faster and changes pixels.
//!
//! The order of the two resizing passes is that of Pillow 13; older versions always run the horizontal one first, so that
//! some values of tall pictures differ by about one level from theirs.
//!
//! Known differences from Pillow, all in rare files:
//! - An EXIF orientation counts only as a single SHORT, as the standard wants it. EXIF kept by `ImageMagick` in a PNG text
//!   chunk ("Raw profile type exif") and compressed XMP are not looked at.
//! - Which *damaged* PNG, GIF, WebP, BMP and TIFF files still decode depends on the decoder; whole files decode alike.
//! - TIFF: palette, float, 12-bit, Lab and premultiplied-alpha variants are refused or not un-premultiplied.
//! - Images one or three pixels high are read as height x width x RGB, always; transformers guesses the layout from the shape.
//! - A side that would be rounded to zero pixels becomes one pixel; Pillow raises.

mod config;
mod decode;
mod formats;
mod gif;
mod jpeg;
mod keys;
mod models;
mod normalize;
mod orientation;
mod png;
mod resample;
mod scale;
mod tiles;

pub use config::{ConfigError, ImageProcessor};
pub use decode::{DecodeLimits, Decoded, decode, decode_scaled};
pub use formats::{FORMATS, has_image_extension};
pub use models::{Preprocessed, Preprocessor};
pub use resample::Filter;
pub use scale::JpegScale;
pub use tiles::TileGrid;

/// The version of everything in this module, part of the caption and embedding fingerprints. To be raised whenever any
/// pixel of any supported image may come out differently.
pub const PREPROCESSING_VERSION: u32 = 1;

/// An upright 8-bit RGB picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns, after EXIF rotation.
    pub width: u32,
    /// Rows, after EXIF rotation.
    pub height: u32,
    /// `[height, width, 3]` u8, interleaved RGB, rows without padding; always this long when it comes from [`decode()`].
    pub pixels: Vec<u8>,
}

/// What a vision model takes, for one image.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelValues {
    /// `[3, height, width]` f32 RGB, rescaled and normalised; `[tiles, 3, height, width]` of an image that is cut up.
    pub data: Vec<f32>,
    /// Rows, of each tile.
    pub height: u32,
    /// Columns, of each tile.
    pub width: u32,
    /// How the image was cut up; `None` by preprocessing that never does.
    pub grid: Option<TileGrid>,
}

impl PixelValues {
    /// How many pictures stand for the image.
    pub fn tiles(&self) -> usize {
        self.grid.map_or(1, TileGrid::tiles)
    }
}
