//! A decoder of the `image` crate in, an upright RGB image out. The conversion to 8-bit RGB happens inside the decoder's own
//! output buffer, so that no second image is held.

use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::image::RgbImage;
use super::limits::{DecodeLimits, corrupt, fail};
use super::orientation;
use crate::row::error::{ErrorKind, RowError};

/// Decodes the pixels of `decoder`. `clip` says that 16-bit gray is clipped at 255, not scaled.
pub(super) fn read(
    format: &str,
    mut decoder: impl ImageDecoder,
    limits: DecodeLimits,
    orientation: Orientation,
    clip: bool,
) -> Result<RgbImage, RowError> {
    let (width, height) = decoder.dimensions();
    limits.check(format, u64::from(width), u64::from(height))?;
    let color = decoder.color_type();
    if !is_supported(color) {
        let found =
            format!("expected {format} samples of 8 or 16 bits, found {color:?}\nhint: convert the image to 8-bit RGB");
        return Err(fail(ErrorKind::UnsupportedFormat, found));
    }
    decoder.set_limits(allocations(limits.max_bytes())).map_err(|e| refuse(format, &e))?;
    let mut samples = vec![0; usize::try_from(decoder.total_bytes()).map_err(|e| corrupt(format, e))?];
    decoder.read_image(&mut samples).map_err(|e| refuse(format, &e))?;
    let pixels = to_rgb(samples, color, clip);
    Ok(orientation::apply(RgbImage { width, height, pixels }, orientation))
}

const fn is_supported(color: ColorType) -> bool {
    use ColorType::{L8, L16, La8, La16, Rgb8, Rgb16, Rgba8, Rgba16};
    matches!(color, L8 | La8 | Rgb8 | Rgba8 | L16 | La16 | Rgb16 | Rgba16)
}

/// Interleaved RGB from samples in native byte order. Alpha is dropped; 16-bit samples keep their high byte, gray ones are
/// clipped at 255 where `clip` says so.
fn to_rgb(samples: Vec<u8>, color: ColorType, clip: bool) -> Vec<u8> {
    let high = |low: u8, high: u8| (u16::from_ne_bytes([low, high]) >> 8) as u8;
    let gray = |first: u8, second: u8| {
        if clip { u16::from_ne_bytes([first, second]).min(255) as u8 } else { high(first, second) }
    };
    match color {
        ColorType::L8 => convert(samples, |[gray]: [u8; 1]| [gray; 3]),
        ColorType::La8 => convert(samples, |[gray, _]: [u8; 2]| [gray; 3]),
        ColorType::Rgba8 => convert(samples, |[r, g, b, _]: [u8; 4]| [r, g, b]),
        ColorType::L16 => convert(samples, |[a, b]: [u8; 2]| [gray(a, b); 3]),
        ColorType::La16 => convert(samples, |[a, b, _, _]: [u8; 4]| [gray(a, b); 3]),
        ColorType::Rgb16 => convert(samples, |[a, b, c, d, e, f]: [u8; 6]| [high(a, b), high(c, d), high(e, f)]),
        ColorType::Rgba16 => convert(samples, |[a, b, c, d, e, f, _, _]: [u8; 8]| [high(a, b), high(c, d), high(e, f)]),
        _ => samples,
    }
}

/// Every pixel of `N` bytes as three bytes, in place: from the front where pixels become smaller, from the back where they grow.
pub(super) fn convert<const N: usize>(mut bytes: Vec<u8>, pixel: impl Fn([u8; N]) -> [u8; 3]) -> Vec<u8> {
    let count = bytes.len() / N;
    let one = |bytes: &mut [u8], at: usize| {
        if let Some(from) = bytes[at * N..].first_chunk::<N>().copied() {
            bytes[at * 3..][..3].copy_from_slice(&pixel(from));
        }
    };
    if N < 3 {
        bytes.resize(count * 3, 0);
        (0..count).rev().for_each(|at| one(&mut bytes, at));
    } else {
        (0..count).for_each(|at| one(&mut bytes, at));
        bytes.truncate(count * 3);
        bytes.shrink_to_fit();
    }
    bytes
}

/// Limits of the `image` crate's decoders.
pub(super) fn allocations(bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

/// What the `image` crate's error means for the row.
pub(super) fn refuse(format: &str, error: &ImageError) -> RowError {
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
