//! Small pictures for people: encoded image bytes in, a JPEG out whose longer side has a number of pixels at most. Large JPEGs are decoded
//! at a fraction of their size, and resized as Pillow's `thumbnail` does.

use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

use super::decode::decode_scaled;
use super::image::RgbImage;
use super::limits::{DecodeLimits, fail};
use super::reduce::resize;
use super::resample::Filter;
use super::scale::JpegScale;
use crate::row::error::{ErrorKind, RowError};

/// Of the JPEG, as Pillow counts it.
const QUALITY: i32 = 85;

/// The upright image in `bytes` as a JPEG, made smaller until neither side has more than `side` pixels; never larger.
///
/// # Errors
/// As [`decode()`](super::decode()).
pub fn thumbnail(bytes: &[u8], limits: DecodeLimits, side: u32) -> Result<Vec<u8>, RowError> {
    let scale = |width, height| JpegScale::between((width, height), size((width, height), side));
    let decoded = decode_scaled(bytes, limits, scale)?;
    let (width, height) = size((decoded.full_width, decoded.full_height), side);
    let image = match decoded.image {
        image if (image.width, image.height) == (width, height) => image,
        image => resize(&image, (height, width), Filter::Bicubic),
    };
    encode(&image).map_err(|error| fail(ErrorKind::UnsupportedFormat, format!("cannot be written as JPEG: {error}")))
}

/// Width and height of the thumbnail of an image with these.
fn size((width, height): (u32, u32), side: u32) -> (u32, u32) {
    let longer = width.max(height);
    if longer <= side {
        return (width, height);
    }
    let of = |this: u32| (u64::from(this) * u64::from(side) + u64::from(longer) / 2) / u64::from(longer).max(1);
    (of(width).max(1) as u32, of(height).max(1) as u32)
}

fn encode(image: &RgbImage) -> turbojpeg::Result<Vec<u8>> {
    let (width, height) = (image.width as usize, image.height as usize);
    let mut compressor = Compressor::new()?;
    compressor.set_quality(QUALITY)?;
    compressor.set_subsamp(Subsamp::Sub2x2)?;
    let pixels = image.pixels.as_slice();
    compressor.compress_to_vec(Image { pixels, width, pitch: 3 * width, height, format: PixelFormat::RGB })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::decode;

    const LIMITS: DecodeLimits = DecodeLimits { max_image_pixels: 10_000_000 };

    fn stripes(width: u32, height: u32) -> RgbImage {
        let pixel = |at: u32| if (at / width) * 2 < height { [200, 30, 40] } else { [20, 60, 220] };
        RgbImage { width, height, pixels: (0..width * height).flat_map(pixel).collect() }
    }

    #[test]
    fn sides_keep_their_ratio_and_are_never_enlarged() {
        for (from, side, expected) in [
            ((640, 480), 128, (128, 96)),
            ((480, 640), 128, (96, 128)),
            ((100, 50), 128, (100, 50)),
            ((10_000, 3), 128, (128, 1)),
            ((1, 1), 1, (1, 1)),
            ((1001, 1000), 100, (100, 100)),
        ] {
            assert_eq!(size(from, side), expected, "{from:?}");
        }
    }

    #[test]
    fn a_thumbnail_is_the_picture_upright_and_small() {
        let jpeg = encode(&stripes(1600, 900)).unwrap();
        let small = decode(&thumbnail(&jpeg, LIMITS, 64).unwrap(), LIMITS).unwrap();
        assert_eq!((small.width, small.height), (64, 36));
        let near = |found: &[u8], expected: [u8; 3]| found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) < 12);
        assert!(near(&small.pixels[..3], [200, 30, 40]), "{:?}", &small.pixels[..3]);
        assert!(near(&small.pixels[small.pixels.len() - 3..], [20, 60, 220]));
        // Exif orientation 6: what is stored has to be turned by 90 degrees to the right, so that the red half is on the right.
        let exif: &[u8] = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut turned = jpeg[..2].to_vec();
        turned.extend([0xff, 0xe1]);
        turned.extend((exif.len() as u16 + 2).to_be_bytes());
        turned.extend_from_slice(exif);
        turned.extend_from_slice(&jpeg[2..]);
        let small = decode(&thumbnail(&turned, LIMITS, 64).unwrap(), LIMITS).unwrap();
        assert_eq!((small.width, small.height), (36, 64));
        assert!(near(&small.pixels[..3], [20, 60, 220]), "{:?}", &small.pixels[..3]);
        assert!(near(&small.pixels[3 * 35..3 * 36], [200, 30, 40]));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(thumbnail(b"text", LIMITS, 64).unwrap_err().kind, ErrorKind::UnsupportedFormat);
        let large = encode(&stripes(64, 64)).unwrap();
        let limits = DecodeLimits { max_image_pixels: 100 };
        assert_eq!(thumbnail(&large, limits, 8).unwrap_err().kind, ErrorKind::TooManyPixels);
    }
}
