//! WebP bytes in, the upright first frame as RGB out.

use std::io::Cursor;

use image::ImageDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;

use super::image::RgbImage;
use super::limits::{DecodeLimits, corrupt, fail};
use super::memory::{DecodeMemory, pixels, rgb_bytes};
use super::{orientation, samples, webp_codes};
use crate::row::error::{ErrorKind, RowError};

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    let stated =
        bytes.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |length| u64::from(u32::from_le_bytes(*length)));
    if stated < 12 || stated + 8 > bytes.len() as u64 {
        return Err(corrupt(
            "WebP",
            format!("its header says {} bytes, it has {}", stated.saturating_add(8), bytes.len()),
        ));
    }
    if bytes.get(12..16) == Some(b"VP8X") && !is_filled(&bytes[..stated as usize + 8]) {
        return Err(corrupt("WebP", "its chunks do not fill it"));
    }
    if code_bytes(bytes, limits) > limits.max_bytes() {
        let found = "decoding this WebP image takes more memory than limits.max_image_pixels allows: its prefix codes are many and long";
        return Err(fail(ErrorKind::TooManyPixels, found));
    }
    let still = Still::of(bytes).ok_or_else(|| corrupt("WebP", "it has no whole image"))?;
    limits.check("WebP", u64::from(still.canvas.0), u64::from(still.canvas.1))?;
    let decoder = WebPDecoder::new(Cursor::new(&still.file)).map_err(|e| samples::refuse("WebP", &e))?;
    let (width, height) = decoder.dimensions();
    limits.check("WebP", u64::from(width), u64::from(height))?;
    let orientation = orientation(bytes);
    let image = samples::read("WebP", decoder, limits, Orientation::NoTransforms, false)?;
    Ok(super::orientation::apply(still.placed(image)?, orientation))
}

/// The image or first frame as a file of its own, without metadata, whose flags may promise chunks that are missing.
struct Still {
    file: Vec<u8>,
    canvas: (u32, u32),
    /// Where the frame lies on the canvas, whose other pixels are black.
    position: (u32, u32),
}

impl Still {
    fn of(bytes: &[u8]) -> Option<Self> {
        const ANIMATED: u8 = 2;
        const MOST_CHUNKS: usize = 1024;
        let (kind, header) = chunks(bytes).next()?;
        let b"VP8X" = kind else {
            let size = match (kind, header) {
                (b"VP8L", [_, b0, b1, b2, b3, ..]) => packed_sides([*b0, *b1, *b2, *b3]),
                (b"VP8 ", [_, _, _, _, _, _, w0, w1, h0, h1, ..]) => {
                    let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
                    (side(*w0, *w1), side(*h0, *h1))
                }
                _ => return None,
            };
            return Some(Self { file: file_of(&[(kind, header)]), canvas: size, position: (0, 0) });
        };
        let canvas = three_byte_sides(header.get(4..)?)?;
        let (mut size, mut position) = (canvas, (0, 0));
        let mut parts: Vec<_> = chunks(bytes).take(MOST_CHUNKS).collect();
        if header.first()? & ANIMATED != 0 {
            let (_, frame) = parts.iter().find(|(kind, _)| *kind == b"ANMF")?;
            let corner = three_byte_sides(frame)?;
            position = (2 * (corner.0 - 1), 2 * (corner.1 - 1));
            size = three_byte_sides(frame.get(6..)?)?;
            parts = chunks_of(frame.get(16..)?).take(MOST_CHUNKS).collect();
        }
        let at = parts.iter().position(|(kind, _)| matches!(*kind, b"VP8 " | b"VP8L"))?;
        // Alpha lies before the colours that it belongs to.
        let alpha = parts[..at].iter().find(|(kind, _)| *kind == b"ALPH").filter(|_| parts[at].0 == b"VP8 ");
        let side = |side: u32| (side - 1).to_le_bytes();
        let ([w0, w1, w2, _], [h0, h1, h2, _]) = (side(size.0), side(size.1));
        let flags = if alpha.is_some() || parts[at].0 == b"VP8L" { 16 } else { 0 };
        let header = [flags, 0, 0, 0, w0, w1, w2, h0, h1, h2];
        let kept: Vec<_> = [(&b"VP8X"[..], &header[..])].into_iter().chain(alpha.copied()).chain([parts[at]]).collect();
        Some(Self { file: file_of(&kept), canvas, position })
    }

    /// The frame on its canvas.
    fn placed(&self, frame: RgbImage) -> Result<RgbImage, RowError> {
        let (width, height) = self.canvas;
        if (frame.width, frame.height) == self.canvas && self.position == (0, 0) {
            return Ok(frame);
        }
        let (left, top) = self.position;
        if left + frame.width > width || top + frame.height > height {
            return Err(corrupt("WebP", "its first frame sticks out of the canvas"));
        }
        let mut pixels = vec![0; rgb_bytes(width, height) as usize];
        let row_bytes = 3 * frame.width as usize;
        let rows = pixels.chunks_exact_mut(3 * width as usize).skip(top as usize);
        for (row, out) in frame.pixels.chunks_exact(row_bytes).zip(rows) {
            out[3 * left as usize..][..row_bytes].copy_from_slice(row);
        }
        Ok(RgbImage { width, height, pixels })
    }
}

/// A file of these chunks.
fn file_of(chunks: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WEBP".to_vec();
    for (kind, data) in chunks {
        file.extend_from_slice(kind);
        file.extend_from_slice(&(data.len() as u32).to_le_bytes());
        file.extend_from_slice(data);
        file.resize(file.len().next_multiple_of(2), 0);
    }
    let length = (file.len() as u32 - 8).to_le_bytes();
    file[4..8].copy_from_slice(&length);
    file
}

/// Beside the encoded bytes once more (lossy data is copied before it is decoded) and some rows, a pixel takes:
/// - lossy: 3 bytes of RGB or 4 of RGBA, 1.5 of YUV (2 where sides are rounded up to 16), and 5 where alpha is compressed;
/// - lossless: 4 bytes of output, 4 of RGBA and 1 of transforms;
/// - the first frame of an animation: 4 bytes each of output, canvas and frame, and what its frame takes.
///
/// Lossless data also has prefix codes, see `webp_codes`.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> Option<DecodeMemory> {
    let (kind, data) = chunks(bytes).next()?;
    let has = |wanted: &[u8]| chunks(bytes).any(|(kind, _)| kind == wanted);
    let (width, height, pixel_bytes) = match (kind, data) {
        (b"VP8 ", [_, _, _, _, _, _, w0, w1, h0, h1, ..]) => {
            let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            (side(*w0, *w1), side(*h0, *h1), 5)
        }
        (b"VP8L", [_, b0, b1, b2, b3, ..]) => {
            let (width, height) = packed_sides([*b0, *b1, *b2, *b3]);
            (width, height, 9)
        }
        (b"VP8X", [flags, _, _, _, sides @ ..]) => {
            let (width, height) = three_byte_sides(sides)?;
            let pixel_bytes = match flags {
                flags if flags & 0b10 != 0 => 17,
                _ if has(b"ALPH") => 11,
                _ if has(b"VP8L") => 9,
                _ => 6,
            };
            (width, height, pixel_bytes)
        }
        _ => return None,
    };
    if limits.check("WebP", u64::from(width), u64::from(height)).is_err() {
        return Some(DecodeMemory::REFUSED);
    }
    let codes = code_bytes(bytes, limits);
    if codes > limits.max_bytes() {
        return Some(DecodeMemory::REFUSED);
    }
    let decoding = pixels(width, height).saturating_mul(pixel_bytes).saturating_add(codes);
    let rest = 2 * bytes.len() as u64 + (u64::from(width) + u64::from(height)) * 128 + (64 << 10);
    Some(DecodeMemory::within(limits, (width, height), decoding.saturating_add(rest), orientation(bytes)))
}

/// Bytes of the prefix codes of lossless data: the image's, its alpha's, or the first frame's.
fn code_bytes(bytes: &[u8], limits: DecodeLimits) -> u64 {
    let mut canvas = (1, 1);
    for (kind, data) in chunks(bytes) {
        let codes = match (kind, data) {
            (b"VP8X", [_, _, _, _, sides @ ..]) => {
                canvas = three_byte_sides(sides).unwrap_or(canvas);
                0
            }
            // Only the first frame is decoded. Its chunks begin behind 16 bytes.
            (b"ANMF", [_, _, _, _, _, _, sides @ ..]) => {
                let frame = three_byte_sides(sides).unwrap_or(canvas);
                let chunks = chunks_of(data.get(16..).unwrap_or_default());
                return chunks.map(|(kind, data)| codes_of(kind, data, frame, limits)).max().unwrap_or(0);
            }
            _ => codes_of(kind, data, canvas, limits),
        };
        if codes > 0 {
            return codes;
        }
    }
    0
}

/// Bytes of the prefix codes of one chunk; `size` is that of the image, which alpha does not state.
fn codes_of(kind: &[u8], data: &[u8], size: (u32, u32), limits: DecodeLimits) -> u64 {
    match (kind, data) {
        (b"VP8L", [_, b0, b1, b2, b3, codes @ ..]) => {
            webp_codes::table_bytes(codes, packed_sides([*b0, *b1, *b2, *b3]), limits.max_bytes())
        }
        (b"ALPH", [flags, codes @ ..]) if flags & 0b11 == 1 => webp_codes::table_bytes(codes, size, limits.max_bytes()),
        _ => 0,
    }
}

/// Width and height as `VP8L` states them, in 14 bits each.
fn packed_sides(bytes: [u8; 4]) -> (u32, u32) {
    let bits = u32::from_le_bytes(bytes);
    ((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1)
}

/// Width and height in three bytes each.
fn three_byte_sides(bytes: &[u8]) -> Option<(u32, u32)> {
    let [w0, w1, w2, h0, h1, h2, ..] = *bytes else { return None };
    let side = |low: u8, middle: u8, high: u8| u32::from_le_bytes([low, middle, high, 0]) + 1;
    Some((side(w0, w1, w2), side(h0, h1, h2)))
}

/// The chunks (type, data) of a WebP file, up to the first that is cut off or goes beyond the length in the file's header.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let stated = bytes.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let bytes = &bytes[..stated.saturating_add(8).min(bytes.len())];
    chunks_between(bytes, 12, bytes.len())
}

/// Whether the chunks of a file reach exactly to its end. libwebp refuses other files of the extended format.
fn is_filled(file: &[u8]) -> bool {
    let mut at = 12;
    while let Some(length) = file.get(at..).and_then(|rest| rest.get(4..)?.first_chunk()) {
        let length = u32::from_le_bytes(*length) as usize;
        at = at.saturating_add(8 + length + length % 2);
    }
    at == file.len()
}

/// The chunks (type, data) inside another.
fn chunks_of(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    chunks_between(bytes, 0, bytes.len())
}

fn chunks_between(bytes: &[u8], mut at: usize, end: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (kind, after) = bytes.get(at..).filter(|_| at < end)?.split_at_checked(4)?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        at += 8 + length + length % 2;
        Some((kind, after.get(..length)?))
    })
}

/// Orientation from the first EXIF chunk, else from the first XMP chunk. They count where the header of the extended format says that
/// they are there, as in libwebp.
fn orientation(bytes: &[u8]) -> Orientation {
    const EXIF: u8 = 8;
    const XMP: u8 = 4;
    let mut chunks = chunks(bytes);
    let Some((b"VP8X", [flags, ..])) = chunks.next() else { return Orientation::NoTransforms };
    let (mut exif, mut xmp) = (None, None);
    for (kind, data) in chunks {
        match kind {
            b"EXIF" if flags & EXIF != 0 => exif = exif.or(Some(data)),
            b"XMP " if flags & XMP != 0 => xmp = xmp.or(Some(data)),
            _ => {}
        }
    }
    orientation::find(exif, xmp)
}
