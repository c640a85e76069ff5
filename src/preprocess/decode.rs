//! Encoded image bytes in, an upright RGB picture out. The format is told by the bytes, never by a name; the pixel count
//! is read from the header and checked before memory is taken for pixels.

use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::{JpegScale, RgbImage, gif, jpeg, orientation, png};
use crate::row_error::{ErrorKind, RowError, Stage};

/// Bytes a decoder may take beyond its pixels: metadata, tables, rows.
const SCRATCH_BYTES: u64 = 64 << 20;

/// What one image may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels (width times height, as the header states them).
    pub max_image_pixels: u64,
}

impl DecodeLimits {
    /// Refuses a picture without pixels or with more than the limit.
    pub(super) fn check(self, format: &str, width: u64, height: u64) -> Result<(), RowError> {
        let pixels = width.saturating_mul(height);
        if pixels == 0 {
            let found = format!("expected a {format} picture with pixels, its header says {width} x {height}");
            return Err(fail(ErrorKind::CorruptImage, found));
        }
        if pixels > self.max_image_pixels {
            let allowed = self.max_image_pixels;
            let found = format!(
                "the {format} header says {width} x {height} = {pixels} pixels, allowed are {allowed}\n\
                 hint: raise limits.max_image_pixels if such pictures are expected"
            );
            return Err(fail(ErrorKind::TooManyPixels, found));
        }
        Ok(())
    }

    /// Bytes that decoding an image within the limit may take: 8 a pixel (16-bit RGBA) and some scratch space.
    pub(super) const fn max_bytes(self) -> u64 {
        self.max_image_pixels.saturating_mul(8).saturating_add(SCRATCH_BYTES)
    }
}

/// A decoded picture, and how large it is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The pixels, upright; of a JPEG perhaps fewer than the file has.
    pub image: RgbImage,
    /// Columns of the full picture, in pixels, after EXIF rotation.
    pub full_width: u32,
    /// Rows of the full picture, in pixels, after EXIF rotation.
    pub full_height: u32,
}

impl From<RgbImage> for Decoded {
    fn from(image: RgbImage) -> Self {
        Self { full_width: image.width, full_height: image.height, image }
    }
}

/// A failure of this stage.
pub(super) fn fail(kind: ErrorKind, message: impl Into<String>) -> RowError {
    RowError::new(Stage::Preprocess, kind, message)
}

/// Bytes that claim to be `format` and are not.
pub(super) fn corrupt(format: &str, found: impl std::fmt::Display) -> RowError {
    fail(ErrorKind::CorruptImage, format!("expected a complete {format} image, but decoding failed: {found}"))
}

/// Decodes JPEG, PNG, GIF (first frame), WebP (first frame), BMP or TIFF (first page), turns it upright as its EXIF (or
/// XMP) says and converts it to RGB as Pillow's `convert("RGB")` does: alpha is dropped, CMYK and palettes are resolved,
/// 16-bit gray is clipped at 255, 16-bit colour keeps its high byte.
///
/// # Errors
/// A permanent [`RowError`] of stage `preprocess`: `corrupt_image` (empty, truncated or damaged), `unsupported_format`
/// (the message shows the first bytes) or `too_many_pixels`.
pub fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    decode_scaled(bytes, limits, |_, _| JpegScale::Full).map(|decoded| decoded.image)
}

/// Like [`decode()`], but a JPEG comes at the scale that `scale` answers to its full width and height in pixels, after EXIF
/// rotation: the bytes that Pillow gives after `Image.draft`. Lossless JPEGs and the other formats come as they are. The limits
/// are those of the full picture.
///
/// # Errors
/// As [`decode()`].
pub fn decode_scaled(
    bytes: &[u8],
    limits: DecodeLimits,
    scale: impl FnOnce(u32, u32) -> JpegScale,
) -> Result<Decoded, RowError> {
    if let [0xff, 0xd8, 0xff, ..] = bytes {
        return jpeg::decode(bytes, limits, scale);
    }
    decode_other(bytes, limits).map(Decoded::from)
}

/// Decodes every format but JPEG.
fn decode_other(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    match bytes {
        [] => Err(fail(ErrorKind::CorruptImage, "the file is empty (0 bytes), expected an encoded image")),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => {
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), memory(limits)).map_err(|e| refuse("PNG", &e))?;
            // Gray of 16 bits with a transparent shade is gray to Pillow and gray with alpha to `image`.
            let gray16 = png::is_gray16(bytes);
            finish("PNG", decoder, limits, png::orientation(bytes), gray16)
        }
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif::decode(bytes, limits),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
            let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| refuse("WebP", &e))?;
            let (exif, xmp) = (decoder.exif_metadata().ok().flatten(), decoder.xmp_metadata().ok().flatten());
            let orientation = orientation::find(exif.as_deref(), xmp.as_deref());
            finish("WebP", decoder, limits, orientation, false)
        }
        [b'B', b'M', _, _, _, _, _, _, _, _, _, _, _, _, 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0, ..] => {
            let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|e| refuse("BMP", &e))?;
            finish("BMP", decoder, limits, Orientation::NoTransforms, false)
        }
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => {
            let mut decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(|e| refuse("TIFF", &e))?;
            let upright = decoder.orientation().unwrap_or(Orientation::NoTransforms);
            finish("TIFF", decoder, limits, upright, true)
        }
        _ => Err(unsupported(bytes)),
    }
}

/// Decodes the pixels of a format that the `image` crate reads. `clip` says that 16-bit gray is clipped, not scaled.
fn finish(
    format: &str,
    mut decoder: impl ImageDecoder,
    limits: DecodeLimits,
    orientation: Orientation,
    clip: bool,
) -> Result<RgbImage, RowError> {
    let (width, height) = decoder.dimensions();
    limits.check(format, u64::from(width), u64::from(height))?;
    decoder.set_limits(memory(limits)).map_err(|e| refuse(format, &e))?;
    let color = decoder.color_type();
    let mut samples = vec![0; usize::try_from(decoder.total_bytes()).map_err(|e| corrupt(format, e))?];
    decoder.read_image(&mut samples).map_err(|e| refuse(format, &e))?;
    let pixels = to_rgb(samples, color, clip).ok_or_else(|| {
        let found =
            format!("expected {format} samples of 8 or 16 bits, found {color:?}\nhint: convert the image to 8-bit RGB");
        fail(ErrorKind::UnsupportedFormat, found)
    })?;
    Ok(orientation::apply(RgbImage { width, height, pixels }, orientation))
}

/// Interleaved RGB from samples in native byte order; none for floats.
fn to_rgb(samples: Vec<u8>, color: ColorType, clip: bool) -> Option<Vec<u8>> {
    /// The 16-bit samples' high bytes.
    fn high(samples: &[u8]) -> Vec<u8> {
        samples.as_chunks::<2>().0.iter().map(|pair| (u16::from_ne_bytes(*pair) >> 8) as u8).collect()
    }
    /// The 16-bit samples, at most 255.
    fn clipped(samples: &[u8]) -> Vec<u8> {
        samples.as_chunks::<2>().0.iter().map(|pair| u16::from_ne_bytes(*pair).min(255) as u8).collect()
    }
    Some(match color {
        ColorType::Rgb8 => samples,
        ColorType::Rgba8 => samples.as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]).collect(),
        ColorType::L8 => samples.iter().flat_map(|gray| [*gray; 3]).collect(),
        ColorType::La8 => samples.as_chunks::<2>().0.iter().flat_map(|[gray, _]| [*gray; 3]).collect(),
        ColorType::L16 if clip => to_rgb(clipped(&samples), ColorType::L8, clip)?,
        ColorType::La16 if clip => to_rgb(clipped(&samples), ColorType::La8, clip)?,
        ColorType::L16 => to_rgb(high(&samples), ColorType::L8, clip)?,
        ColorType::La16 => to_rgb(high(&samples), ColorType::La8, clip)?,
        ColorType::Rgb16 => high(&samples),
        ColorType::Rgba16 => to_rgb(high(&samples), ColorType::Rgba8, clip)?,
        _ => return None,
    })
}

fn memory(limits: DecodeLimits) -> Limits {
    let mut memory = Limits::no_limits();
    memory.max_alloc = Some(limits.max_bytes());
    memory
}

/// What the `image` crate's error means for the row.
fn refuse(format: &str, error: &ImageError) -> RowError {
    match error {
        ImageError::Limits(_) => {
            let found =
                format!("decoding this {format} image takes more memory than limits.max_image_pixels allows: {error}");
            fail(ErrorKind::TooManyPixels, found)
        }
        ImageError::Unsupported(_) => fail(
            ErrorKind::UnsupportedFormat,
            format!("this variant of {format} is not supported: {error}\nhint: convert the image to 8-bit RGB"),
        ),
        _ => corrupt(format, error),
    }
}

/// Names the format of `bytes` if it is a known one, and shows how they begin.
fn unsupported(bytes: &[u8]) -> RowError {
    let name = match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => " (AVIF)",
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
            "expected JPEG, PNG, GIF, WebP, BMP or TIFF, found{name} {} bytes that begin with {found} (\"{text}\")\n\
             hint: the format is told by content, not by the file's name; convert the image",
            bytes.len()
        ),
    )
}
