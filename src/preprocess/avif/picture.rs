//! What an AVIF file holds: where its AV1 data lie, and what it says of the picture. Data only.

use std::borrow::Cow;

use super::properties::Colors;

/// What a file holds.
pub(super) struct Avif<'a> {
    pub(super) color: Layer<'a>,
    pub(super) alpha: Option<Layer<'a>>,
    /// Whether colours are multiplied by alpha.
    pub(super) is_premultiplied: bool,
    /// What the file says of colours; the AV1 data say it otherwise.
    pub(super) colors: Option<Colors>,
    /// As in EXIF, by the file's own rotation and mirror.
    pub(super) orientation: u8,
    pub(super) exif: Option<Cow<'a, [u8]>>,
    pub(super) xmp: Option<Cow<'a, [u8]>>,
}

/// The AV1 data of the colours or of alpha.
pub(super) struct Layer<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Of a row of tiles.
    pub(super) columns: usize,
    /// From the left top, row by row.
    pub(super) tiles: Vec<Cow<'a, [u8]>>,
    /// Width and height of every tile.
    pub(super) tile: (u32, u32),
    pub(super) operating_point: u8,
}
