//! TIFF bytes in, the first page as an upright RGB image out.
//!
//! The directory of that page is read here once more, since the decoder does not tell how its pixels are stored: in strips or
//! tiles, whose size the file may state as it likes.

use image::metadata::Orientation;

use super::image::RgbImage;
use super::limits::{DecodeLimits, corrupt, fail};
use super::memory::{DecodeMemory, pixels, rgb_bytes};
use super::scale::JpegScale;
use super::tiff_compression::{CCITT_4, DEFLATE, JPEG, LZW, OLD_DEFLATE, PACKBITS, RAW, ZSTD, ZSTD_WINDOW, decompress};
use super::tiff_directory::Directory;
use super::tiff_predictor::{sum_up, sum_up_floats};
use super::tiff_samples::{Meaning, Number, Samples, Tags};
use super::{jpeg, orientation};
use crate::row::error::{ErrorKind, RowError};

/// Bytes that the decoder takes for one value of a tag, in its two forms.
const VALUE_BYTES: u64 = 48;

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const WINDOWS_MEDIA_PHOTO: u16 = 0xbc01;
const JPEG_TABLES: u16 = 347;
const PHOTOMETRIC: u16 = 262;
const FILL_ORDER: u16 = 266;
const STRIP_OFFSETS: u16 = 273;
const ORIENTATION: u16 = 274;
const SAMPLES: u16 = 277;
const STRIP_ROWS: u16 = 278;
const STRIP_BYTES: u16 = 279;
const PLANAR: u16 = 284;
const PREDICTOR: u16 = 317;
const COLOR_MAP: u16 = 320;
const EXTRA_SAMPLES: u16 = 338;
const SAMPLE_FORMAT: u16 = 339;
const SUBSAMPLING: u16 = 530;
const TILE_WIDTH: u16 = 322;
const TILE_HEIGHT: u16 = 323;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTES: u16 = 325;
/// The tags that decide pixels.
const PIXEL_TAGS: [u16; 23] = [
    WIDTH,
    HEIGHT,
    BITS,
    COMPRESSION,
    PHOTOMETRIC,
    FILL_ORDER,
    STRIP_OFFSETS,
    ORIENTATION,
    SAMPLES,
    STRIP_ROWS,
    STRIP_BYTES,
    PLANAR,
    PREDICTOR,
    COLOR_MAP,
    EXTRA_SAMPLES,
    SAMPLE_FORMAT,
    TILE_WIDTH,
    TILE_HEIGHT,
    TILE_OFFSETS,
    TILE_BYTES,
    JPEG_TABLES,
    WINDOWS_MEDIA_PHOTO,
    SUBSAMPLING,
];
/// Colours, extra samples, sample format, JPEG tables and subsampling: the other tags of which the decoder reads every value.
const OTHER_LISTS: [u16; 5] = [320, 338, 339, 347, 530];

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    let layout = TiffLayout::read(bytes).ok_or_else(|| corrupt("TIFF", "its directory is damaged or names no size"))?;
    let TiffLayout { width, height, compression, .. } = layout;
    limits.check("TIFF", u64::from(width), u64::from(height))?;
    layout.check(bytes, limits)?;
    if !layout.directory.is_sound(&PIXEL_TAGS) {
        return Err(corrupt(
            "TIFF",
            "its directory has a tag twice, of another type, or behind one whose values are missing",
        ));
    }
    if layout.directory.field(WINDOWS_MEDIA_PHOTO).is_some() {
        return Err(unsupported("a Windows Media Photo"));
    }
    if width == 0 || height == 0 {
        return Err(corrupt("TIFF", format!("the header says {width} x {height} pixels")));
    }
    match compression {
        RAW | CCITT_4 | LZW | DEFLATE | OLD_DEFLATE | PACKBITS | ZSTD => {
            let image = layout.unpack(bytes)?;
            Ok(orientation::apply(image, layout.orientation))
        }
        2 | 3 => Err(unsupported("CCITT Group 3 or Huffman compression")),
        JPEG => {
            let image = layout.unpack_jpeg(bytes, limits)?;
            Ok(orientation::apply(image, layout.orientation))
        }
        34925 => Err(unsupported("LZMA compression")),
        other => Err(unsupported(&format!("compression {other}"))),
    }
}

fn unsupported(found: &str) -> RowError {
    fail(
        ErrorKind::UnsupportedFormat,
        format!(
            "expected TIFF of a layout that is decoded as by Pillow, found {found}\nhint: convert the image, with Pillow or ImageMagick for instance"
        ),
    )
}

/// RGB; a strip or tile twice, one plane or all of it as it comes and all planes in a row, and one row of it; the encoded bytes where their bits are
/// reversed; the values of tags; and one strip or tile in JPEG: the encoded bytes with tables, and again where they are repaired, the
/// pixels and coefficients.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> Option<DecodeMemory> {
    let layout = TiffLayout::read(bytes)?;
    let TiffLayout { width, height, chunk: (chunk_width, chunk_height), .. } = layout;
    let sample_bytes = layout.bits.div_ceil(8);
    let image = rgb_bytes(width, height);
    let chunk = pixels(chunk_width, chunk_height.min(height)).saturating_mul(layout.samples.min(6) * sample_bytes * 2);
    let row = u64::from(chunk_width) * layout.samples * sample_bytes;
    let lists = layout.list_values.saturating_mul(VALUE_BYTES);
    let jpeg = match layout.compression {
        JPEG => pixels(chunk_width, chunk_height).saturating_mul(16).saturating_add(2 * bytes.len() as u64),
        _ => 0,
    };
    let reversed = if layout.number(FILL_ORDER, 1) == 2 { bytes.len() as u64 } else { 0 };
    let window = if layout.compression == ZSTD { ZSTD_WINDOW * 2 } else { 0 };
    let decoding =
        [image, chunk, row, lists, jpeg, reversed, window, 256 << 10].into_iter().fold(0, u64::saturating_add);
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
    /// The first value of `tag`.
    fn number(&self, tag: u16, default: u64) -> u64 {
        self.directory.field(tag).and_then(|field| field.values().next()).unwrap_or(default)
    }

    fn list(&self, tag: u16) -> Vec<u64> {
        self.directory.field(tag).map(|field| field.values().take(1 << 20).collect()).unwrap_or_default()
    }

    /// The meaning and number of samples.
    fn samples(&self) -> Option<Samples> {
        let mut count = self.number(SAMPLES, 1) as usize;
        let mut bits = self.list(BITS);
        if bits.is_empty() {
            bits.push(1);
        }
        let mut extra = self.list(EXTRA_SAMPLES);
        if self.number(PLANAR, 1) == 2 && !extra.is_empty() && extra.iter().all(|kind| *kind == 0) {
            bits.truncate(bits.len().saturating_sub(extra.len()));
            count = count.checked_sub(extra.len())?;
            extra.clear();
        }
        if count > 6 {
            return None;
        }
        if count > bits.len() && bits.len() == 1 {
            bits = vec![bits[0]; count];
        }
        bits.truncate(count);
        let formats = self.list(SAMPLE_FORMAT);
        let tags = Tags {
            is_little_endian: self.directory.is_little_endian,
            photometric: self.number(PHOTOMETRIC, 0),
            formats: if formats.is_empty() { &[1] } else { &formats },
            is_reversed: self.number(FILL_ORDER, 1) == 2,
            bits: &bits,
            extra: &extra,
        };
        let meaning = (bits.len() == count).then(|| tags.meaning())??;
        let colors = self.list(COLOR_MAP);
        let length = colors.len() / 3;
        let palette =
            (0..length.min(256)).map(|at| [0, 1, 2].map(|band| (colors[band * length + at] >> 8) as u8)).collect();
        Some(Samples { meaning, bits: bits[0] as usize, count, palette })
    }

    #[allow(clippy::too_many_lines, reason = "one loop over strips, after all that may refuse it")]
    /// The pixels of strips or tiles that are stored as they are, in LZW, deflate or `PackBits`.
    fn unpack(&self, bytes: &[u8]) -> Result<RgbImage, RowError> {
        let damaged = || corrupt("TIFF", "its strips or tiles are truncated, damaged or missing");
        let samples = self.samples().ok_or_else(|| {
            let (bits, photometric) = (self.list(BITS), self.number(PHOTOMETRIC, 0));
            let bits = &bits[..bits.len().min(6)];
            unsupported(&format!("samples of {bits:?} bits with photometric interpretation {photometric}"))
        })?;
        let fill_order = self.number(FILL_ORDER, 1);
        let is_raw = self.compression == RAW;
        let inverted_bytes = matches!(samples.meaning, Meaning::Gray { inverted: true }) && samples.bits == 8;
        let predictor =
            if is_raw || matches!(self.compression, PACKBITS | CCITT_4) { 1 } else { self.number(PREDICTOR, 1) };
        let is_planar = self.number(PLANAR, 1) == 2 && samples.count > 1;
        let is_packed_palette = matches!(samples.meaning, Meaning::Palette) && samples.bits < 8;
        if !matches!(fill_order, 1 | 2) || fill_order == 2 && is_raw && (inverted_bytes || is_packed_palette) {
            return Err(unsupported(&format!("fill order {fill_order}")));
        }
        let is_predicted = match predictor {
            1 => true,
            2 => matches!(samples.bits, 8 | 16 | 32),
            3 => matches!(samples.meaning, Meaning::Wide(Number::F32)),
            _ => false,
        };
        if !is_predicted {
            return Err(unsupported(&format!("predictor {predictor}")));
        }
        // Pillow takes them for numbers of the other byte order.
        let is_swapped = !is_raw && !self.directory.is_little_endian;
        if is_swapped && matches!(samples.meaning, Meaning::Wide(Number::I16 | Number::I32 | Number::F32)) {
            return Err(unsupported("compressed signed or floating-point samples, the high byte first"));
        }
        if self.compression == CCITT_4 && (samples.bits, samples.count) != (1, 1) {
            return Err(unsupported("CCITT compression of samples of other than one bit"));
        }
        if is_planar && samples.bits != 8 {
            return Err(unsupported("planes of more than 8 bits"));
        }
        if matches!(samples.meaning, Meaning::Palette) && samples.palette.is_empty() {
            return Err(unsupported("a palette without colours"));
        }
        let (offsets, lengths) = self.places();
        let (width, height) = (self.width as usize, self.height as usize);
        let (chunk_width, chunk_height) = (self.chunk.0 as usize, self.chunk.1 as usize);
        if chunk_width == 0 || chunk_height == 0 {
            return Err(damaged());
        }
        let (planes, per_pixel) = if is_planar { (samples.count, 1) } else { (1, samples.count) };
        let row_bytes = (chunk_width * per_pixel * samples.bits).div_ceil(8);
        let (across, down) = (width.div_ceil(chunk_width), height.div_ceil(chunk_height));
        if is_raw && across * down * planes > 1 && offsets.len() > across * down * planes {
            return Err(unsupported("more strips than rows"));
        }
        let mut image = vec![[0; 3]; width * height];
        let mut stored = Vec::new();
        let mut line = vec![0; chunk_width * samples.count * samples.bits.div_ceil(8)];
        for number in 0..across * down {
            let (left, top) = (number % across * chunk_width, number / across * chunk_height);
            let rows = chunk_height.min(height - top);
            stored.clear();
            stored.reserve_exact(planes * row_bytes * rows);
            for plane in 0..planes {
                let mut at = plane * across * down + number;
                if is_raw && across * down * planes == 1 {
                    at = offsets.len().saturating_sub(1);
                }
                let start = usize::try_from(*offsets.get(at).ok_or_else(damaged)?).map_err(|_| damaged())?;
                let data = bytes.get(start..).ok_or_else(damaged)?;
                let wanted = row_bytes * rows;
                let mut chunk = if is_raw {
                    data.get(..wanted).ok_or_else(damaged)?.to_vec()
                } else {
                    let length = usize::try_from(*lengths.get(at).ok_or_else(damaged)?).unwrap_or(usize::MAX);
                    let data = &data[..length.min(data.len())];
                    let reversed: Vec<u8>;
                    let data = if fill_order == 2 {
                        reversed = data.iter().map(|byte| byte.reverse_bits()).collect();
                        &reversed
                    } else {
                        data
                    };
                    decompress(self.compression, data, wanted, chunk_width).ok_or_else(damaged)?
                };
                if is_raw && fill_order == 2 {
                    for byte in &mut chunk {
                        *byte = byte.reverse_bits();
                    }
                }
                if predictor == 3 {
                    chunk.chunks_exact_mut(row_bytes).for_each(sum_up_floats);
                } else {
                    self.to_native(&mut chunk, samples.bits);
                }
                if predictor == 2 {
                    chunk.chunks_exact_mut(row_bytes).for_each(|row| sum_up(row, samples.bits, per_pixel));
                }
                stored.append(&mut chunk);
            }
            for row in 0..rows {
                let columns = chunk_width.min(width - left);
                let out = &mut image[(top + row) * width + left..][..columns];
                if is_planar {
                    for (plane, rows) in stored.chunks_exact(row_bytes * rows).enumerate() {
                        for (pixel, value) in line.chunks_exact_mut(samples.count).zip(&rows[row * row_bytes..]) {
                            pixel[plane] = *value;
                        }
                    }
                    samples.unpack(&line, out);
                } else {
                    samples.unpack(&stored[row * row_bytes..][..row_bytes], out);
                }
            }
        }
        Ok(RgbImage { width: self.width, height: self.height, pixels: image.into_flattened() })
    }

    /// The offsets and the lengths of the strips or tiles, in bytes.
    fn places(&self) -> (Vec<u64>, Vec<u64>) {
        let is_tiled = self.directory.field(STRIP_OFFSETS).is_none();
        let (offsets, lengths) = if is_tiled { (TILE_OFFSETS, TILE_BYTES) } else { (STRIP_OFFSETS, STRIP_BYTES) };
        (self.list(offsets), self.list(lengths))
    }

    /// The pixels of strips or tiles in JPEG, gray, RGB, `YCbCr` or CMYK, which is not inverted here.
    fn unpack_jpeg(&self, bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
        let damaged = || corrupt("TIFF", "its strips or tiles are truncated, damaged or missing");
        let bits = self.list(BITS);
        // Samples in RGB look like YCbCr to a decoder that does not know the photometric interpretation.
        let adobe = |transform| vec![0xff, 0xee, 0, 14, b'A', b'd', b'o', b'b', b'e', 0, 100, 0, 0, 0, 0, transform];
        let marker = match (self.number(PHOTOMETRIC, 0), self.number(SAMPLES, 1)) {
            _ if bits.iter().any(|bits| *bits != 8) || self.number(PLANAR, 1) != 1 => None,
            (1, 1) => Some(Vec::new()),
            (2, 3) | (5, 4) => Some(adobe(0)),
            (6, 3) => Some(adobe(1)),
            _ => None,
        };
        let marker =
            marker.ok_or_else(|| unsupported("JPEG compression of other than gray, RGB, YCbCr or CMYK of 8 bits"))?;
        let tables = self.directory.field(JPEG_TABLES).map_or(&[][..], |field| field.data);
        let tables = tables.strip_prefix(b"\xff\xd8").unwrap_or_default();
        let tables = tables.strip_suffix(b"\xff\xd9").unwrap_or(tables);
        let (offsets, lengths) = self.places();
        let (width, height) = (self.width as usize, self.height as usize);
        let (chunk_width, chunk_height) = (self.chunk.0 as usize, self.chunk.1 as usize);
        if chunk_width == 0 || chunk_height == 0 {
            return Err(damaged());
        }
        let across = width.div_ceil(chunk_width);
        let mut image = vec![0; width * height * 3];
        for number in 0..across * height.div_ceil(chunk_height) {
            let (left, top) = (number % across * chunk_width, number / across * chunk_height);
            let start = usize::try_from(*offsets.get(number).ok_or_else(damaged)?).map_err(|_| damaged())?;
            let length = usize::try_from(*lengths.get(number).ok_or_else(damaged)?).unwrap_or(usize::MAX);
            let data = bytes.get(start..).ok_or_else(damaged)?;
            let data = data[..length.min(data.len())].strip_prefix(b"\xff\xd8").ok_or_else(damaged)?;
            let whole = [b"\xff\xd8", &marker[..], tables, data].concat();
            let cmyk_to_rgb = |ink: [u8; 4]| jpeg::inverted_cmyk_to_rgb(ink.map(|ink| !ink));
            let part = jpeg::decode_with(&whole, limits, |_, _| JpegScale::Full, cmyk_to_rgb)?.image;
            let (columns, rows) = (chunk_width.min(width - left), chunk_height.min(height - top));
            if (part.width as usize) < columns || (part.height as usize) < rows {
                return Err(damaged());
            }
            for row in 0..rows {
                let from = &part.pixels[row * part.width as usize * 3..][..columns * 3];
                image[((top + row) * width + left) * 3..][..columns * 3].copy_from_slice(from);
            }
        }
        Ok(RgbImage { width: self.width, height: self.height, pixels: image })
    }

    /// Numbers of more than a byte, in the byte order of this machine.
    fn to_native(&self, bytes: &mut [u8], bits: usize) {
        if bits > 8 && self.directory.is_little_endian != cfg!(target_endian = "little") {
            bytes.chunks_exact_mut(bits / 8).for_each(<[u8]>::reverse);
        }
    }

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
