//! PNG bytes in, an upright RGB image out.
//!
//! The decoder sees no metadata: colour profiles, texts and EXIF change no pixel, and compressed ones may unpack to gigabytes. The
//! orientation is read from the encoded bytes.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use image::ImageError;
use image::codecs::png::PngDecoder;
use image::metadata::Orientation;

use super::image::RgbImage;
use super::limits::{DecodeLimits, corrupt};
use super::memory::{DecodeMemory, pixels};
use super::{orientation, samples};
use crate::row::error::RowError;

/// Bytes that the decoder may take for tables: palette, transparency.
const TABLE_BYTES: u64 = 1 << 20;

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    check_palette(bytes)?;
    // The decoder reserves one row of output in these limits; its own row buffers are not counted there.
    let row_bytes = PngHeader::read(bytes).map_or(0, |header| u64::from(header.width) * 8);
    let allocations = samples::allocations(TABLE_BYTES.saturating_add(row_bytes));
    let decoder = PngDecoder::with_limits(WithoutMetadata::new(bytes), allocations).map_err(|error| match error {
        ImageError::Limits(_) => {
            corrupt("PNG", format!("a chunk before its pixels is longer than {TABLE_BYTES} bytes"))
        }
        error => samples::refuse("PNG", &error),
    })?;
    // Gray of 16 bits with a transparent shade is gray to Pillow and gray with alpha to `image`.
    let is_gray16 = PngHeader::read(bytes).is_some_and(|header| (header.depth, header.color) == (16, 0));
    samples::read("PNG", decoder, limits, orientation(bytes), is_gray16)
}

/// Refuses a palette of no colour, of parts of colours or of more than 256. The decoder takes some of them, and then panics.
fn check_palette(bytes: &[u8]) -> Result<(), RowError> {
    let palette = chunks(bytes).take_while(|(kind, _)| kind != b"IDAT").find(|(kind, _)| kind == b"PLTE");
    let Some((_, data)) = palette else { return Ok(()) };
    let length = data.len();
    if length == 0 || length % 3 != 0 || length > 3 * 256 {
        return Err(corrupt("PNG", format!("expected a palette of 1 to 256 colours of 3 bytes, found {length} bytes")));
    }
    Ok(())
}

/// The samples as the decoder gives them (8 or 16 bits, palettes and transparent colours resolved), converted in place to RGB,
/// and its rows: at most 12, since its buffer grows by doubling.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> Option<DecodeMemory> {
    let PngHeader { width, height, depth, color } = PngHeader::read(bytes)?;
    let transparent = chunks(bytes).take_while(|(kind, _)| kind != b"IDAT").any(|(kind, _)| kind == b"tRNS");
    let channels = match color {
        0 => 1 + u64::from(transparent),
        2 | 3 => 3 + u64::from(transparent),
        4 => 2,
        _ => 4,
    };
    let pixel_bytes = channels * if depth == 16 { 2 } else { 1 };
    let samples = pixels(width, height).saturating_mul(pixel_bytes.max(3));
    let rows = u64::from(width) * pixel_bytes * 12 + (1 << 20);
    Some(DecodeMemory::within(limits, (width, height), samples.saturating_add(rows), orientation(bytes)))
}

/// What the header chunk says.
struct PngHeader {
    width: u32,
    height: u32,
    /// Bits of a sample.
    depth: u8,
    /// 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGBA.
    color: u8,
}

impl PngHeader {
    fn read(bytes: &[u8]) -> Option<Self> {
        // The decoder sees no metadata, and so none before the header.
        let (_, data) = chunks(bytes).find(|(kind, _)| kind == b"IHDR")?;
        let (width, rest) = data.split_first_chunk()?;
        let (height, rest) = rest.split_first_chunk()?;
        let [depth, color, ..] = rest else { return None };
        let (width, height) = (u32::from_be_bytes(*width), u32::from_be_bytes(*height));
        Some(Self { width, height, depth: *depth, color: *color })
    }
}

/// One chunk's type, data and length with frame (length, type and checksum).
fn chunk(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let (length, after) = bytes.split_first_chunk::<4>()?;
    let (kind, after) = after.split_at_checked(4)?;
    let (data, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    after.get(4..)?; // the decoder checks the checksum
    Some((kind, data, data.len() + 12))
}

/// The chunks (type, data) of a PNG file, up to the first damaged one.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (kind, data, length) = chunk(rest)?;
        rest = &rest[length..];
        Some((kind, data))
    })
}

/// Orientation from `eXIf`, else from uncompressed XMP text.
fn orientation(bytes: &[u8]) -> Orientation {
    let (mut exif, mut xmp) = (None, None);
    for (kind, data) in chunks(bytes) {
        match kind {
            b"eXIf" => exif = Some(data),
            b"iTXt" => xmp = data.strip_prefix(b"XML:com.adobe.xmp\0\0").or(xmp),
            _ => {}
        }
    }
    orientation::find(exif, xmp)
}

/// A PNG file without the chunks before its pixels that are metadata: those whose type begins with a small letter, but `tRNS`.
/// What follows the first `IDAT` is left as it is, since the decoder stops where the pixels end.
struct WithoutMetadata<'a> {
    /// Being read.
    current: &'a [u8],
    /// What follows it in the file.
    rest: &'a [u8],
}

impl<'a> WithoutMetadata<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let (current, rest) = bytes.split_at(bytes.len().min(8));
        Self { current, rest }
    }

    /// Moves to the next chunk that is kept.
    fn advance(&mut self) {
        while self.current.is_empty() && !self.rest.is_empty() {
            // The decoder also reports a chunk that is cut off.
            let end = match chunk(self.rest) {
                None | Some((b"IDAT", ..)) => self.rest.len(),
                Some((kind, _, length)) => {
                    let is_metadata = kind[0].is_ascii_lowercase() && kind != b"tRNS";
                    if is_metadata {
                        self.rest = &self.rest[length..];
                        continue;
                    }
                    length
                }
            };
            (self.current, self.rest) = self.rest.split_at(end);
        }
    }
}

impl BufRead for WithoutMetadata<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.advance();
        Ok(self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current = self.current.get(amount..).unwrap_or_default();
    }
}

impl Read for WithoutMetadata<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.advance();
        let count = self.current.read(out)?;
        Ok(count)
    }
}

/// Asked for by the decoder's signature, never used by it.
impl Seek for WithoutMetadata<'_> {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
