//! BMP bytes in, an RGB image out, as Pillow's `BmpImagePlugin` reads them: its headers, its bit fields, its run lengths and its
//! idea of which palettes are gray. The format is small, and the decoders of other libraries differ in all of these.

use image::metadata::Orientation;

use super::image::RgbImage;
use super::limits::{DecodeLimits, corrupt, fail};
use super::memory::{DecodeMemory, pixels, rgb_bytes};
use crate::row::error::{ErrorKind, RowError};

const RAW: u32 = 0;
const RLE8: u32 = 1;
const RLE4: u32 = 2;
const FIELDS: u32 = 3;

/// Masks of red, green, blue and alpha, and where each colour lies in the four bytes of a pixel.
const FIELDS_OF_32: [([u32; 4], [usize; 3]); 8] = [
    ([0x00ff_0000, 0xff00, 0xff, 0], [2, 1, 0]),
    ([0xff00_0000, 0x00ff_0000, 0xff00, 0], [3, 2, 1]),
    ([0xff00_0000, 0xff00, 0xff, 0], [3, 1, 0]),
    ([0xff00_0000, 0x00ff_0000, 0xff00, 0xff], [3, 2, 1]),
    ([0xff, 0xff00, 0x00ff_0000, 0xff00_0000], [0, 1, 2]),
    ([0x00ff_0000, 0xff00, 0xff, 0xff00_0000], [2, 1, 0]),
    ([0xff00_0000, 0xff00, 0xff, 0x00ff_0000], [3, 1, 0]),
    ([0, 0, 0, 0], [2, 1, 0]),
];

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    let header = Header::read(bytes)?;
    let Header { width, height, .. } = header;
    limits.check("BMP", u64::from(width), u64::from(height))?;
    if width == 0 || height == 0 {
        return Err(corrupt("BMP", format!("the header says {width} x {height} pixels")));
    }
    let samples = Samples::of(&header, bytes)?;
    let mut image = vec![0; rgb_bytes(width, height) as usize];
    let data = bytes.get(header.offset..).unwrap_or_default();
    if header.compression == RLE8 || header.compression == RLE4 {
        let Samples::Palette(colors) = &samples else {
            return Err(unsupported("run lengths of colours"));
        };
        let indices = run_lengths(data, header.offset, (width, height), header.compression == RLE4);
        if indices.len() < pixels(width, height) as usize {
            return Err(truncated(bytes));
        }
        for (row, line) in indices.chunks_exact(width as usize).enumerate().take(height as usize) {
            for (pixel, index) in header.row(&mut image, row).as_chunks_mut::<3>().0.iter_mut().zip(line) {
                *pixel = colors[usize::from(*index)];
            }
        }
        return Ok(RgbImage { width, height, pixels: image });
    }
    // The padding behind the last row may be missing.
    let stride = (u64::from(width) * u64::from(header.bits)).div_ceil(32) * 4;
    let used = (u64::from(width) * u64::from(header.bits)).div_ceil(8);
    if stride * (u64::from(height) - 1) + used > data.len() as u64 {
        return Err(truncated(bytes));
    }
    for row in 0..height as usize {
        let line = &data[row * stride as usize..][..used as usize];
        samples.unpack(header.bits, line, header.row(&mut image, row));
    }
    Ok(RgbImage { width, height, pixels: image })
}

/// RGB, and, of run lengths, the indices.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> DecodeMemory {
    let Ok(Header { width, height, .. }) = Header::read(bytes) else { return DecodeMemory::REFUSED };
    let decoding = rgb_bytes(width, height).saturating_add(pixels(width, height)).saturating_add(64 << 10);
    DecodeMemory::within(limits, (width, height), decoding, Orientation::NoTransforms)
}

/// What the header says.
struct Header {
    width: u32,
    height: u32,
    is_top_down: bool,
    bits: u16,
    compression: u32,
    /// Red, green, blue and alpha, of `FIELDS`.
    masks: [u32; 4],
    /// Where the palette begins, and the bytes and number of its colours.
    palette: (usize, usize, u32),
    /// Where the pixels begin.
    offset: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, RowError> {
        Self::fields(bytes).ok_or_else(|| truncated(bytes))?
    }

    /// None if the bytes end within it.
    fn fields(bytes: &[u8]) -> Option<Result<Self, RowError>> {
        let word = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map(|word| u32::from_le_bytes(*word));
        let half = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map(|half| u16::from_le_bytes(*half));
        let size = word(14)? as usize;
        bytes.get(..14 + size)?;
        let mut offset = word(10)? as usize;
        let mut end = 14 + size;
        let mut header = if size == 12 {
            let (width, height) = (u32::from(half(18)?), u32::from(half(20)?));
            let bits = half(24)?;
            let palette = (end, 3, 0);
            Self { width, height, is_top_down: false, bits, compression: RAW, masks: [0; 4], palette, offset }
        } else if matches!(size, 40 | 52 | 56 | 64 | 108 | 124) {
            // Pillow takes a height for negative by its highest byte alone.
            let is_top_down = *bytes.get(25)? == 0xff;
            let height = word(22)?;
            let height = if is_top_down { height.wrapping_neg() } else { height };
            let (width, bits, compression, colors) = (word(18)?, half(28)?, word(30)?, word(46)?);
            let mut masks = [0; 4];
            if compression == FIELDS {
                let count = if size >= 56 { 4 } else { 3 };
                for (mask, at) in masks.iter_mut().zip((54..).step_by(4)).take(count) {
                    *mask = word(at)?;
                }
                if size == 40 {
                    end += 12;
                }
            }
            Self { width, height, is_top_down, bits, compression, masks, palette: (end, 4, colors), offset }
        } else {
            return Some(Err(unsupported(&format!("a header of {size} bytes"))));
        };
        let Self { bits, compression, masks, palette: (_, padding, colors), .. } = header;
        if !matches!(bits, 1 | 4 | 8 | 16 | 24 | 32) {
            return Some(Err(unsupported(&format!("{bits} bits a pixel"))));
        }
        if compression > FIELDS {
            return Some(Err(unsupported(&format!("compression {compression}"))));
        }
        let colors = match colors {
            0 => 1_u32.checked_shl(u32::from(bits)).unwrap_or(0),
            colors => colors,
        };
        if offset == 14 + size && bits <= 8 {
            offset = offset.saturating_add(padding.saturating_mul(colors as usize));
        }
        if bits <= 8 {
            if colors == 0 || colors > 65536 {
                return Some(Err(unsupported(&format!("a palette of {colors} colours"))));
            }
            if compression == FIELDS {
                return Some(Err(unsupported("bit fields of a palette")));
            }
        }
        let is_known = match bits {
            32 => FIELDS_OF_32.iter().any(|(known, _)| *known == masks),
            24 => masks[..3] == [0x00ff_0000, 0xff00, 0xff],
            16 => matches!(masks[..3], [0xf800, 0x7e0, 0x1f] | [0x7c00, 0x3e0, 0x1f]),
            _ => true,
        };
        if compression == FIELDS && !is_known {
            return Some(Err(unsupported(&format!(
                "bit fields {:x}, {:x}, {:x} and {:x}",
                masks[0], masks[1], masks[2], masks[3]
            ))));
        }
        header.palette.2 = colors;
        let read = if bits <= 8 { end.saturating_add(padding * colors as usize).min(bytes.len()) } else { end };
        header.offset = if offset == 0 { read } else { offset };
        Some(Ok(header))
    }

    /// Row `number` of those stored, in the image.
    fn row<'a>(&self, image: &'a mut [u8], number: usize) -> &'a mut [u8] {
        let row = if self.is_top_down { number } else { self.height as usize - 1 - number };
        &mut image[row * 3 * self.width as usize..][..3 * self.width as usize]
    }
}

/// What the bits of a pixel mean.
enum Samples {
    Palette(Box<[[u8; 3]; 256]>),
    /// One bit, two colours.
    Bytes([usize; 3]),
    /// Shift and largest value of each colour in 16 bits.
    Fields([(u32, u32); 3]),
}

impl Samples {
    fn of(header: &Header, bytes: &[u8]) -> Result<Self, RowError> {
        Ok(match header.bits {
            16 if header.masks[0] == 0xf800 => Self::Fields([(11, 31), (5, 63), (0, 31)]),
            16 => Self::Fields([(10, 31), (5, 31), (0, 31)]),
            32 if header.compression == FIELDS => {
                let known = FIELDS_OF_32.iter().find(|(masks, _)| *masks == header.masks);
                Self::Bytes(known.ok_or_else(|| unsupported("these bit fields"))?.1)
            }
            24 | 32 => Self::Bytes([2, 1, 0]),
            _ => Self::Palette(palette(header, bytes)?),
        })
    }

    /// One row of RGB.
    fn unpack(&self, bits: u16, line: &[u8], row: &mut [u8]) {
        let row = row.as_chunks_mut::<3>().0;
        match self {
            Self::Palette(colors) => {
                let bits = usize::from(bits);
                for (x, pixel) in row.iter_mut().enumerate() {
                    let byte = line[x * bits / 8];
                    let index = byte >> (8 - bits - x * bits % 8) & (0xff >> (8 - bits));
                    *pixel = colors[usize::from(index)];
                }
            }
            Self::Bytes(order) => {
                for (pixel, stored) in row.iter_mut().zip(line.chunks_exact(usize::from(bits / 8))) {
                    *pixel = order.map(|at| stored[at]);
                }
            }
            Self::Fields(fields) => {
                for (pixel, stored) in row.iter_mut().zip(line.as_chunks().0) {
                    let stored = u32::from(u16::from_le_bytes(*stored));
                    *pixel = fields.map(|(shift, most)| ((stored >> shift & most) * 255 / most) as u8);
                }
            }
        }
    }
}

/// All 256 colours. A palette whose colours are 0, 1, 2, ... (or black and white) is dropped by Pillow, which then takes the file's
/// bytes for shades, of whatever number of bits.
fn palette(header: &Header, bytes: &[u8]) -> Result<Box<[[u8; 3]; 256]>, RowError> {
    let (start, padding, count) = header.palette;
    let data = bytes.get(start..).unwrap_or_default();
    let data = &data[..data.len().min(padding * count as usize)];
    let shade = |index: usize| if count == 2 { index * 255 } else { index };
    let is_gray = (0..count as usize).all(|index| {
        let stored = data.get(index * padding..).unwrap_or_default();
        let stored = &stored[..stored.len().min(3)];
        // Pillow's bytes of a shade above 255 are those of its low byte.
        stored == [(shade(index) & 255) as u8; 3]
    });
    let mut colors = Box::new([[0; 3]; 256]);
    if is_gray {
        let is_bilevel = count <= 2;
        if header.compression == RAW && (is_bilevel != (header.bits == 1)) {
            // Pillow reads such rows as if they had as many bits as its mode.
            return Err(unsupported(&format!("a gray palette of {count} colours for {} bits a pixel", header.bits)));
        }
        if header.compression == RAW && header.bits == 4 {
            return Err(unsupported("a gray palette for 4 bits a pixel"));
        }
        for (index, color) in colors.iter_mut().enumerate() {
            *color = [if is_bilevel && index > 0 { 255 } else { index as u8 }; 3];
        }
        return Ok(colors);
    }
    for (color, stored) in colors.iter_mut().zip(data.chunks_exact(padding)) {
        *color = [stored[2], stored[1], stored[0]];
    }
    Ok(colors)
}

/// The indices of an image in run lengths, in the order of the file; too few if the data ends early. `offset` is where `data` begins
/// in the file: Pillow aligns literal runs to even places there.
fn run_lengths(data: &[u8], offset: usize, (width, height): (u32, u32), is_rle4: bool) -> Vec<u8> {
    let (width, most) = (width as usize, pixels(width, height) as usize);
    let (mut out, mut at, mut x) = (Vec::new(), 0, 0);
    while out.len() < most {
        let Some([count, value]) = data.get(at..at + 2) else { break };
        let value = *value;
        at += 2;
        match (*count, value) {
            (0, 0) => {
                out.resize(out.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => break,
            (0, 2) => {
                let Some([right, up]) = data.get(at..at + 2) else { break };
                at += 2;
                let skipped = usize::from(*right) + usize::from(*up) * width;
                out.resize(out.len() + skipped.min(most - out.len()), 0);
                x = out.len() % width;
            }
            (0, literal) => {
                let count = usize::from(literal).min(most - out.len());
                let stored = if is_rle4 { count.div_ceil(2) } else { count };
                let found = data.get(at..).unwrap_or_default();
                let found = &found[..found.len().min(stored)];
                at += found.len();
                if is_rle4 {
                    for (number, byte) in found.iter().enumerate() {
                        out.push(byte >> 4);
                        if number * 2 + 1 < count {
                            out.push(byte & 15);
                        }
                    }
                } else {
                    out.extend_from_slice(found);
                }
                if found.len() < stored || out.len() == most {
                    break;
                }
                x += usize::from(literal);
                at += (offset + at) % 2;
            }
            (count, value) => {
                let count = usize::from(count).min(width.saturating_sub(x));
                let both = [value >> 4, value & 15];
                out.extend((0..count).map(|number| if is_rle4 { both[number % 2] } else { value }));
                x += count;
            }
        }
    }
    out
}

fn truncated(bytes: &[u8]) -> RowError {
    corrupt("BMP", format!("the file is truncated, it has {} bytes", bytes.len()))
}

fn unsupported(found: &str) -> RowError {
    fail(
        ErrorKind::UnsupportedFormat,
        format!(
            "expected BMP of 1, 4, 8, 16, 24 or 32 bits a pixel in the usual layouts, found {found}\nhint: convert the image to 24-bit RGB"
        ),
    )
}
