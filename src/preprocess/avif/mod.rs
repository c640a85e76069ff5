//! AVIF bytes in, the primary image (of a sequence the first) as an upright RGB image out, as Pillow's `AvifImagePlugin` shows it: by
//! the rotation and mirror of the file, not of its EXIF, and without its alpha.

mod boxes;
mod color;
mod container;
mod frame;
mod picture;
mod properties;
mod sequence;
mod track;

use image::metadata::Orientation;

use self::color::to_rgb;
pub(super) use self::container::is_avif;
use self::frame::Frame;
use self::picture::{Avif, Layer};
use self::properties::Colors;
use self::sequence::Sequence;
use super::image::RgbImage;
use super::limits::DecodeLimits;
use super::memory::{DecodeMemory, pixels, rgb_bytes};
use super::orientation;
use crate::row::error::RowError;

/// Columns and rows that the decoder's pictures are rounded up to.
const ALIGNED: u32 = 128;
/// Bytes of a pixel that the decoder keeps beside its pictures.
const SCRATCH: u64 = 1;

pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<RgbImage, RowError> {
    let file = container::read(bytes)?;
    for layer in [Some(&file.color), file.alpha.as_ref()].into_iter().flatten() {
        limits.check("AVIF", u64::from(layer.width), u64::from(layer.height))?;
        limits.check("AVIF", u64::from(layer.tile.0), u64::from(layer.tile.1))?;
    }
    let color = Frame::decode(&file.color)?;
    let alpha = file.alpha.as_ref().map(|layer| Frame::decode_alpha(layer, &color)).transpose()?;
    let stated = color.sequence();
    let (primaries, matrix, is_full_range) = (stated.primaries, stated.matrix, stated.is_full_range);
    let colors = file.colors.unwrap_or(Colors { primaries, matrix, is_full_range });
    let image = to_rgb(&color, alpha.as_ref(), file.is_premultiplied, colors)?;
    drop((color, alpha));
    Ok(orientation::apply(image, upright(&file)))
}

/// The file's own rotation; without one, that of XMP, where EXIF does not say that there is none.
fn upright(file: &Avif) -> Orientation {
    if file.orientation != 1 {
        return Orientation::from_exif(file.orientation).unwrap_or(Orientation::NoTransforms);
    }
    let exif = file.exif.as_deref();
    match orientation::find(exif, None) {
        Orientation::NoTransforms => orientation::find(exif, file.xmp.as_deref()),
        _ => Orientation::NoTransforms,
    }
}

/// RGB, and for colours and alpha: every tile's picture, its AV1 data, a second picture where there may be film grain, and other values
/// of the tile that is being decoded.
pub(super) fn memory(bytes: &[u8], limits: DecodeLimits) -> Option<DecodeMemory> {
    let file = container::read(bytes).ok()?;
    let size = (file.color.width, file.color.height);
    let layers = [Some(&file.color), file.alpha.as_ref()];
    let decoding = layers.into_iter().flatten().map(layer_memory).sum::<Option<u64>>()?;
    let decoding = decoding.saturating_add(rgb_bytes(size.0, size.1)).saturating_add(3 << 19);
    Some(DecodeMemory::within(limits, size, decoding, upright(&file)))
}

fn layer_memory(layer: &Layer) -> Option<u64> {
    let sequence = Sequence::of(layer.tiles.first()?).ok()?;
    let aligned = |side: u32| side.div_ceil(ALIGNED).saturating_mul(ALIGNED);
    let tile = pixels(aligned(layer.tile.0), aligned(layer.tile.1));
    let pictures = layer.tiles.len() as u64 + u64::from(sequence.has_grain);
    let pictures = pictures.saturating_mul(tile).saturating_mul(sequence.doubled_pixel_bytes()) / 2;
    let data = layer.tiles.iter().map(|tile| tile.len() as u64).max()?;
    Some(pictures.saturating_add(tile.saturating_mul(SCRATCH)).saturating_add(data))
}
