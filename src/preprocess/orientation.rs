//! EXIF orientation: metadata in, an upright image out, as by Pillow's `ImageOps.exif_transpose`.

use image::metadata::Orientation;

use super::image::RgbImage;

/// Rows of the output written together, so that reading down a column of the input stays within the cache.
const STRIP: usize = 16;

/// The orientation that EXIF states (with or without its `Exif\0\0` prefix), else the one XMP states, else upright. Where EXIF has the
/// tag, or does not begin like EXIF, XMP does not count.
pub(super) fn find(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let exif = exif.map(without_prefix).filter(|bytes| !bytes.is_empty());
    let stated = exif.and_then(|exif| Header::of(exif).map_or(Some(0), |header| header.orientation(exif)));
    let number = stated.or_else(|| xmp.and_then(from_xmp));
    number.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
}

/// Pillow drops up to two of these.
fn without_prefix(exif: &[u8]) -> &[u8] {
    const PREFIX: &[u8] = b"Exif\0\0";
    let once = exif.strip_prefix(PREFIX).unwrap_or(exif);
    once.strip_prefix(PREFIX).unwrap_or(once)
}

/// How a TIFF structure begins.
#[derive(Debug, Clone, Copy)]
struct Header {
    big_endian: bool,
    /// Where its first directory is.
    directory: usize,
}

impl Header {
    const BYTES: usize = 8;
    const ENTRY: usize = 12;
    const ORIENTATION: u64 = 0x0112;

    /// Two of the four headers are wrong ones that Pillow reads nevertheless. It fails on `BigTIFF` here.
    fn of(bytes: &[u8]) -> Option<Self> {
        let big_endian = match bytes.first_chunk()? {
            b"MM\0*" | b"MM*\0" => true,
            b"II*\0" | b"II\0*" => false,
            _ => return None,
        };
        let header = Self { big_endian, directory: 0 };
        let directory = usize::try_from(header.number(bytes.get(4..Self::BYTES)?)).ok()?;
        Some(Self { directory, ..header })
    }

    fn number(self, bytes: &[u8]) -> u64 {
        let add = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
        if self.big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) }
    }

    /// The orientation in the first directory, of whatever type; 0 for a value that is none. Tags whose type is unknown or that are
    /// empty do not count; a tag whose value lies beyond the end is the last that is read.
    fn orientation(self, bytes: &[u8]) -> Option<u8> {
        let entries = bytes.get(self.directory..)?;
        let (count, entries) = entries.split_at_checked(2)?;
        let mut outside = 0;
        for entry in entries.chunks_exact(Self::ENTRY).take(self.number(count) as usize) {
            let (kind, values) = (self.number(&entry[2..4]), self.number(&entry[4..8]));
            let Some(value_bytes) = Value::bytes(kind) else { continue };
            let size = values.saturating_mul(value_bytes as u64);
            let value = if size <= 4 {
                &entry[8..8 + size as usize]
            } else {
                outside += size.min(bytes.len() as u64 + 1);
                if outside > bytes.len() as u64 {
                    continue;
                }
                let first = self.number(&entry[8..]) as usize;
                bytes.get(first..first.saturating_add(size as usize))?
            };
            if self.number(&entry[..2]) == Self::ORIENTATION && !value.is_empty() {
                return Some(Value { kind, header: self }.first(value));
            }
        }
        None
    }
}

/// The values of a tag.
#[derive(Debug, Clone, Copy)]
struct Value {
    kind: u64,
    header: Header,
}

impl Value {
    /// The size of one value of the type `kind`.
    const fn bytes(kind: u64) -> Option<usize> {
        Some(match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 => 8,
            _ => return None,
        })
    }

    /// The first of `values` if it is a number from 1 to 8, else 0. Bytes and texts are no numbers to Pillow; floats and fractions
    /// are.
    fn first(self, values: &[u8]) -> u8 {
        let Some(bytes) = Self::bytes(self.kind).and_then(|size| values.get(..size)) else { return 0 };
        let number = self.header.number(bytes);
        let half = |bytes: &[u8]| self.header.number(bytes) as u32;
        let value = match self.kind {
            3 | 4 | 13 | 16 => number as f64,
            6 => f64::from(number as u8 as i8),
            8 => f64::from(number as u16 as i16),
            9 => f64::from(number as u32 as i32),
            11 => f64::from(f32::from_bits(number as u32)),
            12 => f64::from_bits(number),
            5 => f64::from(half(&bytes[..4])) / f64::from(half(&bytes[4..])),
            10 => f64::from(half(&bytes[..4]) as i32) / f64::from(half(&bytes[4..]) as i32),
            _ => return 0,
        };
        (1..=8).find(|orientation| f64::from(*orientation).total_cmp(&value).is_eq()).unwrap_or(0)
    }
}

/// The digit in the first `tiff:Orientation="6"` or `<tiff:Orientation>6<`: Pillow looks for it when EXIF has no orientation.
fn from_xmp(xmp: &[u8]) -> Option<u8> {
    const TAG: &[u8] = b"tiff:Orientation";
    memchr::memmem::find_iter(xmp, TAG).find_map(|at| {
        let value = xmp.get(at + TAG.len()..)?;
        let digit = value.strip_prefix(b"=\"").or_else(|| value.strip_prefix(b">"))?.first()?;
        digit.is_ascii_digit().then(|| digit - b'0')
    })
}

/// Whether rows become columns.
pub(super) fn swaps_sides(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}

/// Rotates and mirrors `image` upright.
pub(super) fn apply(image: RgbImage, orientation: Orientation) -> RgbImage {
    let (w, h) = (image.width as isize, image.height as isize);
    // Output pixel (x, y) is input pixel `base + x * dx + y * dy`.
    let (base, dx, dy) = match orientation {
        Orientation::NoTransforms => return image,
        Orientation::FlipHorizontal => (w - 1, -1, w),
        Orientation::Rotate180 => (w * h - 1, -1, -w),
        Orientation::FlipVertical => ((h - 1) * w, 1, -w),
        Orientation::Rotate90FlipH => (0, w, 1),
        Orientation::Rotate90 => ((h - 1) * w, -w, 1),
        Orientation::Rotate270FlipH => (w * h - 1, -w, -1),
        Orientation::Rotate270 => (w - 1, w, -1),
    };
    let (width, height) =
        if swaps_sides(orientation) { (image.height, image.width) } else { (image.width, image.height) };
    let source = image.pixels.as_chunks::<3>().0;
    let mut pixels = vec![0u8; image.pixels.len()];
    let row = width as usize;
    for (strip, rows) in pixels.as_chunks_mut::<3>().0.chunks_mut(STRIP * row).enumerate() {
        for x in 0..row {
            let first = base + x as isize * dx + (strip * STRIP) as isize * dy;
            for (y, pixel) in rows.iter_mut().skip(x).step_by(row).enumerate() {
                *pixel = source[(first + y as isize * dy) as usize];
            }
        }
    }
    RgbImage { width, height, pixels }
}
