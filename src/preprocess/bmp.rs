//! BMP bytes in, an RGB image out.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::metadata::Orientation;

use super::image::RgbImage;
use super::limits::DecodeLimits;
use super::memory::{DecodeMemory, pixels};
use super::samples;
use crate::row::error::RowError;

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|e| samples::refuse("BMP", &e))?;
    samples::read("BMP", decoder, limits, Orientation::NoTransforms, false)
}

/// RGB or, where a pixel has 16 or 32 bits and so perhaps alpha, RGBA, converted in place; two rows as they are stored, and the
/// palette.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> Option<DecodeMemory> {
    let (size, header) = bytes.get(14..)?.split_first_chunk::<4>()?;
    let (width, height, bits) = if u32::from_le_bytes(*size) == 12 {
        let [w0, w1, h0, h1, _, _, b0, b1, ..] = header else { return None };
        (u32::from(u16::from_le_bytes([*w0, *w1])), u32::from(u16::from_le_bytes([*h0, *h1])), [*b0, *b1])
    } else {
        let [w0, w1, w2, w3, h0, h1, h2, h3, _, _, b0, b1, ..] = header else { return None };
        // A negative height says that the first row is the top one.
        let height = i32::from_le_bytes([*h0, *h1, *h2, *h3]).unsigned_abs();
        (u32::from_le_bytes([*w0, *w1, *w2, *w3]), height, [*b0, *b1])
    };
    let pixel_bytes = if matches!(u16::from_le_bytes(bits), 16 | 32) { 4 } else { 3 };
    let decoding = pixels(width, height).saturating_mul(pixel_bytes).saturating_add(u64::from(width) * 8 + (64 << 10));
    Some(DecodeMemory::within(limits, (width, height), decoding, Orientation::NoTransforms))
}
