//! EXIF orientation: metadata in, an upright image out, as by Pillow's `ImageOps.exif_transpose`.

use image::metadata::Orientation;

use super::image::RgbImage;

/// Rows of the output written together, so that reading down a column of the input stays within the cache.
const STRIP: usize = 16;

/// The orientation that EXIF states (with or without its `Exif\0\0` prefix), else the one XMP states, else upright.
pub(super) fn find(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let exif = exif.map(|bytes| bytes.strip_prefix(b"Exif\0\0").unwrap_or(bytes));
    exif.and_then(Orientation::from_exif_chunk).or_else(|| xmp.and_then(from_xmp)).unwrap_or(Orientation::NoTransforms)
}

/// The digit in `tiff:Orientation="6"` or `<tiff:Orientation>6<`: Pillow looks for it when EXIF has no orientation.
fn from_xmp(xmp: &[u8]) -> Option<Orientation> {
    const TAG: &[u8] = b"tiff:Orientation";
    memchr::memmem::find_iter(xmp, TAG).find_map(|at| {
        let value = xmp.get(at + TAG.len()..)?;
        let digit = value.strip_prefix(b"=\"").or_else(|| value.strip_prefix(b">"))?.first()?;
        digit.is_ascii_digit().then(|| Orientation::from_exif(digit - b'0')).flatten()
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
