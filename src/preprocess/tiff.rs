//! TIFF bytes in, the first page as an upright RGB image out.
//!
//! The directory of that page is read here once more, since the decoder does not tell how its pixels are stored: in strips or
//! tiles, whose size the file may state as it likes.

use std::io::Cursor;

use image::ImageDecoder;
use image::codecs::tiff::TiffDecoder;
use image::metadata::Orientation;

use super::image::RgbImage;
use super::limits::{DecodeLimits, corrupt};
use super::memory::{DecodeMemory, pixels};
use super::{jpeg, samples};
use crate::row::error::RowError;

/// The JPEG compression of TIFF's technical note 2.
const JPEG: u64 = 7;
/// Bytes that the decoder takes for one value of a tag, in its two forms.
const VALUE_BYTES: u64 = 48;

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const STRIP_OFFSETS: u16 = 273;
const ORIENTATION: u16 = 274;
const SAMPLES: u16 = 277;
const STRIP_ROWS: u16 = 278;
const STRIP_BYTES: u16 = 279;
const TILE_WIDTH: u16 = 322;
const TILE_HEIGHT: u16 = 323;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTES: u16 = 325;
/// Extra samples, sample format, JPEG tables and subsampling: the other tags of which the decoder reads every value.
const OTHER_LISTS: [u16; 4] = [338, 339, 347, 530];

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    let mut decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(|e| samples::refuse("TIFF", &e))?;
    let (width, height) = decoder.dimensions();
    limits.check("TIFF", u64::from(width), u64::from(height))?;
    if let Some(layout) = TiffLayout::read(bytes) {
        layout.check(bytes, limits)?;
    }
    let upright = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    samples::read("TIFF", decoder, limits, upright, true)
}

/// The samples in the decoder's buffer and in the output, where they are converted to RGB in place; one row of a strip or tile as it
/// is stored; the values of tags; and one strip or tile in JPEG, decompressed, with its coefficients.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> Option<DecodeMemory> {
    let layout = TiffLayout::read(bytes)?;
    let TiffLayout { width, height, chunk: (chunk_width, chunk_height), .. } = layout;
    let sample_bytes = layout.bits.div_ceil(8);
    let image = pixels(width, height).saturating_mul((layout.samples.min(5) * sample_bytes * 2).max(3));
    let row = u64::from(chunk_width) * layout.samples * sample_bytes;
    let lists = layout.list_values.saturating_mul(VALUE_BYTES);
    let jpeg = match layout.compression {
        JPEG => pixels(chunk_width, chunk_height).saturating_mul(16).saturating_add(bytes.len() as u64),
        _ => 0,
    };
    let decoding = [image, row, lists, jpeg, 256 << 10].into_iter().fold(0, u64::saturating_add);
    Some(DecodeMemory::within(limits, (width, height), decoding, layout.orientation))
}

/// How the pixels of the first page are stored.
struct TiffLayout<'a> {
    directory: Directory<'a>,
    width: u32,
    height: u32,
    /// Bits of a sample.
    bits: u64,
    /// Samples of a pixel.
    samples: u64,
    compression: u64,
    orientation: Orientation,
    /// Width and height of a strip or tile.
    chunk: (u32, u32),
    /// How many values the tags have that the decoder reads as lists.
    list_values: u64,
}

impl<'a> TiffLayout<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let directory = Directory::first(bytes)?;
        let number = |tag| directory.field(tag).and_then(|field| field.values().next());
        let side = |tag| number(tag).and_then(|value| u32::try_from(value).ok());
        let (width, height) = (side(WIDTH)?, side(HEIGHT)?);
        let strip = (width, side(STRIP_ROWS).unwrap_or(height).min(height));
        let lists = [BITS, STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES].into_iter().chain(OTHER_LISTS);
        let values = lists.filter_map(|tag| directory.field(tag)).map(|field| (field.data.len() / field.size) as u64);
        Some(Self {
            width,
            height,
            bits: number(BITS).unwrap_or(1).clamp(1, 64),
            samples: number(SAMPLES).unwrap_or(1).clamp(1, 65535),
            compression: number(COMPRESSION).unwrap_or(1),
            orientation: number(ORIENTATION)
                .and_then(|value| Orientation::from_exif(value.min(255) as u8))
                .unwrap_or(Orientation::NoTransforms),
            chunk: side(TILE_WIDTH).zip(side(TILE_HEIGHT)).unwrap_or(strip),
            list_values: values.sum(),
            directory,
        })
    }

    /// Refuses tiles that cover much more than any image, and JPEG data larger than its strip or tile.
    fn check(&self, bytes: &[u8], limits: DecodeLimits) -> Result<(), RowError> {
        let (width, height) = self.chunk;
        let covered = |side: u32, chunk: u32| u64::from(side.div_ceil(chunk.max(1))) * u64::from(chunk);
        let covered = covered(self.width, width).saturating_mul(covered(self.height, height));
        let allowed = limits.max_image_pixels.saturating_mul(4).max(1 << 26);
        if covered > allowed {
            let image = format!("{} x {}", self.width, self.height);
            let found = format!(
                "its tiles of {width} x {height} cover {covered} pixels for an image of {image}, allowed are {allowed}"
            );
            return Err(corrupt("TIFF", found));
        }
        if self.compression != JPEG {
            return Ok(());
        }
        let fields = [(STRIP_OFFSETS, STRIP_BYTES), (TILE_OFFSETS, TILE_BYTES)];
        for (offsets, lengths) in fields.map(|(at, length)| (self.directory.field(at), self.directory.field(length))) {
            let (Some(offsets), Some(lengths)) = (offsets, lengths) else { continue };
            for (offset, length) in offsets.values().zip(lengths.values()) {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(bytes.len());
                let found = bytes.get(start..end).and_then(jpeg::stated_size);
                if let Some((found_width, found_height)) = found.filter(|size| size.0 > width || size.1 > height) {
                    let found = format!(
                        "expected JPEG data of at most {width} x {height} pixels in a strip or tile, found {found_width} x \
                         {found_height}"
                    );
                    return Err(corrupt("TIFF", found));
                }
            }
        }
        Ok(())
    }
}

/// The entries of a directory, in a classic TIFF file or a `BigTIFF` one.
#[derive(Clone, Copy)]
struct Directory<'a> {
    bytes: &'a [u8],
    /// 12 bytes each, 20 in a `BigTIFF` file.
    entries: &'a [u8],
    is_little_endian: bool,
    is_big_tiff: bool,
}

/// A tag's values, as far as the file has them.
struct Field<'a> {
    /// Bytes of one value.
    size: usize,
    data: &'a [u8],
    is_little_endian: bool,
}

impl<'a> Directory<'a> {
    /// That of the first page.
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let is_little_endian = bytes.first() == Some(&b'I');
        let is_big_tiff = bytes.get(2..4)?.contains(&43);
        let integer = |at: usize, size: usize| Some(unsigned(bytes.get(at..at.checked_add(size)?)?, is_little_endian));
        let at = usize::try_from(if is_big_tiff { integer(8, 8)? } else { integer(4, 4)? }).ok()?;
        let (count_size, entry_size) = if is_big_tiff { (8, 20) } else { (2, 12) };
        let count = usize::try_from(integer(at, count_size)?).ok()?;
        let entries = bytes.get(at + count_size..)?;
        let entries = &entries[..count.saturating_mul(entry_size).min(entries.len())];
        Some(Self { bytes, entries, is_little_endian, is_big_tiff })
    }

    /// The tag's last entry, which counts.
    fn field(&self, tag: u16) -> Option<Field<'a>> {
        let little = self.is_little_endian;
        let (entry_size, count_size) = if self.is_big_tiff { (20, 8) } else { (12, 4) };
        let entry =
            self.entries.chunks_exact(entry_size).rfind(|entry| unsigned(&entry[..2], little) == u64::from(tag))?;
        let size = match unsigned(&entry[2..4], little) {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            _ => 8,
        };
        let (count, inline) = entry[4..].split_at(count_size);
        let length = usize::try_from(unsigned(count, little)).unwrap_or(usize::MAX).saturating_mul(size);
        let data = if length <= inline.len() {
            &inline[..length]
        } else {
            let data = self.bytes.get(usize::try_from(unsigned(inline, little)).ok()?..)?;
            &data[..length.min(data.len())]
        };
        Some(Field { size, data, is_little_endian: little })
    }
}

impl<'a> Field<'a> {
    /// As unsigned integers.
    fn values(&self) -> impl Iterator<Item = u64> + use<'a> {
        let little = self.is_little_endian;
        self.data.chunks_exact(self.size).map(move |bytes| unsigned(bytes, little))
    }
}

/// An integer of up to 8 bytes.
fn unsigned(bytes: &[u8], is_little_endian: bool) -> u64 {
    let add = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if is_little_endian { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
}
