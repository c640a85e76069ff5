//! JPEG bytes in, an upright RGB picture out, at full size or a fraction of it, decoded by libjpeg-turbo as Pillow configures
//! it (accurate integer DCT, smooth chroma upsampling) and with Pillow's idea of which damage is forgiven: a file without its
//! end-of-image marker is truncated and fails, everything libjpeg merely warns about is accepted.

use std::borrow::Cow;

use turbojpeg::{Colorspace, DecompressHeader, Decompressor, Image, PixelFormat, ScalingFactor};

use super::decode::{DecodeLimits, Decoded, corrupt};
use super::{JpegScale, RgbImage, orientation};
use crate::row_error::RowError;

/// How the texts of libjpeg's warnings (`JWRN_*` in its `jerror.h`) begin. A decoder that only warned has filled the
/// whole picture; turbojpeg reports the last fatal error, else the first warning.
const WARNINGS: [&str; 7] = [
    "Unknown Adobe color transform code",
    "Corrupt JPEG data: ",
    "Inconsistent progression sequence",
    "Warning: unknown JFIF revision",
    "Premature end of JPEG file",
    "Invalid SOS parameters",
    "Application transferred too many scanlines",
];

const APP0: u8 = 0xe0;
const APP1: u8 = 0xe1;
const APP14: u8 = 0xee;
const SOS: u8 = 0xda;
const EOI: u8 = 0xd9;

/// Decodes at the scale that `scale` answers to the upright picture's width and height.
pub(super) fn decode(
    bytes: &[u8],
    limits: DecodeLimits,
    scale: impl FnOnce(u32, u32) -> JpegScale,
) -> Result<Decoded, RowError> {
    let corrupt = |found: &dyn std::fmt::Display| corrupt("JPEG", found);
    let mut decoder = Decompressor::new().map_err(|e| corrupt(&e))?;
    let (header, bytes) = read_header(&mut decoder, bytes).map_err(|e| corrupt(&e))?;
    limits.check("JPEG", header.width as u64, header.height as u64)?;

    let (mut exif, mut xmp, mut ended) = (Vec::new(), None, false);
    for (marker, data) in segments(&bytes) {
        match marker {
            APP1 if data.starts_with(b"Exif\0\0") => {
                exif.extend_from_slice(&data[if exif.is_empty() { 0 } else { 6 }..]);
            }
            APP1 => xmp = data.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0").or(xmp),
            EOI => ended = true,
            _ => {}
        }
    }
    if !ended {
        return Err(corrupt(&format!("the file is truncated, its {} bytes hold no end-of-image marker", bytes.len())));
    }

    let orientation = orientation::find(Some(&exif), xmp);
    let (width, height) = (header.width as u32, header.height as u32);
    let (full_width, full_height) = if orientation::turns(orientation) { (height, width) } else { (width, height) };
    // The coefficients of lossless JPEGs are no frequencies that could be left out.
    let scale = if header.is_lossless { JpegScale::Full } else { scale(full_width, full_height) };
    let factor = ScalingFactor::new(1, scale.divisor() as usize);
    decoder.set_scaling_factor(factor).map_err(|e| corrupt(&e))?;
    let header = header.scaled(factor);

    let cmyk = matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK);
    let format = if cmyk { PixelFormat::CMYK } else { PixelFormat::RGB };
    let pitch = header.width * format.size();
    let mut pixels = vec![0; pitch * header.height];
    let output = Image { pixels: pixels.as_mut_slice(), width: header.width, pitch, height: header.height, format };
    match decoder.decompress(&bytes, output) {
        Err(error) if !is_warning(&error) => return Err(corrupt(&error)),
        _ => {}
    }
    if cmyk {
        pixels = pixels.as_chunks::<4>().0.iter().copied().flat_map(inverted_cmyk_to_rgb).collect();
    }
    let image = RgbImage { width: header.width as u32, height: header.height as u32, pixels };
    Ok(Decoded { image: orientation::apply(image, orientation), full_width, full_height })
}

/// The header, and the bytes to decode: `bytes` themselves, or, if the header only earned warnings, a copy without what
/// they were about, since turbojpeg refuses to go on after a warning in the header.
fn read_header<'a>(
    decoder: &mut Decompressor,
    bytes: &'a [u8],
) -> Result<(DecompressHeader, Cow<'a, [u8]>), turbojpeg::Error> {
    match decoder.read_header(bytes) {
        Ok(header) => Ok((header, Cow::Borrowed(bytes))),
        Err(error) if is_warning(&error) => {
            let repaired = repair(bytes);
            decoder.read_header(&repaired).map(|header| (header, Cow::Owned(repaired)))
        }
        Err(error) => Err(error),
    }
}

fn is_warning(error: &turbojpeg::Error) -> bool {
    matches!(error, turbojpeg::Error::TurboJpegError(text) if WARNINGS.iter().any(|warning| text.starts_with(warning)))
}

/// The same picture without junk between the header's segments, with JFIF revision 1 and a known Adobe transform.
fn repair(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff, 0xd8];
    let mut rest = segments(bytes);
    let mut components = 0;
    for (marker, data) in rest.by_ref() {
        let mut data = data.to_vec();
        match (marker, data.as_mut_slice()) {
            (APP0, [b'J', b'F', b'I', b'F', 0, major, ..]) => *major = 1,
            // libjpeg takes any unknown transform of 3 components for YCbCr (1) and of 4 for YCCK (2).
            (APP14, [b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..]) if *transform > 2 => {
                *transform = if components == 4 { 2 } else { 1 };
            }
            (0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf, [_, _, _, _, _, count, ..]) => components = *count,
            _ => {}
        }
        out.extend([0xff, marker]);
        out.extend((data.len() as u16 + 2).to_be_bytes());
        out.extend(data);
        if marker == SOS {
            break;
        }
    }
    out.extend_from_slice(rest.bytes);
    out
}

/// Walks over the marker segments of `bytes`, skipping entropy-coded data and junk as libjpeg's `next_marker` does.
fn segments(bytes: &[u8]) -> Segments<'_> {
    Segments { bytes: bytes.get(2..).unwrap_or_default() }
}

struct Segments<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    /// The next marker and its data; ends with [`EOI`], or without it where the bytes end.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let ff = memchr::memchr(0xff, self.bytes)?;
            let fill = self.bytes[ff..].iter().position(|byte| *byte != 0xff)?;
            let (marker, rest) = self.bytes[ff + fill..].split_first()?;
            self.bytes = rest;
            match *marker {
                // A stuffed 0xff of the entropy-coded data, and markers without data.
                0 | 0x01 | 0xd0..=0xd8 => {}
                EOI => {
                    self.bytes = &[];
                    return Some((EOI, &[]));
                }
                marker => {
                    let (length, rest) = rest.split_first_chunk::<2>()?;
                    let length = usize::from(u16::from_be_bytes(*length)).checked_sub(2)?;
                    let (data, rest) = rest.split_at_checked(length)?;
                    self.bytes = rest;
                    return Some((marker, data));
                }
            }
        }
    }
}

/// Pillow's reading of CMYK in JPEG (always inverted, the Adobe convention) and its conversion to RGB, which needs the
/// inverted values: `R = K' - (255 - C') * K' / 255`, rounded.
fn inverted_cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    [c, m, y].map(|ink| {
        let product = u32::from(255 - ink) * u32::from(k) + 128;
        (u32::from(k) - ((product + (product >> 8)) >> 8)) as u8
    })
}
