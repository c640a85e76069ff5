//! PNG bytes in, an upright RGB image out.
//!
//! The decoder sees no metadata: colour profiles, texts and EXIF change no pixel, and compressed ones may unpack to gigabytes. The
//! orientation is read from the encoded bytes.

use std::borrow::Cow;
use std::io::{Cursor, Read};

use image::metadata::Orientation;

use super::image::RgbImage;
use super::limits::{DecodeLimits, corrupt};
use super::memory::{DecodeMemory, pixels};
use super::png_decoder::PngDecoder;
use super::{orientation, samples};
use crate::row::error::RowError;

/// Bytes that the decoder may take for tables: palette, transparency.
const TABLE_BYTES: u64 = 1 << 20;

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    let header = PngHeader::read(bytes).ok_or_else(|| corrupt("PNG", "it has no whole header"))?;
    limits.check("PNG", u64::from(header.width), u64::from(header.height))?;
    let file = essential(bytes, &header)?;
    // The decoder reserves one row of output in these limits; its own row buffers are not counted there.
    let row_bytes = u64::from(header.width) * 8;
    let allowed = TABLE_BYTES.saturating_add(row_bytes);
    let decoder = PngDecoder::new(Cursor::new(file), allowed).map_err(|e| samples::refuse("PNG", &e))?;
    // Gray of 16 bits is clipped.
    samples::read("PNG", decoder, limits, orientation(bytes), (header.depth, header.color) == (16, 0))
}

/// The file with nothing but what makes pixels: header, palette and the first image's data, as one chunk each, with checksums that
/// hold. Before the pixels, Pillow reads every chunk and refuses a wrong checksum; those of the pixels it does not look at.
fn essential(bytes: &[u8], header: &PngHeader) -> Result<Vec<u8>, RowError> {
    let damaged = |found: String| Err(corrupt("PNG", found));
    let (mut palette, mut rest) = (None, bytes.get(8..).unwrap_or_default());
    let mut data = Vec::with_capacity(bytes.len());
    loop {
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            return damaged("it has no pixels".to_owned());
        };
        let length = u32::from_be_bytes(*length) as usize;
        let Some((kind, after)) = after.split_first_chunk::<4>() else { return damaged("it has no pixels".to_owned()) };
        if !kind.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            return damaged("a chunk's type is damaged".to_owned());
        }
        if kind == b"IDAT" {
            break;
        }
        let name = String::from_utf8_lossy(kind).into_owned();
        let Some((stored, after)) = after.split_at_checked(length) else {
            return damaged(format!("its chunk {name} is cut off"));
        };
        let Some((sum, after)) = after.split_first_chunk::<4>() else {
            return damaged(format!("its chunk {name} is cut off"));
        };
        if crc(*kind, stored) != u32::from_be_bytes(*sum) {
            return damaged(format!("the checksum of its chunk {name} is wrong"));
        }
        match kind {
            b"IEND" => return damaged("it has no pixels".to_owned()),
            b"PLTE" => palette = Some(stored),
            b"tRNS" if stored.len() < least_transparency(header) => {
                return damaged("its chunk tRNS is too short".to_owned());
            }
            _ => {}
        }
        rest = after;
    }
    // Chunks of data in a row; the last one may be cut off.
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let Some(after) = after.strip_prefix(b"IDAT") else { break };
        let (part, after) = after.split_at((u32::from_be_bytes(*length) as usize).min(after.len()));
        data.extend_from_slice(part);
        rest = after.get(4..).unwrap_or_default();
    }
    let mut file = Vec::with_capacity(data.len() + 1024);
    file.extend_from_slice(&bytes[..8]);
    let PngHeader { width, height, depth, color, is_interlaced } = *header;
    let [sides @ .., _] = [width.to_be_bytes(), height.to_be_bytes(), [0; 4]];
    let header = [sides.as_flattened(), &[depth, color, 0, 0, u8::from(is_interlaced)]].concat();
    append(&mut file, *b"IHDR", &header);
    if color == 3 {
        // Colours that it lacks are black.
        let own = palette.unwrap_or_default();
        if !(3..=768).contains(&own.len()) {
            return damaged(format!("expected a palette of 1 to 256 colours of 3 bytes, found {} bytes", own.len()));
        }
        append(&mut file, *b"PLTE", &own[..own.len() / 3 * 3]);
    }
    append(&mut file, *b"IDAT", &data);
    append(&mut file, *b"IEND", &[]);
    Ok(file)
}

/// Bytes that transparency has at least.
const fn least_transparency(header: &PngHeader) -> usize {
    match header.color {
        0 => 2,
        2 => 6,
        _ => 0,
    }
}

fn append(file: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    file.extend_from_slice(&(data.len() as u32).to_be_bytes());
    file.extend_from_slice(&kind);
    file.extend_from_slice(data);
    file.extend_from_slice(&crc(kind, data).to_be_bytes());
}

fn crc(kind: [u8; 4], data: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(&kind);
    sum.update(data);
    sum.sum()
}

/// The samples as the decoder gives them (8 or 16 bits, palettes and transparent colours resolved), converted in place to RGB,
/// and its rows: at most 12, since its buffer grows by doubling.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> Option<DecodeMemory> {
    let PngHeader { width, height, depth, color, .. } = PngHeader::read(bytes)?;
    let channels = match color {
        0 => 1,
        2 | 3 => 3,
        4 => 2,
        _ => 4,
    };
    let pixel_bytes = channels * if depth == 16 { 2 } else { 1 };
    let samples = pixels(width, height).saturating_mul(pixel_bytes.max(3));
    let rows = u64::from(width) * pixel_bytes * 12 + (1 << 20) + 2 * bytes.len() as u64;
    Some(DecodeMemory::within(limits, (width, height), samples.saturating_add(rows), orientation(bytes)))
}

/// What the header chunk says.
struct PngHeader {
    width: u32,
    height: u32,
    /// Bits of a sample.
    depth: u8,
    /// 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGBA.
    color: u8,
    is_interlaced: bool,
}

impl PngHeader {
    fn read(bytes: &[u8]) -> Option<Self> {
        // The decoder sees no metadata, and so none before the header.
        let (_, data) = chunks(bytes).find(|(kind, _)| kind == b"IHDR")?;
        let (width, rest) = data.split_first_chunk()?;
        let (height, rest) = rest.split_first_chunk()?;
        let [depth, color, _, _, interlace, ..] = rest else { return None };
        let (width, height) = (u32::from_be_bytes(*width), u32::from_be_bytes(*height));
        Some(Self { width, height, depth: *depth, color: *color, is_interlaced: *interlace != 0 })
    }
}

/// One chunk's type, data and length with frame (length, type and checksum).
fn chunk(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let (length, after) = bytes.split_first_chunk::<4>()?;
    let (kind, after) = after.split_at_checked(4)?;
    let (data, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    after.get(4..)?; // the decoder checks the checksum
    Some((kind, data, data.len() + 12))
}

/// The chunks (type, data) of a PNG file, up to the first damaged one.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (kind, data, length) = chunk(rest)?;
        rest = &rest[length..];
        Some((kind, data))
    })
}

/// Orientation from EXIF, else from XMP: chunks of their own or texts, where `ImageMagick` keeps EXIF in hexadecimal digits.
fn orientation(bytes: &[u8]) -> Orientation {
    let (mut exif, mut xmp, mut profile) = (None, None, None);
    for (kind, data) in chunks(bytes) {
        let Some(end) = memchr::memchr(0, data) else {
            exif = if kind == b"eXIf" { Some(Cow::Borrowed(data)) } else { exif };
            continue;
        };
        let (key, text) = (&data[..end], &data[end + 1..]);
        match (kind, key) {
            (b"eXIf", _) => exif = Some(Cow::Borrowed(data)),
            (b"tEXt", b"exif") => exif = Some(Cow::Borrowed(text)),
            (b"tEXt", b"Raw profile type exif") => profile = Some(Cow::Borrowed(text)),
            (b"zTXt", b"Raw profile type exif") => {
                profile = text.get(1..).and_then(inflated).map(Cow::Owned).or(profile);
            }
            (b"iTXt", b"XML:com.adobe.xmp") => {
                let [is_compressed, 0, rest @ ..] = text else { continue };
                // A language and a translated key stand before the text.
                let Some(value) = rest.splitn(3, |byte| *byte == 0).nth(2) else { continue };
                let value =
                    if *is_compressed == 0 { Some(Cow::Borrowed(value)) } else { inflated(value).map(Cow::Owned) };
                xmp = value.or(xmp);
            }
            _ => {}
        }
    }
    let exif = exif.or_else(|| profile.and_then(|text| from_digits(&text)).map(Cow::Owned));
    orientation::find(exif.as_deref(), xmp.as_deref())
}

/// A compressed text; None if it is damaged or longer than Pillow allows.
fn inflated(data: &[u8]) -> Option<Vec<u8>> {
    const MOST: u64 = 1 << 20;
    let mut text = Vec::new();
    flate2::read::ZlibDecoder::new(data).take(MOST + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= MOST).then_some(text)
}

/// The bytes in the lines behind the first three, which tell the kind and length of the profile.
fn from_digits(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.split(|byte| *byte == b'\n').skip(3).flatten().copied().collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    digits.as_chunks().0.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}
