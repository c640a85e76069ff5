//! `preprocessor_config.json` in, a validated [`ImageProcessor`] out. A key that would change pixels and is not supported
//! is refused here; keys that change nothing are ignored.

use serde_json::Value;

use super::keys::{Keys, missing, number};
use super::normalize::Normalizer;
use super::resample::{self, Filter, Window};
use super::tiles::Tiling;
use super::{JpegScale, PixelValues, RgbImage};

const HALF: [f64; 3] = [0.5; 3];
const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];
const OPENAI_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const OPENAI_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Why a `preprocessor_config.json` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value is missing, of the wrong type or out of range.
    #[error("preprocessor_config.json: `{key}`: expected {expected}, found {found}")]
    Invalid {
        /// The key.
        key: String,
        /// What would have been right.
        expected: String,
        /// The value, as JSON.
        found: String,
    },
    /// The key asks for a step that is not supported and would change pixels.
    #[error(
        "preprocessor_config.json: `{key}` = {found} asks for a preprocessing step that is not supported, and ignoring it \
         would change pixels\nhint: supported are resize, center crop, rescale and normalise"
    )]
    Unsupported {
        /// The key.
        key: String,
        /// The value, as JSON.
        found: String,
    },
}

/// The size to resize to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// Exactly this, whatever the aspect ratio.
    Exact { height: u32, width: u32 },
    /// The short side becomes this, the long side follows, but not beyond the second number (then both shrink).
    Shortest(u32, Option<u32>),
    /// The long side becomes at most this.
    Longest(u32),
}

/// What a named image processor of transformers does where the configuration is silent.
pub(super) struct Defaults {
    pub(super) size: Size,
    /// A bare integer is a short side, not a square.
    pub(super) integer_is_shortest: bool,
    /// Both shortest and longest edge: the class looks at the shortest only.
    pub(super) ignores_longest: bool,
    pub(super) filter: Filter,
    pub(super) crop: Option<u32>,
    pub(super) mean: [f64; 3],
    pub(super) std: [f64; 3],
}

impl Defaults {
    /// The defaults of a class of transformers 4.57.6, named without `ImageProcessor`, `Fast` or `FeatureExtractor`.
    pub(super) fn of(class: &str) -> Option<Self> {
        let square = |side, filter, crop| Self {
            size: Size::Exact { height: side, width: side },
            integer_is_shortest: false,
            ignores_longest: false,
            filter,
            crop,
            mean: HALF,
            std: HALF,
        };
        let openai = |defaults| Self { mean: OPENAI_MEAN, std: OPENAI_STD, ..defaults };
        Some(match class {
            "ViT" => square(224, Filter::Bilinear, None),
            "DeiT" => square(256, Filter::Bicubic, Some(224)),
            "Siglip" => square(224, Filter::Bicubic, None),
            "Pvt" => Self { mean: IMAGENET_MEAN, std: IMAGENET_STD, ..square(224, Filter::Bilinear, None) },
            "Blip" => openai(square(384, Filter::Bicubic, None)),
            "CLIP" | "Bit" | "Llava" => Self {
                size: Size::Shortest(224, None),
                integer_is_shortest: true,
                ignores_longest: true,
                ..openai(square(224, Filter::Bicubic, Some(224)))
            },
            class if Tiling::is_for(class) => square(364, Filter::Lanczos, None),
            _ => return None,
        })
    }
}

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
        Ok(Self { tiling, resize, crop, rescale, mean_std, normalizer: Normalizer::new(rescale, mean_std) })
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

    /// The most values an image becomes, if that does not depend on the image.
    pub fn most_values(&self) -> Option<usize> {
        let (height, width) = self.output_size()?;
        Some(3 * height as usize * width as usize * self.tiling.as_ref().map_or(1, Tiling::most_tiles))
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
        let (resized, filter) = match self.resize {
            Some((size, filter)) => (size.of(image.height, image.width), filter),
            None => ((image.height, image.width), Filter::Nearest),
        };
        let size = self.crop.unwrap_or(resized);
        let (top, rows, row) = overlap(resized.0, size.0);
        let (left, columns, column) = overlap(resized.1, size.1);
        let window = Window { left, top, width: columns, height: rows };
        let patch = resample::resize(image, (resized.1 as usize, resized.0 as usize), filter, window);
        self.normalizer.apply(&patch, columns, (column, row), (size.1, size.0))
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

impl ConfigError {
    pub(super) fn invalid(key: &str, expected: &str, found: &Value) -> Self {
        Self::Invalid { key: key.to_owned(), expected: expected.to_owned(), found: found.to_string() }
    }
}

impl Size {
    /// Height and width that an image of `height` x `width` is resized to.
    fn of(self, height: u32, width: u32) -> (u32, u32) {
        let (short, long) = (height.min(width), height.max(width));
        let (new_short, new_long) = match self {
            Self::Exact { height, width } => return (height, width),
            // transformers' `get_resize_output_image_size`, which cuts fractions off.
            Self::Shortest(edge, cap) => {
                let follows = (f64::from(edge) * f64::from(long) / f64::from(short)) as u32;
                match cap {
                    Some(cap) if follows > cap => ((f64::from(cap) * f64::from(edge) / f64::from(follows)) as u32, cap),
                    _ => (edge, follows),
                }
            }
            Self::Longest(cap) if long > cap => ((f64::from(short) * f64::from(cap) / f64::from(long)) as u32, cap),
            Self::Longest(_) => (short, long),
        };
        let (new_short, new_long) = (new_short.max(1), new_long.max(1));
        if width <= height { (new_long, new_short) } else { (new_short, new_long) }
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
