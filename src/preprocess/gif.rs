//! GIF bytes in, the first frame out, as Pillow's `GifImagePlugin` shows it: transparent pixels keep their palette colour, and what
//! the frame does not cover has the transparent colour, else colour 0. What lies between blocks, and which damage is forgiven, is
//! Pillow's idea too, which no library shares.

use image::metadata::Orientation;

use super::image::RgbImage;
use super::limits::{DecodeLimits, corrupt};
use super::memory::{DecodeMemory, pixels, rgb_bytes};
use crate::row::error::RowError;

/// Codes that the table holds, and bytes that one code stands for.
const TABLE: usize = 1 << 12;

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    let frame = Frame::first(bytes).ok_or_else(|| corrupt("GIF", "the file has no whole frame header"))?;
    let (width, height) = frame.canvas;
    limits.check("GIF", width as u64, height as u64)?;
    let (frame_width, frame_height) = frame.size;
    if frame_width == 0 || frame_height == 0 {
        return Err(corrupt("GIF", format!("its frame has {frame_width} x {frame_height} pixels")));
    }
    let indices = unpack(&frame).ok_or_else(|| corrupt("GIF", "the pixels are truncated or damaged"))?;
    let colors = colors(frame.palette);
    let background = colors[usize::from(frame.transparent.unwrap_or(0))];
    let mut pixels = background.repeat(width * height);
    let (left, top) = frame.position;
    for (row, out) in indices.chunks_exact(frame_width).zip(pixels.chunks_exact_mut(3 * width).skip(top)) {
        for (index, pixel) in row.iter().zip(out.as_chunks_mut::<3>().0[left..].iter_mut()) {
            *pixel = colors[usize::from(*index)];
        }
    }
    Ok(RgbImage { width: width as u32, height: height as u32, pixels })
}

/// The canvas as RGB and the first frame's indices.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> DecodeMemory {
    let Some(frame) = Frame::first(bytes) else { return DecodeMemory::REFUSED };
    let side = |(width, height): (usize, usize)| (width as u32, height as u32);
    let (canvas, size) = (side(frame.canvas), side(frame.size));
    let decoding = rgb_bytes(canvas.0, canvas.1) + pixels(size.0, size.1) + (64 << 10);
    DecodeMemory::within(limits, canvas, decoding, Orientation::NoTransforms)
}

/// The first frame. Lengths in pixels.
struct Frame<'a> {
    canvas: (usize, usize),
    position: (usize, usize),
    size: (usize, usize),
    is_interlaced: bool,
    transparent: Option<u8>,
    /// None: shades of gray.
    palette: Option<&'a [u8]>,
    /// Bits of an index.
    bits: u8,
    /// The blocks of codes, up to the end of the file.
    data: &'a [u8],
}

impl<'a> Frame<'a> {
    /// None if the file ends before its pixels.
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader { bytes };
        let screen = reader.exact(13)?;
        let half = |bytes: &[u8], at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let (screen_width, screen_height, flags) = (half(screen, 6), half(screen, 8), screen[10]);
        let global = if flags & 0x80 == 0 { None } else { palette(reader.up_to(6 << (flags & 7)))? };
        let mut transparent = None;
        if bytes.get(13 + if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) })? == &b';' {
            return None;
        }
        loop {
            match reader.byte()? {
                b';' => return None,
                b'!' => {
                    let kind = reader.byte()?;
                    let mut block = reader.block();
                    match (kind, block) {
                        (0xf9, Some(control)) => {
                            let [flags, _, _, rest @ ..] = control else { return None };
                            if flags & 1 == 1 {
                                transparent = Some(*rest.first()?);
                            }
                        }
                        // Nothing is read behind the end of a comment.
                        (0xfe, _) => {
                            while block.is_some_and(|block| !block.is_empty()) {
                                block = reader.block();
                            }
                            continue;
                        }
                        _ => {}
                    }
                    if kind == 0xff && block.is_some_and(|block| block.starts_with(b"NETSCAPE2.0")) {
                        reader.block();
                    }
                    while reader.block().is_some_and(|block| !block.is_empty()) {}
                }
                b',' => {
                    let header = reader.exact(9)?;
                    let (position, size) = ((half(header, 0), half(header, 2)), (half(header, 4), half(header, 6)));
                    let flags = header[8];
                    let local = if flags & 0x80 == 0 { None } else { palette(reader.up_to(6 << (flags & 7)))? };
                    // A local palette of shades leaves the image with the global one.
                    let palette = local.or(global);
                    let bits = reader.byte()?;
                    // A frame that sticks out of the screen enlarges it.
                    let canvas = (screen_width.max(position.0 + size.0), screen_height.max(position.1 + size.1));
                    let is_interlaced = flags & 0x40 != 0;
                    return Some(Self {
                        canvas,
                        position,
                        size,
                        is_interlaced,
                        transparent,
                        palette,
                        bits,
                        data: reader.bytes,
                    });
                }
                _ => {}
            }
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        self.exact(1).map(|byte| byte[0])
    }

    fn exact(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    /// Fewer where the file ends.
    fn up_to(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// The next block of data, without its length. None: it is empty.
    fn block(&mut self) -> Option<&'a [u8]> {
        let length = self.byte().filter(|length| *length > 0)?;
        Some(self.up_to(usize::from(length)))
    }
}

/// A palette, None inside if its colours are the shades 0, 1, 2, ... None outside if it ends within a colour.
#[allow(clippy::option_option, reason = "the outer one is for `?`")]
fn palette(bytes: &[u8]) -> Option<Option<&[u8]>> {
    for (index, color) in bytes.chunks(3).enumerate() {
        if color.iter().any(|value| usize::from(*value) != index) {
            return Some(Some(bytes));
        }
        if color.len() < 3 {
            return None;
        }
    }
    Some(None)
}

/// The indices of the frame, row by row; None if they are damaged or too few.
fn unpack(frame: &Frame) -> Option<Vec<u8>> {
    if frame.bits > 12 {
        return None;
    }
    let (width, height) = frame.size;
    let mut rows = Rows::new(height, frame.is_interlaced);
    let (mut out, mut x, mut y) = (vec![0; width * height], 0, rows.next()?);
    let (clear, end) = (1_usize << frame.bits, (1_usize << frame.bits) + 1);
    let first_bits = u32::from(frame.bits) + 1;
    // A code is the string of the code `link` and the byte `data`. Strings are unrolled from their ends.
    let (mut link, mut data) = (vec![0_u16; TABLE], vec![0_u8; TABLE]);
    let mut string = Vec::with_capacity(TABLE + 1);
    let (mut next, mut bits, mut last, mut last_byte) = (clear + 2, first_bits, None, 0);
    let (mut source, mut block, mut buffer, mut count) = (frame.data, &[][..], 0_u32, 0);
    loop {
        while count < bits {
            if let [byte, rest @ ..] = block {
                buffer |= u32::from(*byte) << count;
                count += 8;
                block = rest;
            } else {
                // A block that is cut off is not used at all.
                let (length, rest) = source.split_first()?;
                (block, source) = rest.split_at_checked(usize::from(*length))?;
            }
        }
        let code = buffer as usize & ((1 << bits) - 1);
        buffer >>= bits;
        count -= bits;
        if code == clear {
            (next, bits, last) = (clear + 2, first_bits, None);
            continue;
        }
        if code == end {
            return None;
        }
        string.clear();
        if let Some(previous) = last {
            if code > next {
                return None;
            }
            let mut at = code;
            if code == next {
                string.push(last_byte);
                at = previous;
            }
            while at >= clear {
                if string.len() >= TABLE || at >= TABLE {
                    return None;
                }
                string.push(data[at]);
                at = usize::from(link[at]);
            }
            last_byte = at as u8;
            if next < TABLE {
                (data[next], link[next]) = (last_byte, previous as u16);
                if next + 1 == 1 << bits && bits < 12 {
                    bits += 1;
                }
                next += 1;
            }
        } else {
            if code > clear {
                return None;
            }
            last_byte = code as u8;
        }
        last = Some(code);
        string.push(last_byte);
        for index in string.iter().rev() {
            out[y * width + x] = *index;
            x += 1;
            if x == width {
                let Some(row) = rows.next() else { return Some(out) };
                (x, y) = (0, row);
            }
        }
    }
}

/// The rows of a frame in the order of the file.
struct Rows {
    next: usize,
    height: usize,
    step: usize,
    /// Where later passes of an interlaced frame begin, and their steps.
    passes: &'static [(usize, usize)],
}

impl Rows {
    fn new(height: usize, is_interlaced: bool) -> Self {
        let (step, passes): (_, &[(usize, usize)]) =
            if is_interlaced { (8, &[(4, 8), (2, 4), (1, 2)]) } else { (1, &[]) };
        Self { next: 0, height, step, passes }
    }
}

impl Iterator for Rows {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.next >= self.height {
            let [(start, step), passes @ ..] = self.passes else { return None };
            (self.next, self.step, self.passes) = (*start, *step, passes);
        }
        let row = self.next;
        self.next += self.step;
        Some(row)
    }
}

/// All 256 colours: the palette's own, then black; without a palette, shades of gray.
fn colors(palette: Option<&[u8]>) -> [[u8; 3]; 256] {
    let mut colors: [[u8; 3]; 256] = std::array::from_fn(|shade| [shade as u8; 3]);
    if let Some(palette) = palette {
        let own = palette.as_chunks::<3>().0;
        for (index, color) in colors.iter_mut().enumerate() {
            *color = own.get(index).copied().unwrap_or([0; 3]);
        }
    }
    colors
}
