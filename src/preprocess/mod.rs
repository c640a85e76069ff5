//! Encoded image bytes in, normalised `pixel_values` out, bit for bit what Pillow 13 and the slow (Pillow-backed) image
//! processors of transformers 4.57.6 (of 5, for files that it saved) give for `ImageOps.exif_transpose(Image.open(..)).convert("RGB")`.
//!
//! Two steps: [`decode()`] makes an upright 8-bit RGB image of the bytes, [`ImageProcessor::process`] resizes, crops, rescales and
//! normalises it. Never here: files, caches, panics on any input.
//!
//! Decoding: `decode` recognises the format and `formats` their extensions; one file per format; `limits` and `memory` bound the cost;
//! `samples` and `orientation` make upright RGB. Processing: `config` reads `preprocessor_config.json` with `keys`, by the table in
//! `classes`, into a `plan` (`torchvision` those of timm and `open_clip`); `geometry`, `size`, `resample`, `reduce`, `tiles` and
//! `normalize` do the work; `models` applies it for one or two models, `scale` for JPEGs decoded at a fraction. `thumbnail` makes small
//! pictures for people.
//!
//! Where a job asks for it, [`decode_scaled()`] replaces the first: a JPEG much larger than the size that it will be resized to is
//! decoded at a fraction of its size, bit for bit as after Pillow's `draft`. That is faster and changes pixels.
//!
//! The order of the two resizing passes is that of Pillow 13; older versions always run the horizontal one first, so that
//! some values of tall images differ by about one level from theirs.
//!
//! Known differences from Pillow, all in rare files:
//! - Damaged files and rare variants: the list, with reasons, is in docs/output.md, and `tests/it/pictures.rs` holds it complete.
//! - Images one or three pixels high are read as height x width x RGB, always; transformers guesses the layout from the shape.
//! - A side that would be rounded to zero pixels becomes one pixel; Pillow raises.

mod avif;
mod bmp;
mod classes;
mod config;
mod decode;
mod error;
mod formats;
mod geometry;
mod gif;
mod image;
mod jpeg;
mod keys;
mod limits;
mod memory;
mod models;
mod normalize;
mod orientation;
mod pixel_data;
mod plan;
mod png;
mod png_decoder;
mod reduce;
mod resample;
mod samples;
mod scale;
mod size;
mod thumbnail;
mod tiff;
mod tiff_compression;
mod tiff_directory;
mod tiff_predictor;
mod tiff_samples;
mod tiles;
mod torchvision;
mod webp;
mod webp_codes;

pub use self::classes::image_processor_table;
pub use self::config::ImageProcessor;
pub use self::decode::{decode, decode_scaled, memory_needed};
pub use self::error::ConfigError;
pub use self::formats::{FORMATS, has_image_extension};
pub use self::image::{PixelValues, RgbImage, TileGrid};
pub use self::limits::{DecodeLimits, Decoded};
pub use self::memory::DecodeMemory;
pub use self::models::{Preprocessed, Preprocessor};
pub use self::pixel_data::{PixelData, SharedValues, Values};
pub use self::resample::Filter;
pub use self::scale::JpegScale;
pub use self::thumbnail::thumbnail;

/// The version of everything in this module, part of the caption and embedding fingerprints. To be raised whenever any
/// pixel of any supported image may come out differently.
pub const PREPROCESSING_VERSION: u32 = 2;
