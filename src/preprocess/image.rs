//! The results of preprocessing: decoded images and tensors. Data only.

use super::pixel_data::PixelData;

/// An upright 8-bit RGB image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns, after EXIF rotation.
    pub width: u32,
    /// Rows, after EXIF rotation.
    pub height: u32,
    /// `[height, width, 3]` u8, interleaved RGB, rows without padding; always this long when it comes from
    /// [`decode()`](super::decode()).
    pub pixels: Vec<u8>,
}

/// The input of a vision model for one image.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelValues {
    /// `[3, height, width]` RGB, rescaled and normalised; `[tiles, 3, height, width]` of an image that is split into tiles.
    pub data: PixelData,
    /// Rows, of each tile.
    pub height: u32,
    /// Columns, of each tile.
    pub width: u32,
    /// How the image was split; `None` by preprocessing that never does.
    pub grid: Option<TileGrid>,
}

impl PixelValues {
    /// The number of tiles.
    pub fn tiles(&self) -> usize {
        self.grid.map_or(1, TileGrid::tiles)
    }
}

/// How an image was split into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileGrid {
    /// Rows of tiles; 0 if the image is one tile by itself.
    pub rows: u32,
    /// Columns of tiles; 0 if the image is one tile by itself.
    pub columns: u32,
}

impl TileGrid {
    /// How many tiles that makes, with the one of the whole image.
    pub fn tiles(self) -> usize {
        self.rows as usize * self.columns as usize + 1
    }
}
