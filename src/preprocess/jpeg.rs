//! JPEG bytes in, an upright RGB image out, at full size or a fraction of it, decoded by libjpeg-turbo as Pillow configures
//! it (accurate integer DCT, smooth chroma upsampling) and with Pillow's idea of which damage is forgiven: a file without its
//! end-of-image marker is truncated and fails, everything libjpeg merely warns about is accepted.

use std::borrow::Cow;

use turbojpeg::{Colorspace, DecompressHeader, Decompressor, Image, PixelFormat, ScalingFactor};

use super::image::RgbImage;
use super::limits::{DecodeLimits, Decoded, corrupt, fail};
use super::memory::{DecodeMemory, pixels};
use super::scale::JpegScale;
use super::{orientation, samples};
use crate::row::error::{ErrorKind, RowError};

/// How the texts of libjpeg's warnings (`JWRN_*` in its `jerror.h`) begin. A decoder that only warned has filled the
/// whole image; turbojpeg reports the last fatal error, else the first warning.
const WARNINGS: [&str; 7] = [
    "Unknown Adobe color transform code",
    "Corrupt JPEG data: ",
    "Inconsistent progression sequence",
    "Warning: unknown JFIF revision",
    "Premature end of JPEG file",
    "Invalid SOS parameters",
    "Application transferred too many scanlines",
];

/// Scans that a JPEG may have whatever its size. An encoder writes 10 for a progressive colour image and 18 for a CMYK one
/// (libjpeg's `jpeg_simple_progression`), optimising ones (mozjpeg) about 20.
const SCANS: u64 = 32;
/// Scans that a JPEG may have where they are no work: small images. libjpeg-turbo itself knows 500 as a limit, zune-jpeg 100.
const MOST_SCANS: u64 = 100;

/// Bytes that libjpeg's decoder of Huffman codes reads ahead, whether it needs them or not.
const READ_AHEAD: usize = 8;

const APP0: u8 = 0xe0;
const APP1: u8 = 0xe1;
const APP2: u8 = 0xe2;
const APP14: u8 = 0xee;
const COM: u8 = 0xfe;
const SOS: u8 = 0xda;
const EOI: u8 = 0xd9;

/// Decodes at the scale that `scale` answers to the upright image's width and height.
pub(super) fn decode(
    bytes: &[u8],
    limits: DecodeLimits,
    scale: impl FnOnce(u32, u32) -> JpegScale,
) -> Result<Decoded, RowError> {
    decode_with(bytes, limits, scale, inverted_cmyk_to_rgb)
}

/// Decodes with `cmyk_to_rgb` for pixels of four components.
pub(super) fn decode_with(
    bytes: &[u8],
    limits: DecodeLimits,
    scale: impl FnOnce(u32, u32) -> JpegScale,
    cmyk_to_rgb: impl Fn([u8; 4]) -> [u8; 3],
) -> Result<Decoded, RowError> {
    let corrupt = |found: &dyn std::fmt::Display| corrupt("JPEG", found);
    check_frame(bytes)?;
    let mut decoder = Decompressor::new().map_err(|e| corrupt(&e))?;
    let (header, readable) = read_header(&mut decoder, bytes).map_err(|e| corrupt(&e))?;
    limits.check("JPEG", header.width as u64, header.height as u64)?;

    let allowed = most_scans(limits, pixels(header.width as u32, header.height as u32));
    let (mut exif, mut xmp, mut ended, mut scans) = (Vec::new(), None, false, 0);
    for (marker, data) in segments(bytes) {
        match marker {
            APP1 if data.starts_with(b"Exif\0\0") => {
                exif.extend_from_slice(&data[if exif.is_empty() { 0 } else { 6 }..]);
            }
            APP1 => xmp = data.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0").or(xmp),
            SOS => scans += 1,
            EOI => ended = true,
            _ => {}
        }
    }
    if scans > allowed {
        let size = format!("{} x {}", header.width, header.height);
        return Err(corrupt(&format!("expected at most {allowed} scans in {size} pixels, found {scans}")));
    }
    // What libjpeg takes for scans may differ in damaged files.
    decoder.set_scan_limit(allowed as u32).map_err(|e| corrupt(&e))?;
    let truncated =
        || corrupt(&format!("the file is truncated, its {} bytes hold no end-of-image marker", bytes.len()));
    // Pillow reads a file of several scans up to the marker, and one of a single scan up to its last row.
    let readable = match (ended, scans) {
        (true, _) => readable,
        (false, 1) if readable.len() > READ_AHEAD && !is_progressive(bytes) => {
            let kept = &readable[..readable.len() - READ_AHEAD];
            Cow::Owned([kept, &[0xff, EOI]].concat())
        }
        _ => return Err(truncated()),
    };

    let orientation = orientation::find(Some(&exif), xmp);
    let (width, height) = (header.width as u32, header.height as u32);
    let (full_width, full_height) =
        if orientation::swaps_sides(orientation) { (height, width) } else { (width, height) };
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
    match decoder.decompress(&readable, output) {
        Err(error) if !is_warning(&error) => return Err(corrupt(&error)),
        // A warning may hide the one of an end that comes too early.
        Err(error) if !ended && !error.to_string().contains("extraneous bytes before marker") => {
            return Err(truncated());
        }
        _ => {}
    }
    drop(decoder);
    if cmyk {
        pixels = samples::convert(pixels, cmyk_to_rgb);
    }
    let image = RgbImage { width: header.width as u32, height: header.height as u32, pixels };
    Ok(Decoded { image: orientation::apply(image, orientation), full_width, full_height })
}

/// Refuses what Pillow refuses of frame headers: samples of other than 8 bits, and other than 1, 3 or 4 components.
fn check_frame(bytes: &[u8]) -> Result<(), RowError> {
    let refuse = |found: String| {
        let expected = "expected JPEG of 8-bit samples in 1, 3 or 4 components";
        let hint = "hint: convert the image to 8-bit RGB, with ImageMagick for instance";
        Err(fail(ErrorKind::UnsupportedFormat, format!("{expected}, found {found}\n{hint}")))
    };
    for (marker, data) in segments(bytes).take_while(|(marker, _)| *marker != SOS) {
        match data {
            [bits, ..] if is_frame(marker) && *bits != 8 => return refuse(format!("{bits}-bit samples")),
            [_, _, _, _, _, components, ..] if is_frame(marker) && !matches!(components, 1 | 3 | 4) => {
                return refuse(format!("{components} components"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_progressive(bytes: &[u8]) -> bool {
    segments(bytes).any(|(marker, _)| is_frame(marker) && !matches!(marker, 0xc0 | 0xc1 | 0xc9))
}

/// The most scans of an image of `pixels`. Every scan of a progressive JPEG may touch every coefficient, and hardly needs a byte
/// for it: what bounds decoding is the number of scans times that of pixels. It stays below `SCANS` times that of the largest
/// image allowed.
fn most_scans(limits: DecodeLimits, pixels: u64) -> u64 {
    (limits.max_image_pixels.saturating_mul(SCANS) / pixels.max(1)).clamp(SCANS, MOST_SCANS)
}

/// RGB (CMYK: 4 bytes a pixel, converted in place) at the scale that `scale` answers; for a file of several scans the coefficients
/// at full size, two bytes each; 64 bytes a column and component for rows being decoded; the encoded bytes once more, since a
/// header with warnings is rewritten; and EXIF and colour profiles, which are copied.
pub(super) fn memory(
    bytes: &[u8],
    limits: DecodeLimits,
    scale: impl FnOnce(u32, u32) -> JpegScale,
) -> Option<DecodeMemory> {
    let (mut exif, mut xmp, mut metadata, mut frame) = (None, None, 0, None);
    for (marker, data) in segments(bytes) {
        match marker {
            APP1 | APP2 => {
                metadata += data.len();
                match data {
                    [b'E', b'x', b'i', b'f', 0, 0, ..] if marker == APP1 => exif = exif.or(Some(data)),
                    _ if marker == APP1 => xmp = data.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0").or(xmp),
                    _ => {}
                }
            }
            marker if is_frame(marker) => frame = frame.or(Frame::read(marker, data)),
            SOS => {
                let frame = frame?;
                let orientation = orientation::find(exif, xmp);
                if limits.check("JPEG", u64::from(frame.width), u64::from(frame.height)).is_err() {
                    return Some(DecodeMemory::REFUSED);
                }
                let swapped = orientation::swaps_sides(orientation);
                let divisor = match scale {
                    _ if frame.lossless => 1,
                    scale if swapped => scale(frame.height, frame.width).divisor(),
                    scale => scale(frame.width, frame.height).divisor(),
                };
                let (width, height) = (frame.width.div_ceil(divisor), frame.height.div_ceil(divisor));
                let channels = frame.components.len() as u64;
                let output = pixels(width, height) * if channels == 4 { 4 } else { 3 };
                let several_scans = frame.progressive || data.first().is_some_and(|&count| u64::from(count) < channels);
                let coefficients = if several_scans { frame.coefficient_bytes() } else { 0 };
                let rows = u64::from(frame.width) * channels * 64 + (256 << 10);
                let copies = (bytes.len() + metadata) as u64;
                return Some(DecodeMemory::new((width, height), output + coefficients + rows + copies, orientation));
            }
            _ => {}
        }
    }
    None
}

/// Width and height in pixels, as the first frame header states them.
pub(super) fn stated_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let frame = segments(bytes).find_map(|(marker, data)| is_frame(marker).then(|| Frame::read(marker, data)));
    frame.flatten().map(|frame| (frame.width, frame.height))
}

/// Whether the segments of `marker` are frame headers.
const fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf)
}

/// What the frame header says.
struct Frame {
    width: u32,
    height: u32,
    progressive: bool,
    lossless: bool,
    /// Horizontal and vertical sampling factors.
    components: Vec<(u64, u64)>,
}

impl Frame {
    fn read(marker: u8, data: &[u8]) -> Option<Self> {
        let [_, h0, h1, w0, w1, _, components @ ..] = data else { return None };
        let side = |high: u8, low: u8| u32::from(u16::from_be_bytes([high, low]));
        let factors = |[_, factors, _]: &[u8; 3]| (u64::from(factors >> 4), u64::from(factors & 15));
        Some(Self {
            width: side(*w0, *w1),
            height: side(*h0, *h1),
            progressive: matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce),
            lossless: matches!(marker, 0xc3 | 0xc7 | 0xcb | 0xcf),
            components: components.as_chunks().0.iter().map(factors).collect(),
        })
    }

    /// Of all blocks of 8 x 8, in whole MCUs.
    fn coefficient_bytes(&self) -> u64 {
        let most = |factor: fn(&(u64, u64)) -> u64| self.components.iter().map(factor).max().unwrap_or(1).max(1);
        let columns = u64::from(self.width).div_ceil(8 * most(|factors| factors.0));
        let rows = u64::from(self.height).div_ceil(8 * most(|factors| factors.1));
        self.components.iter().map(|(across, down)| columns * across * rows * down * 128).sum()
    }
}

/// The header, and the bytes to decode: `bytes` themselves, or, if turbojpeg refuses the header, a copy without what it refuses and
/// Pillow forgives: it does not go on after a warning in the header, and reads colour profiles, which change no pixel.
fn read_header<'a>(
    decoder: &mut Decompressor,
    bytes: &'a [u8],
) -> Result<(DecompressHeader, Cow<'a, [u8]>), turbojpeg::Error> {
    match decoder.read_header(bytes) {
        Ok(header) => Ok((header, Cow::Borrowed(bytes))),
        Err(error) => {
            let repaired = repair(bytes);
            decoder.read_header(&repaired).map(|header| (header, Cow::Owned(repaired))).map_err(|_| error)
        }
    }
}

fn is_warning(error: &turbojpeg::Error) -> bool {
    matches!(error, turbojpeg::Error::TurboJpegError(text) if WARNINGS.iter().any(|warning| text.starts_with(warning)))
}

/// The same image without junk between the header's segments and without metadata, with JFIF revision 1 and a known Adobe transform.
fn repair(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff, 0xd8];
    let mut rest = segments(bytes);
    let frame = segments(bytes).find(|(marker, _)| is_frame(*marker));
    let components = frame.and_then(|(_, data)| data.get(5).copied()).unwrap_or(3);
    for (marker, data) in rest.by_ref() {
        let mut data = data.to_vec();
        match (marker, data.as_mut_slice()) {
            (APP0, [b'J', b'F', b'I', b'F', 0, major, ..]) => *major = 1,
            // libjpeg takes any unknown transform of 3 components for YCbCr (1) and of 4 for YCCK (2).
            (APP14, [b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..])
                if *transform > 2 || *transform == 2 && components == 3 =>
            {
                *transform = if components == 4 { 2 } else { 1 };
            }
            (APP1..=0xed | 0xef | COM, _) => continue,
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
                    let length = usize::from(u16::from_be_bytes(*length)).saturating_sub(2);
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
pub(super) fn inverted_cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    [c, m, y].map(|ink| {
        let product = u32::from(255 - ink) * u32::from(k) + 128;
        (u32::from(k) - ((product + (product >> 8)) >> 8)) as u8
    })
}
