//! What happens to the 8-bit pixels of an image before they become numbers: in an order that covers every image processor, it is
//! turned, padded or cropped, then resized, and then cropped or padded around its centre.

use image::metadata::Orientation;

use super::image::RgbImage;
use super::normalize::Placement;
use super::resample::{self, Filter, Window};
use super::size::Size;
use super::{orientation, reduce};

/// A step before the image is resized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Before {
    /// Turned a quarter clockwise if its long side is not where that of this height and width is.
    Turn { height: u32, width: u32 },
    /// Padded to a square of this colour.
    Square([u8; 3]),
    /// Cropped around its centre to these parts of its short side.
    Part { height: f64, width: f64 },
}

impl Before {
    fn turns(self, height: u32, width: u32) -> bool {
        matches!(self, Self::Turn { height: to_height, width: to_width }
            if (to_width < to_height && width > height) || (to_width > to_height && width < height))
    }

    /// Height and width afterwards.
    fn size(self, height: u32, width: u32) -> (u32, u32) {
        let short = f64::from(height.min(width));
        match self {
            Self::Turn { .. } if self.turns(height, width) => (width, height),
            Self::Turn { .. } => (height, width),
            Self::Square(_) => (height.max(width), height.max(width)),
            Self::Part { height, width } => (((height * short) as u32).max(1), ((width * short) as u32).max(1)),
        }
    }

    fn apply(self, image: &RgbImage) -> Option<RgbImage> {
        let size = self.size(image.height, image.width);
        match self {
            Self::Turn { .. } => {
                self.turns(image.height, image.width).then(|| orientation::apply(image.clone(), Orientation::Rotate90))
            }
            // Nothing of the image is left, which Pillow resizes to black.
            Self::Part { height, width } if height.min(width) * f64::from(image.height.min(image.width)) < 1.0 => {
                let pixels = vec![0; 3 * size.0 as usize * size.1 as usize];
                Some(RgbImage { width: size.1, height: size.0, pixels })
            }
            _ if size == (image.height, image.width) => None,
            Self::Square(colour) => Some(canvas(image, Crop { size, centre: Centre::Torchvision, colour })),
            Self::Part { .. } => Some(canvas(image, Crop { size, centre: Centre::Transformers, colour: [0; 3] })),
        }
    }
}

/// Donut's second resizing, of images that are longer than they are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thumbnail {
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) filter: Filter,
    /// Averages whole pixels first.
    pub(super) reduces: bool,
}

impl Thumbnail {
    fn size(self, height: u32, width: u32) -> (u32, u32) {
        let (to_height, to_width) = (height.min(self.height), width.min(self.width));
        let scaled =
            |side: u32, to: u32, from: u32| ((u64::from(side) * u64::from(to) / u64::from(from)) as u32).max(1);
        if (to_height, to_width) == (height, width) || height == width {
            (to_height, to_width)
        } else if height > width {
            (to_height, scaled(width, to_height, height))
        } else {
            (scaled(height, to_width, width), to_width)
        }
    }

    fn apply(self, image: RgbImage) -> RgbImage {
        let size = self.size(image.height, image.width);
        if size == (image.height, image.width) {
            image
        } else if self.reduces {
            reduce::resize(&image, size, self.filter)
        } else {
            scale(&image, size, self.filter)
        }
    }
}

/// Where the centre of an image of another size is, and how an odd pixel counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Centre {
    /// transformers' `center_crop`.
    Transformers,
    /// The `CenterCrop` of torchvision, timm and `open_clip`, and Donut's padding.
    Torchvision,
}

impl Centre {
    /// Where a centred crop of `wanted` meets `have` pixels: the first pixel of the source that is kept, how many are, and where they
    /// begin in the crop.
    fn overlap(self, have: u32, wanted: u32) -> (usize, usize, usize) {
        let more = i64::from(have) - i64::from(wanted);
        let offset = match self {
            Self::Transformers => more.div_euclid(2),
            Self::Torchvision if more < 0 => more / 2,
            Self::Torchvision => (more as f64 / 2.0).round_ties_even() as i64,
        };
        let start = offset.max(0);
        let end = (offset + i64::from(wanted)).min(i64::from(have));
        (start as usize, (end - start).max(0) as usize, (start - offset) as usize)
    }
}

/// The part of an image around its centre, and a colour for what the image does not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crop {
    /// Height and width.
    pub(super) size: (u32, u32),
    pub(super) centre: Centre,
    pub(super) colour: [u8; 3],
}

/// All steps on 8-bit pixels.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Geometry {
    pub(super) before: Option<Before>,
    pub(super) resize: Option<(Size, Filter)>,
    pub(super) thumbnail: Option<Thumbnail>,
    pub(super) crop: Option<Crop>,
}

/// Pixels of an image (`[height, columns, 3]`) and where they are in the whole.
pub(super) struct Patch {
    pub(super) pixels: Vec<u8>,
    pub(super) columns: usize,
    pub(super) at: Placement,
}

impl Geometry {
    pub(super) fn process(&self, image: &RgbImage) -> Patch {
        let changed = self.before.and_then(|step| step.apply(image));
        let image = changed.as_ref().unwrap_or(image);
        let size = self.scaled(image.height, image.width);
        let filter = self.resize.map_or(Filter::Nearest, |(_, filter)| filter);
        match self.thumbnail {
            Some(thumbnail) => {
                let small = thumbnail.apply(scale(image, size, filter));
                self.patch(&small, (small.height, small.width), Filter::Nearest)
            }
            None => self.patch(image, size, filter),
        }
    }

    /// The part of `image`, resized to `size`, that the crop keeps.
    fn patch(&self, image: &RgbImage, size: (u32, u32), filter: Filter) -> Patch {
        let crop = self.crop.unwrap_or(Crop { size, centre: Centre::Transformers, colour: [0; 3] });
        let (height, width) = crop.size;
        let (top, rows, row) = crop.centre.overlap(size.0, height);
        let (left, columns, column) = crop.centre.overlap(size.1, width);
        let window = Window { left, top, width: columns, height: rows };
        let pixels = resample::resize(image, (size.1 as usize, size.0 as usize), filter, window);
        Patch { pixels, columns, at: Placement { left: column, top: row, width, height, colour: crop.colour } }
    }

    /// Height and width after the first resizing of an image of `height` x `width`, which has been turned, padded or cropped.
    fn scaled(&self, height: u32, width: u32) -> (u32, u32) {
        self.resize.map_or((height, width), |(size, _)| size.of(height, width))
    }

    /// Height and width before the first resizing.
    fn changed(&self, height: u32, width: u32) -> (u32, u32) {
        self.before.map_or((height, width), |step| step.size(height, width))
    }

    /// The most pixels of an image that is made of one of `height` x `width`: the result, or one in between that is whole.
    pub(super) fn most_at_once(&self, height: u32, width: u32) -> u64 {
        let area = |(height, width): (u32, u32)| u64::from(height) * u64::from(width);
        let changed = self.changed(height, width);
        let scaled = self.scaled(changed.0, changed.1);
        let small = self.thumbnail.map_or(scaled, |thumbnail| thumbnail.size(scaled.0, scaled.1));
        let result = area(self.crop.map_or(small, |crop| crop.size));
        let before = self.before.map_or(0, |_| area(changed));
        result.max(before).max(self.thumbnail.map_or(0, |_| area(scaled)))
    }

    /// Height and width of every result, if they do not depend on the image.
    pub(super) fn fixed(&self) -> Option<(u32, u32)> {
        match (self.crop, self.thumbnail, self.resize) {
            (Some(crop), ..) => Some(crop.size),
            (None, None, Some((Size::Exact { height, width }, _))) => Some((height, width)),
            _ => None,
        }
    }

    /// The most pixels of a result, if there is a bound for all images.
    pub(super) fn most_pixels(&self) -> Option<u64> {
        match (self.crop, self.thumbnail) {
            (Some(Crop { size: (height, width), .. }), _) | (None, Some(Thumbnail { height, width, .. })) => {
                Some(u64::from(height) * u64::from(width))
            }
            (None, None) => self.resize?.0.most_pixels(),
        }
    }

    /// Height and width that an image of `height` x `width` is resized to, if that is the first step.
    pub(super) fn first_size(&self, height: u32, width: u32) -> Option<(u32, u32)> {
        self.resize
            .filter(|_| self.before.is_none() && self.thumbnail.is_none())
            .map(|(size, _)| size.of(height, width))
    }

    /// Most bytes that [`Self::process`] takes at once.
    pub(super) fn memory_needed(&self, width: u32, height: u32) -> u64 {
        let rgb = |(height, width): (u32, u32)| 3 * u64::from(height) * u64::from(width);
        let from = self.changed(height, width);
        let changed = self.before.map_or(0, |_| 2 * rgb(from));
        let to = self.scaled(from.0, from.1);
        let swap = |(height, width): (u32, u32)| (width, height);
        let kept = match (self.crop, self.thumbnail) {
            (Some(Crop { size, .. }), None) => (size.0.min(to.0), size.1.min(to.1)),
            _ => to,
        };
        let resizing = resample::memory_needed(swap(from), swap(to), swap(kept));
        let second = self.thumbnail.map_or(0, |thumbnail| {
            let small = thumbnail.size(to.0, to.1);
            rgb(to) + 2 * rgb(small) + resample::memory_needed(swap(to), swap(small), swap(small))
        });
        changed.saturating_add(resizing).saturating_add(second)
    }

    /// For people, a text for each step.
    pub(super) fn describe(&self) -> impl Iterator<Item = String> {
        let before = self.before.map(|step| match step {
            Before::Turn { height, width } => format!("turn towards {height}x{width}"),
            Before::Square(colour) => format!("pad to a square of {colour:?}"),
            Before::Part { height, width } => format!("crop to {height:.3} x {width:.3} of the short side"),
        });
        let resize = self.resize.map(|(size, filter)| format!("resize {} {}", size.describe(), filter.name()));
        let thumbnail = self.thumbnail.map(|Thumbnail { height, width, filter, .. }| {
            format!("thumbnail of at most {height}x{width} {}", filter.name())
        });
        let crop = self.crop.map(|Crop { size: (height, width), .. }| {
            let pads = self.thumbnail.is_some() || matches!(self.resize, Some((Size::Ratio { longest: true, .. }, _)));
            format!("{} {height}x{width}", if pads { "pad to" } else { "center crop" })
        });
        [before, resize, thumbnail, crop].into_iter().flatten()
    }
}

/// `image` at `height` x `width`.
fn scale(image: &RgbImage, (height, width): (u32, u32), filter: Filter) -> RgbImage {
    let to = (width as usize, height as usize);
    RgbImage { width, height, pixels: resample::resize(image, to, filter, Window::whole(to)) }
}

/// `image` cropped or padded.
fn canvas(image: &RgbImage, crop: Crop) -> RgbImage {
    let (height, width) = crop.size;
    let (top, rows, row) = crop.centre.overlap(image.height, height);
    let (left, columns, column) = crop.centre.overlap(image.width, width);
    let mut pixels = crop.colour.repeat(height as usize * width as usize);
    let source = image.pixels.chunks_exact(3 * image.width as usize).skip(top).take(rows);
    for (out, line) in pixels.chunks_exact_mut(3 * width as usize).skip(row).zip(source) {
        out[3 * column..][..3 * columns].copy_from_slice(&line[3 * left..][..3 * columns]);
    }
    RgbImage { width, height, pixels }
}
