//! The decoders of images.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Outcome, shape, short};
use crate::preprocess::{DecodeLimits, Decoded, JpegScale, decode_scaled, memory_needed};
use crate::row::error::{RowError, Stage};

pub(super) const JPEG: &[&str] =
    &["Exif\0\0", "http://ns.adobe.com/xap/1.0/\0", "tiff:Orientation=\"6\"", "JFIF\0", "Adobe"];
pub(super) const PNG: &[&str] =
    &["tRNS", "PLTE", "eXIf", "iTXt", "XML:com.adobe.xmp\0\0", "acTL", "fcTL", "fdAT", "iCCP", "sBIT"];
pub(super) const WEBP: &[&str] = &["VP8 ", "VP8L", "VP8X", "ANIM", "ANMF", "ALPH", "EXIF", "XMP ", "ICCP"];
pub(super) const AVIF: &[&str] =
    &["ftypavif", "avis", "meta", "iloc", "ispe", "av1C", "colr", "irot", "grid", "auxl", "prem"];

const LIMITS: DecodeLimits = DecodeLimits { max_image_pixels: 1 << 22 };
/// What a decoder may take beside the memory that is reserved for it.
const MARGIN: u64 = 4 << 20;
/// What the pages of the program take that the first input of a process loads.
const CODE: u64 = 16 << 20;
/// Whether this process has had its first input.
static IS_LOADED: AtomicBool = AtomicBool::new(false);

/// Decodes an image of any format, at full size and at a quarter of it, within the memory that is reserved before.
pub(super) fn decode(input: &[u8]) -> Outcome {
    let (mut signature, mut memory) = (String::new(), 0);
    for scale in [JpegScale::Full, JpegScale::Quarter] {
        let needed = memory_needed(input, LIMITS, |_, _| scale);
        let result = decode_scaled(input, LIMITS, |_, _| scale);
        if let Ok(Decoded { image, full_width, full_height }) = &result {
            let (width, height) = (u64::from(image.width), u64::from(image.height));
            assert_eq!(image.pixels.len() as u64, width * height * 3);
            assert!(width * height > 0 && width * height <= LIMITS.max_image_pixels);
            assert!(*full_width >= image.width && *full_height >= image.height);
            assert!(needed.bytes >= width * height * 3, "{needed:?} was reserved for {width} x {height} pixels");
        }
        signature += &said(&result);
        memory = memory.max(needed.bytes);
    }
    let code = if IS_LOADED.swap(true, Ordering::Relaxed) { 0 } else { CODE };
    Outcome { signature, memory: memory + MARGIN + code }
}

fn said(result: &Result<Decoded, RowError>) -> String {
    match result {
        Ok(_) => "ok ".to_owned(),
        Err(error) => {
            assert_eq!(error.stage, Stage::Preprocess);
            assert!(!error.kind.is_transient(), "{error}");
            shape(&short(error))
        }
    }
}
