//! Encoded image bytes in, an upright RGB image out. The format is recognised by the bytes, never by a name. The pixel
//! count is read from the header and checked before memory is allocated for pixels; [`memory_needed`] says how much that will be.
//!
//! There is no time limit, since a decoder cannot be interrupted. Its work is bounded by the number of pixels, for JPEG by the number
//! of scans, and otherwise by the number of encoded bytes.

use super::image::RgbImage;
use super::limits::{DecodeLimits, Decoded, fail};
use super::memory::DecodeMemory;
use super::scale::JpegScale;
use super::{avif, bmp, gif, jpeg, png, tiff, webp};
use crate::row::error::{ErrorKind, RowError};

/// Decodes JPEG, PNG, GIF (first frame), WebP (first frame), BMP, TIFF (first page) or AVIF (first frame), rotates it upright as its EXIF (or
/// XMP) says and converts it to RGB as Pillow's `convert("RGB")` does: alpha is dropped, CMYK and palettes are resolved,
/// 16-bit gray is clipped at 255, 16-bit colour keeps its high byte.
///
/// # Errors
/// A permanent [`RowError`] of stage `preprocess`: `corrupt_image` (empty, truncated, damaged, or a JPEG of more scans than any
/// encoder writes), `unsupported_format` (the message shows the first bytes) or `too_many_pixels`.
pub fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    decode_scaled(bytes, limits, |_, _| JpegScale::Full).map(|decoded| decoded.image)
}

/// Like [`decode()`], but a JPEG comes at the scale that `scale` answers to its full width and height in pixels, after EXIF
/// rotation: the bytes that Pillow gives after `Image.draft`. Lossless JPEGs and the other formats come as they are. The limits
/// are those of the full image.
///
/// # Errors
/// As [`decode()`].
pub fn decode_scaled(
    bytes: &[u8],
    limits: DecodeLimits,
    scale: impl FnOnce(u32, u32) -> JpegScale,
) -> Result<Decoded, RowError> {
    let Some(format) = Format::of(bytes) else { return Err(unsupported(bytes)) };
    match format {
        Format::Jpeg => return jpeg::decode(bytes, limits, scale),
        Format::Png => png::decode(bytes, limits),
        Format::Gif => gif::decode(bytes, limits),
        Format::WebP => webp::decode(bytes, limits),
        Format::Bmp => bmp::decode(bytes, limits),
        Format::Tiff => tiff::decode(bytes, limits),
        Format::Avif => avif::decode(bytes, limits),
    }
    .map(Decoded::from)
}

/// The most memory that [`decode_scaled`] of the same arguments takes. Reads no more than headers.
pub fn memory_needed(bytes: &[u8], limits: DecodeLimits, scale: impl FnOnce(u32, u32) -> JpegScale) -> DecodeMemory {
    let Some(format) = Format::of(bytes) else { return DecodeMemory::REFUSED };
    let memory = match format {
        Format::Jpeg => jpeg::memory(bytes, limits, scale),
        Format::Png => png::memory(bytes, limits),
        Format::Gif => Some(gif::memory(bytes, limits)),
        Format::WebP => webp::memory(bytes, limits),
        Format::Bmp => Some(bmp::memory(bytes, limits)),
        Format::Tiff => tiff::memory(bytes, limits),
        Format::Avif => avif::memory(bytes, limits),
    };
    memory.unwrap_or_else(|| DecodeMemory::unknown(limits))
}

/// The formats that are decoded.
enum Format {
    Jpeg,
    Png,
    Gif,
    WebP,
    Bmp,
    Tiff,
    Avif,
}

impl Format {
    /// The format of an image with these first bytes.
    fn of(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [0xff, 0xd8, 0xff, ..] => Self::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Self::Png,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Self::WebP,
            [b'B', b'M', _, _, _, _, _, _, _, _, _, _, _, _, 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0, ..] => {
                Self::Bmp
            }
            // The magic number in the wrong byte order too, as Pillow reads it.
            [b'I', b'I', 42 | 43, 0, ..]
            | [b'I', b'I', 0, 42, ..]
            | [b'M', b'M', 0, 42 | 43, ..]
            | [b'M', b'M', 42, 0, ..] => Self::Tiff,
            _ if avif::is_avif(bytes) => Self::Avif,
            _ => return None,
        })
    }
}

/// Names the format of `bytes` if it is a known one, and shows how they begin.
fn unsupported(bytes: &[u8]) -> RowError {
    let name = match bytes {
        [] => return fail(ErrorKind::CorruptImage, "the file is empty (0 bytes), expected an encoded image"),
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', ..] => " (HEIF)",
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => " (JPEG XL)",
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => " (JPEG 2000)",
        [b'%', b'P', b'D', b'F', ..] => " (PDF)",
        [b'8', b'B', b'P', b'S', ..] => " (Photoshop)",
        [0, 0, 1, 0, ..] => " (icon)",
        [b'<', ..] => " (SVG, HTML or XML)",
        _ => "",
    };
    let start: Vec<String> = bytes.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let text: String =
        bytes.iter().take(12).map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
    let found = start.join(" ");
    fail(
        ErrorKind::UnsupportedFormat,
        format!(
            "expected JPEG, PNG, GIF, WebP, BMP, TIFF or AVIF, found{name} {} bytes that begin with {found} (\"{text}\")\n\
             hint: the format is recognised by content, not by the file's name; convert the image to JPEG or PNG, with Pillow (JPEG \
             2000) or ImageMagick (HEIF, JPEG XL) for instance",
            bytes.len()
        ),
    )
}
