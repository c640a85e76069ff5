//! The memory that decoding an image takes, computed from its header.
//!
//! In: the size and the decoder's memory, from the header. Out: [`DecodeMemory`]. The formula of each format is in the file of its
//! decoder. It is an upper bound of what the decoder allocates, with its output and the conversion to RGB, without the encoded bytes,
//! which belong to the caller.

use image::metadata::Orientation;

use super::limits::DecodeLimits;
use super::orientation;

/// The memory that decoding one image takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeMemory {
    /// Columns of the decoded image, upright; 0 of an image that is refused.
    pub width: u32,
    /// Rows of the decoded image, upright; 0 of an image that is refused.
    pub height: u32,
    /// Most bytes held at once until the upright image is there, that image included.
    pub bytes: u64,
}

impl DecodeMemory {
    /// For bytes that are refused before memory is allocated for pixels.
    pub(super) const REFUSED: Self = Self { width: 0, height: 0, bytes: 0 };

    /// For an image of `width` x `height` pixels as it is stored, whose decoder holds at most `decoding` bytes at once. The
    /// image is rotated into a second buffer.
    pub(super) fn new((width, height): (u32, u32), decoding: u64, orientation: Orientation) -> Self {
        let rgb = rgb_bytes(width, height);
        let upright = if orientation == Orientation::NoTransforms { rgb } else { rgb.saturating_mul(2) };
        let (width, height) = if orientation::swaps_sides(orientation) { (height, width) } else { (width, height) };
        Self { width, height, bytes: decoding.max(upright) }
    }

    /// The same for an image that may have more pixels than `limits` allow.
    pub(super) fn within(limits: DecodeLimits, size: (u32, u32), decoding: u64, orientation: Orientation) -> Self {
        match limits.check("", u64::from(size.0), u64::from(size.1)) {
            Ok(()) => Self::new(size, decoding, orientation),
            Err(_) => Self::REFUSED,
        }
    }

    /// For a header that cannot be read here: as much as any image within `limits`.
    pub(super) const fn unknown(limits: DecodeLimits) -> Self {
        Self { width: 0, height: 0, bytes: limits.max_bytes() }
    }
}

/// Bytes of an RGB image.
pub(super) fn rgb_bytes(width: u32, height: u32) -> u64 {
    pixels(width, height).saturating_mul(3)
}

/// Width times height.
pub(super) fn pixels(width: u32, height: u32) -> u64 {
    u64::from(width) * u64::from(height)
}
