//! Images split into tiles, as the image processors of Idefics3 and `SmolVLM` do it. In: an image. Out: its tiles row by row,
//! then the whole image at the size of a tile.

use serde_json::Value;

use super::error::ConfigError;
use super::image::{PixelValues, RgbImage, TileGrid};
use super::keys::Keys;
use super::normalize::{Normalizer, Placement};
use super::resample::{self, Filter, Window};

/// No side becomes longer than this before it is split (`MAX_IMAGE_SIZE` in transformers).
const LONGEST: u32 = 4096;

/// The smallest tile: each is an image of its own.
const LEAST_SIDE: u32 = 8;

/// How images are split into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling {
    /// The long side of every image before it is split.
    longest: Option<u32>,
    /// The sides of a tile.
    pub(super) side: u32,
    /// Whether it is split at all, or made one tile.
    splits: bool,
    pub(super) filter: Filter,
}

impl Tiling {
    pub(super) fn from_keys(keys: Keys<'_>, filter: Filter) -> Result<Self, ConfigError> {
        let edge = |key: &str, default: u32| match keys.get(key) {
            None => Ok(default),
            Some(value) => {
                let edge = value.get("longest_edge").and_then(Value::as_u64).and_then(|edge| u32::try_from(edge).ok());
                let expected = "{\"longest_edge\": ..}, in pixels from 1 to 65535";
                edge.filter(|edge| (1..=65535).contains(edge)).ok_or_else(|| ConfigError::invalid(key, expected, value))
            }
        };
        let longest = edge("size", 4 * 364)?;
        Ok(Self {
            longest: keys.flag("do_resize", true)?.then_some(longest),
            side: edge("max_image_size", 364).and_then(|side| {
                let expected = format!("{{\"longest_edge\": ..}} of at least {LEAST_SIDE} pixels");
                if side >= LEAST_SIDE {
                    Ok(side)
                } else {
                    Err(ConfigError::Invalid { key: "max_image_size".to_owned(), expected, found: side.to_string() })
                }
            })?,
            splits: keys.flag("do_image_splitting", true)?,
            filter,
        })
    }

    /// The most tiles that an image can become.
    pub(super) fn most_tiles(&self) -> usize {
        let across = self.longest.unwrap_or(LONGEST).min(LONGEST).div_ceil(self.side) as usize;
        if self.splits { across * across + 1 } else { 1 }
    }

    /// Height and width that an image of `height` x `width` is resized to before it is split, if it is resized.
    pub(super) fn resized(&self, height: u32, width: u32) -> Option<(u32, u32)> {
        self.longest.map(|longest| long_side((height, width), longest))
    }

    pub(super) fn process(&self, image: &RgbImage, normalizer: &Normalizer) -> PixelValues {
        let scaled = self.resized(image.height, image.width).map(|size| self.scale(image, size));
        let image = scaled.as_ref().unwrap_or(image);
        let side = (self.side, self.side);
        if !self.splits {
            return whole(&[self.scale(image, side)], TileGrid { rows: 0, columns: 0 }, normalizer);
        }
        let (height, width) = multiples((image.height, image.width), self.side);
        let image = self.scale(image, (height, width));
        let (rows, columns) = (height / self.side, width / self.side);
        if (rows, columns) == (1, 1) {
            return whole(&[image], TileGrid { rows: 0, columns: 0 }, normalizer);
        }
        let mut tiles = Vec::with_capacity(rows as usize * columns as usize + 1);
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            tiles.push(cut(&image, row * self.side, column * self.side, self.side));
        }
        tiles.push(self.scale(&image, side));
        whole(&tiles, TileGrid { rows, columns }, normalizer)
    }

    /// Most bytes that [`Self::process`] takes at once, its result not counted: the image resized twice, and its tiles.
    pub(super) fn memory_needed(&self, width: u32, height: u32) -> u64 {
        let swap = |(height, width): (u32, u32)| (width, height);
        let rgb = |(columns, rows): (u32, u32)| 3 * u64::from(columns) * u64::from(rows);
        let from = (width, height);
        let scaled = self.resized(height, width).map_or(from, swap);
        let whole = if self.splits { swap(multiples(swap(scaled), self.side)) } else { (self.side, self.side) };
        let resizing = resample::memory_needed(from, scaled, scaled) + resample::memory_needed(scaled, whole, whole);
        resizing + rgb(whole) + rgb((self.side, self.side))
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let longest = self.longest.map_or(String::new(), |longest| format!("resize longest edge {longest}, "));
        let cut = if self.splits { "cut into tiles of" } else { "resize" };
        format!("{longest}{cut} {side}x{side} {filter}", side = self.side, filter = self.filter.name())
    }

    /// `image` at `height` x `width`.
    fn scale(&self, image: &RgbImage, (height, width): (u32, u32)) -> RgbImage {
        let window = Window { left: 0, top: 0, width: width as usize, height: height as usize };
        let pixels = resample::resize(image, (width as usize, height as usize), self.filter, window);
        RgbImage { width, height, pixels }
    }
}

/// Height and width with a long side of `longest`; the short one is made even.
fn long_side((height, width): (u32, u32), longest: u32) -> (u32, u32) {
    let aspect = f64::from(width) / f64::from(height);
    let even = |side: u32| side + side % 2;
    let (height, width) = if width >= height {
        (even((f64::from(longest) / aspect) as u32), longest)
    } else {
        (longest, even((f64::from(longest) * aspect) as u32))
    };
    let (height, width) = (height.max(1), width.max(1));
    let aspect = f64::from(width) / f64::from(height);
    if width >= height && width > LONGEST {
        (((f64::from(LONGEST) / aspect) as u32).max(1), LONGEST)
    } else if height > width && height > LONGEST {
        (LONGEST, ((f64::from(LONGEST) * aspect) as u32).max(1))
    } else {
        (height, width)
    }
}

/// Height and width as whole tiles: first the long side, then the short one that keeps the aspect ratio.
fn multiples((height, width): (u32, u32), side: u32) -> (u32, u32) {
    let aspect = f64::from(width) / f64::from(height);
    let up = |length: u32| length.div_ceil(side).max(1) * side;
    if width >= height {
        let width = up(width);
        (up((f64::from(width) / aspect) as u32), width)
    } else {
        let height = up(height);
        (height, up((f64::from(height) * aspect) as u32))
    }
}

/// The square of `side` pixels whose first is at `top`, `left`.
fn cut(image: &RgbImage, top: u32, left: u32, side: u32) -> RgbImage {
    let (stride, row_bytes) = (3 * image.width as usize, 3 * side as usize);
    let mut pixels = Vec::with_capacity(row_bytes * side as usize);
    for row in image.pixels.chunks_exact(stride).skip(top as usize).take(side as usize) {
        let start = 3 * left as usize;
        pixels.extend_from_slice(&row[start..start + row_bytes]);
    }
    RgbImage { width: side, height: side, pixels }
}

/// The tiles of one image, normalised.
fn whole(tiles: &[RgbImage], grid: TileGrid, normalizer: &Normalizer) -> PixelValues {
    let (width, height) = tiles.first().map_or((0, 0), |tile| (tile.width, tile.height));
    let patches: Vec<_> = tiles.iter().map(|tile| (tile.pixels.as_slice(), tile.width as usize)).collect();
    let data = normalizer.apply(&patches, Placement { left: 0, top: 0, width, height, colour: [0; 3] });
    PixelValues { data, height, width, grid: Some(grid) }
}
