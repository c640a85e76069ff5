//! `preprocessor_config.json` in, a validated [`ImageProcessor`] out. A key that would change pixels and is not supported
//! is refused here; keys that change nothing are ignored.

use serde_json::Value;

use super::defaults::Size;
use super::error::ConfigError;
use super::image::{PixelValues, RgbImage};
use super::keys::{Keys, missing, number};
use super::normalize::{Normalizer, Placement};
use super::resample::{self, Filter, Window};
use super::scale::JpegScale;
use super::tiles::Tiling;

/// The most values that every image may become: 5792 x 5792 pixels, or 253 tiles of 364 x 364. 400 MB of float32.
const MOST_VALUES: usize = 3 << 25;

/// A validated `preprocessor_config.json`: what happens to every image before the model.
#[derive(Debug, Clone)]
pub struct ImageProcessor {
    tiling: Option<Tiling>,
    resize: Option<(Size, Filter)>,
    /// Height and width.
    crop: Option<(u32, u32)>,
    rescale: Option<f64>,
    mean_std: Option<([f64; 3], [f64; 3])>,
    normalizer: Normalizer,
}

impl ImageProcessor {
    /// Reads the content of `preprocessor_config.json` (or of a `processor_config.json` that holds it under
    /// `image_processor`). Missing keys get the defaults of the named `image_processor_type` (`ViT`, `DeiT`, CLIP, BLIP,
    /// `SigLIP`, `BiT`, Pvt, `LLaVA`, their `Fast` twins and the older `feature_extractor_type`); without a type
    /// nothing is guessed and the keys must be there. Images are always converted to RGB, whatever `do_convert_rgb` says.
    ///
    /// # Errors
    /// [`ConfigError`] for a wrong value and for every key that would change pixels in a way not supported here.
    pub fn from_config(config: &Value) -> Result<Self, ConfigError> {
        let config = config.get("image_processor").filter(|inner| inner.is_object()).unwrap_or(config);
        let Some(config) = config.as_object() else {
            return Err(ConfigError::invalid("(file)", "a JSON object", config));
        };
        let keys = Keys(config);
        let cuts = keys.class()?.is_some_and(Tiling::is_for);
        keys.refuse_unsupported(if cuts { &Tiling::KEYS } else { &[] })?;
        let defaults = keys.defaults()?;
        let defaults = defaults.as_ref();
        let filter = match keys.get("resample") {
            Some(id) => Some(id.as_u64().and_then(Filter::from_id).ok_or_else(|| {
                let expected = "0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box or 5 hamming";
                ConfigError::invalid("resample", expected, id)
            })?),
            None => defaults.map(|d| d.filter),
        };
        let tiling = match filter.filter(|_| cuts) {
            Some(filter) => Some(Tiling::from_keys(keys, filter)?),
            None => None,
        };
        let resize = if tiling.is_none() && keys.flag("do_resize", true)? {
            let size = match keys.get("size") {
                Some(size) => Keys::size(size, defaults)?,
                None => defaults.map(|d| d.size).ok_or_else(|| missing("size"))?,
            };
            Some((size, filter.ok_or_else(|| missing("resample"))?))
        } else {
            None
        };
        let crop_by_default = defaults.is_some_and(|d| d.crop.is_some());
        let crops = keys.flag("do_center_crop", crop_by_default)?;
        if crops && defaults.is_some() && !crop_by_default {
            // The slow class ignores it and the fast one obeys: there is no telling what the model was trained with.
            return Err(ConfigError::Unsupported { key: "do_center_crop".to_owned(), found: "true".to_owned() });
        }
        let crop = match keys.get("crop_size") {
            _ if !crops => None,
            Some(size) => match Keys::size_as("crop_size", size, None)? {
                Size::Exact { height, width } => Some((height, width)),
                _ => {
                    return Err(ConfigError::invalid(
                        "crop_size",
                        "an integer or {\"height\": .., \"width\": ..}",
                        size,
                    ));
                }
            },
            None => Some(defaults.and_then(|d| d.crop).map(|side| (side, side)).ok_or_else(|| missing("crop_size"))?),
        };
        let rescale = if keys.flag("do_rescale", true)? {
            Some(match keys.get("rescale_factor") {
                Some(value) => {
                    number(value).ok_or_else(|| ConfigError::invalid("rescale_factor", "a finite number", value))?
                }
                None => 1.0 / 255.0,
            })
        } else {
            None
        };
        let mean_std = if keys.flag("do_normalize", true)? {
            let mean =
                keys.triple("image_mean", defaults.map(|d| d.mean), |_| true, "a number or three finite numbers")?;
            let nonzero = |value: f64| value as f32 != 0.0;
            Some((
                mean,
                keys.triple("image_std", defaults.map(|d| d.std), nonzero, "a number or three numbers, none zero")?,
            ))
        } else {
            None
        };
        let processor =
            Self { tiling, resize, crop, rescale, mean_std, normalizer: Normalizer::new(rescale, mean_std) };
        let most = processor.most_values();
        match most.filter(|values| *values > MOST_VALUES) {
            Some(values) => {
                let key = if processor.crop.is_some() { "crop_size" } else { "size" };
                let expected = format!("at most {MOST_VALUES} values an image ({} pixels)", MOST_VALUES / 3);
                Err(ConfigError::Invalid { key: key.to_owned(), expected, found: values.to_string() })
            }
            None => Ok(processor),
        }
    }

    /// Height and width of every output (of every tile), if they do not depend on the image.
    pub fn output_size(&self) -> Option<(u32, u32)> {
        if let Some(tiling) = &self.tiling {
            return Some((tiling.side, tiling.side));
        }
        match (self.crop, self.resize) {
            (Some(size), _) => Some(size),
            (None, Some((Size::Exact { height, width }, _))) => Some((height, width)),
            _ => None,
        }
    }

    /// The same with pixel values in float16, for a graph that takes these.
    #[must_use]
    pub fn with_half_precision(self) -> Self {
        Self { normalizer: self.normalizer.to_half(), ..self }
    }

    /// The most bytes of an image's pixel values, if there is a bound for all images.
    pub fn most_bytes(&self) -> Option<usize> {
        self.most_values().map(|values| values.saturating_mul(self.normalizer.value_bytes()))
    }

    /// The most values an image becomes, if there is a bound for all images.
    pub fn most_values(&self) -> Option<usize> {
        let pixels = match (&self.tiling, self.crop, self.resize) {
            (Some(tiling), ..) => u64::from(tiling.side) * u64::from(tiling.side) * tiling.most_tiles() as u64,
            (None, Some((height, width)), _) => u64::from(height) * u64::from(width),
            (None, None, resize) => resize?.0.most_pixels()?,
        };
        usize::try_from(pixels.saturating_mul(3)).ok()
    }

    /// Pixels that an image of `width` x `height` becomes, tiles included.
    pub(super) fn output_pixels(&self, width: u32, height: u32) -> u64 {
        if let Some(tiling) = &self.tiling {
            return u64::from(tiling.side) * u64::from(tiling.side) * tiling.most_tiles() as u64;
        }
        let (height, width) = self.crop.unwrap_or_else(|| self.resized(width, height));
        u64::from(height) * u64::from(width)
    }

    /// Most bytes that [`Self::process`] takes at once for an image of `width` x `height`, its result included, the image not.
    pub(super) fn memory_needed(&self, width: u32, height: u32) -> u64 {
        let value_bytes = self.normalizer.value_bytes() as u64;
        let values = self.output_pixels(width, height).saturating_mul(3 * value_bytes);
        if let Some(tiling) = &self.tiling {
            return tiling.memory_needed(width, height).saturating_add(values);
        }
        let resized = self.resized(width, height);
        let (rows, columns) =
            self.crop.map_or(resized, |(rows, columns)| (rows.min(resized.0), columns.min(resized.1)));
        resample::memory_needed((width, height), (resized.1, resized.0), (columns, rows)).saturating_add(values)
    }

    /// Height and width that an image of `width` x `height` is resized to.
    fn resized(&self, width: u32, height: u32) -> (u32, u32) {
        self.resize.map_or((height, width), |(size, _)| size.of(height, width))
    }

    /// The smallest scale at which a JPEG of `width` x `height` pixels (upright) still has twice the size that it is resized to
    /// first; the full one if it is not resized, or to whole tiles.
    pub fn jpeg_scale(&self, width: u32, height: u32) -> JpegScale {
        let target = match (&self.tiling, self.resize) {
            (Some(tiling), _) => tiling.resized(height, width),
            (None, resize) => resize.map(|(size, _)| size.of(height, width)),
        };
        target
            .map_or(JpegScale::Full, |(to_height, to_width)| JpegScale::between((width, height), (to_width, to_height)))
    }

    /// Resizes, crops around the centre (padding with black what the image does not cover), rescales and normalises.
    pub fn process(&self, image: &RgbImage) -> PixelValues {
        if let Some(tiling) = &self.tiling {
            return tiling.process(image, &self.normalizer);
        }
        let resized = self.resized(image.width, image.height);
        let filter = self.resize.map_or(Filter::Nearest, |(_, filter)| filter);
        let size = self.crop.unwrap_or(resized);
        let (top, rows, row) = overlap(resized.0, size.0);
        let (left, columns, column) = overlap(resized.1, size.1);
        let window = Window { left, top, width: columns, height: rows };
        let patch = resample::resize(image, (resized.1 as usize, resized.0 as usize), filter, window);
        let (height, width) = size;
        let at = Placement { left: column, top: row, width, height };
        let data = self.normalizer.apply(&[(&patch, columns)], at);
        PixelValues { data, height, width, grid: None }
    }

    /// One line for people, such as `resize 224x224 bicubic, rescale 1/255, mean [0.5, 0.5, 0.5] std [0.5, 0.5, 0.5]`;
    /// sizes are height x width.
    pub fn describe(&self) -> String {
        let mut steps = Vec::new();
        steps.extend(self.tiling.as_ref().map(Tiling::describe));
        if let Some((size, filter)) = self.resize {
            let size = match size {
                Size::Exact { height, width } => format!("{height}x{width}"),
                Size::Shortest(short, None) => format!("shortest edge {short}"),
                Size::Shortest(short, Some(long)) => format!("shortest edge {short}, longest at most {long},"),
                Size::Longest(long) => format!("longest edge at most {long}"),
            };
            steps.push(format!("resize {size} {}", filter.name()));
        }
        if let Some((height, width)) = self.crop {
            steps.push(format!("center crop {height}x{width}"));
        }
        if let Some(factor) = self.rescale {
            let inverse = (1.0 / factor).round();
            let exact = (1.0 / inverse).total_cmp(&factor).is_eq();
            steps.push(if exact { format!("rescale 1/{inverse}") } else { format!("rescale {factor}") });
        }
        if let Some((mean, std)) = self.mean_std {
            steps.push(format!("mean {mean:?} std {std:?}"));
        }
        if steps.is_empty() { "nothing".to_owned() } else { steps.join(", ") }
    }
}

/// Where a centred crop of `wanted` meets `have` pixels: the first pixel of the source that is kept, how many are, and
/// where they begin in the crop (transformers' `center_crop`).
fn overlap(have: u32, wanted: u32) -> (usize, usize, usize) {
    let offset = (i64::from(have) - i64::from(wanted)).div_euclid(2);
    let start = offset.max(0);
    let end = (offset + i64::from(wanted)).min(i64::from(have));
    (start as usize, (end - start).max(0) as usize, (start - offset) as usize)
}
