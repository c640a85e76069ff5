//! WebP bytes in, the upright first frame as RGB out.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;

use super::image::RgbImage;
use super::limits::DecodeLimits;
use super::memory::{DecodeMemory, pixels};
use super::{orientation, samples};
use crate::row::error::RowError;

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| samples::refuse("WebP", &e))?;
    samples::read("WebP", decoder, limits, orientation(bytes), false)
}

/// Beside the encoded bytes once more (lossy data is copied before it is decoded) and some rows, a pixel takes:
/// - lossy: 3 bytes of RGB or 4 of RGBA, 1.5 of YUV (2 where sides are rounded up to 16), and 5 where alpha is compressed;
/// - lossless: 4 bytes of output, 4 of RGBA and 1 of transforms;
/// - the first frame of an animation: 4 bytes each of output, canvas and frame, and what its frame takes.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> Option<DecodeMemory> {
    let (kind, data) = chunks(bytes).next()?;
    let has = |wanted: &[u8]| chunks(bytes).any(|(kind, _)| kind == wanted);
    let (width, height, pixel_bytes) = match (kind, data) {
        (b"VP8 ", [_, _, _, _, _, _, w0, w1, h0, h1, ..]) => {
            let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            (side(*w0, *w1), side(*h0, *h1), 5)
        }
        (b"VP8L", [_, b0, b1, b2, b3, ..]) => {
            let bits = u32::from_le_bytes([*b0, *b1, *b2, *b3]);
            ((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1, 9)
        }
        (b"VP8X", [flags, _, _, _, w0, w1, w2, h0, h1, h2, ..]) => {
            let side = |bytes: [u8; 3]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) + 1;
            let pixel_bytes = match flags {
                flags if flags & 0b10 != 0 => 17,
                _ if has(b"ALPH") => 11,
                _ if has(b"VP8L") => 9,
                _ => 6,
            };
            (side([*w0, *w1, *w2]), side([*h0, *h1, *h2]), pixel_bytes)
        }
        _ => return None,
    };
    let decoding = pixels(width, height).saturating_mul(pixel_bytes);
    let rest = bytes.len() as u64 + (u64::from(width) + u64::from(height)) * 128 + (64 << 10);
    Some(DecodeMemory::within(limits, (width, height), decoding.saturating_add(rest), orientation(bytes)))
}

/// The chunks (type, data) of a WebP file, up to the first that is cut off or begins where the decoder looks no more: 18 bytes
/// beyond the length in the file's header.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let stated = bytes.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let mut at = 12;
    std::iter::from_fn(move || {
        let (kind, after) = bytes.get(at..).filter(|_| at < stated.saturating_add(18))?.split_at_checked(4)?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        at += 8 + length + length % 2;
        Some((kind, after.get(..length)?))
    })
}

/// Orientation from the first EXIF chunk, else from the first XMP chunk; only files in the extended format have them.
fn orientation(bytes: &[u8]) -> Orientation {
    let mut chunks = chunks(bytes).peekable();
    if chunks.peek().is_none_or(|(kind, _)| kind != b"VP8X") {
        return Orientation::NoTransforms;
    }
    let (mut exif, mut xmp) = (None, None);
    for (kind, data) in chunks {
        match kind {
            b"EXIF" => exif = exif.or(Some(data)),
            b"XMP " => xmp = xmp.or(Some(data)),
            _ => {}
        }
    }
    orientation::find(exif, xmp)
}
