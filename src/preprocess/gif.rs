//! GIF bytes in, the first frame out, as Pillow shows it: transparent pixels keep their palette colour, and what the
//! frame does not cover has the transparent colour, else colour 0.

use gif::{ColorOutput, DecodeOptions, MemoryLimit};
use image::metadata::Orientation;

use super::image::RgbImage;
use super::limits::{self, DecodeLimits};
use super::memory::{DecodeMemory, pixels, rgb_bytes};
use crate::row::error::RowError;

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    let corrupt = |found: gif::DecodingError| limits::corrupt("GIF", found);
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(
        std::num::NonZeroU64::new(limits.max_bytes()).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes),
    );
    let mut decoder = options.read_info(bytes).map_err(corrupt)?;
    let (screen_width, screen_height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let Some(frame) = decoder.next_frame_info().map_err(corrupt)?.cloned() else {
        return Err(limits::corrupt("GIF", "the file has no frame"));
    };
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    // A frame that sticks out of the screen enlarges it.
    let (width, height) = (screen_width.max(left + frame_width), screen_height.max(top + frame_height));
    limits.check("GIF", width as u64, height as u64)?;

    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(corrupt)?;
    let palette = colors(frame.palette.as_deref().or(global.as_deref()));
    let background = palette[usize::from(frame.transparent.unwrap_or(0))];
    let mut pixels = background.repeat(width * height);
    if frame_width > 0 {
        for (row, out) in indices.chunks_exact(frame_width).zip(pixels.chunks_exact_mut(3 * width).skip(top)) {
            for (index, pixel) in row.iter().zip(out.as_chunks_mut::<3>().0[left..].iter_mut()) {
                *pixel = palette[usize::from(*index)];
            }
        }
    }
    Ok(RgbImage { width: width as u32, height: height as u32, pixels })
}

/// The canvas as RGB and the first frame's indices; profiles and texts before that frame may be kept.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> Option<DecodeMemory> {
    let side = |bytes: &[u8], at: usize| Some(u32::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let start = first_frame(bytes)?;
    let frame = bytes.get(start..)?;
    let (frame_width, frame_height) = (side(frame, 4)?, side(frame, 6)?);
    let width = side(bytes, 6)?.max(side(frame, 0)? + frame_width);
    let height = side(bytes, 8)?.max(side(frame, 2)? + frame_height);
    let decoding = rgb_bytes(width, height) + pixels(frame_width, frame_height) + start as u64 + (64 << 10);
    Some(DecodeMemory::within(limits, (width, height), decoding, Orientation::NoTransforms))
}

/// The offset of the first frame's position, after the header, the global palette and all extensions before it.
fn first_frame(bytes: &[u8]) -> Option<usize> {
    let flags = *bytes.get(10)?;
    let mut at = 13 + if flags & 0x80 != 0 { 6 << (flags & 7) } else { 0 };
    loop {
        match *bytes.get(at)? {
            b',' => return Some(at + 1),
            b'!' => {
                at += 2;
                loop {
                    let length = usize::from(*bytes.get(at)?);
                    at += 1 + length;
                    if length == 0 {
                        break;
                    }
                }
            }
            _ => return None,
        }
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
