//! `preprocessor_config.json` in, a validated [`ImageProcessor`] out. A key that would change pixels and is not supported
//! is refused here; keys that change nothing are ignored.

use serde_json::{Map, Value};

use super::normalize::Normalizer;
use super::resample::{self, Filter, Window};
use super::{PixelValues, RgbImage};

const HALF: [f64; 3] = [0.5; 3];
const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];
const OPENAI_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const OPENAI_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Keys that mean a step which is not implemented here, unless they are null or false.
const UNSUPPORTED: [&str; 12] = [
    "crop_pct",
    "include_top",
    "max_image_size",
    "max_num_patches",
    "offset",
    "pad_size",
    "patch_size",
    "rescale_offset",
    "size_divisibility",
    "size_divisor",
    "use_square_size",
    "image_grid_pinpoints",
];

/// `do_*` keys that are understood, or that change no pixel.
const SWITCHES: [&str; 6] =
    ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels"];

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
enum Size {
    /// Exactly this, whatever the aspect ratio.
    Exact { height: u32, width: u32 },
    /// The short side becomes this, the long side follows, but not beyond the second number (then both shrink).
    Shortest(u32, Option<u32>),
    /// The long side becomes at most this.
    Longest(u32),
}

/// What a named image processor of transformers does where the configuration is silent.
struct Defaults {
    size: Size,
    /// A bare integer is a short side, not a square.
    integer_is_shortest: bool,
    /// Both shortest and longest edge: the class looks at the shortest only.
    ignores_longest: bool,
    filter: Filter,
    crop: Option<u32>,
    mean: [f64; 3],
    std: [f64; 3],
}

impl Defaults {
    /// The defaults of a class of transformers 4.57.6, named without `ImageProcessor`, `Fast` or `FeatureExtractor`.
    fn of(class: &str) -> Option<Self> {
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
            _ => return None,
        })
    }
}

/// A validated `preprocessor_config.json`: what happens to every image before the model.
#[derive(Debug, Clone)]
pub struct ImageProcessor {
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
            return Err(invalid("(file)", "a JSON object", config));
        };
        refuse_unsupported(config)?;
        let keys = Keys(config);
        let defaults = keys.defaults()?;
        let defaults = defaults.as_ref();

        let resize = if keys.flag("do_resize", true)? {
            let size = match keys.get("size") {
                Some(size) => Keys::size(size, defaults)?,
                None => defaults.map(|d| d.size).ok_or_else(|| missing("size"))?,
            };
            let filter = match keys.get("resample") {
                Some(id) => id.as_u64().and_then(Filter::from_id).ok_or_else(|| {
                    invalid("resample", "0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box or 5 hamming", id)
                })?,
                None => defaults.map(|d| d.filter).ok_or_else(|| missing("resample"))?,
            };
            Some((size, filter))
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
                _ => return Err(invalid("crop_size", "an integer or {\"height\": .., \"width\": ..}", size)),
            },
            None => Some(defaults.and_then(|d| d.crop).map(|side| (side, side)).ok_or_else(|| missing("crop_size"))?),
        };
        let rescale = if keys.flag("do_rescale", true)? {
            Some(match keys.get("rescale_factor") {
                Some(value) => number(value).ok_or_else(|| invalid("rescale_factor", "a finite number", value))?,
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
        Ok(Self { resize, crop, rescale, mean_std, normalizer: Normalizer::new(rescale, mean_std) })
    }

    /// Height and width of every output, if they do not depend on the image.
    pub fn output_size(&self) -> Option<(u32, u32)> {
        match (self.crop, self.resize) {
            (Some(size), _) => Some(size),
            (None, Some((Size::Exact { height, width }, _))) => Some((height, width)),
            _ => None,
        }
    }

    /// Resizes, crops around the centre (padding with black what the image does not cover), rescales and normalises.
    pub fn process(&self, image: &RgbImage) -> PixelValues {
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

/// The configuration's keys, with null meaning absent, as in transformers.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        self.get(key).map_or(Ok(default), |value| value.as_bool().ok_or_else(|| invalid(key, "true or false", value)))
    }

    fn defaults(&self) -> Result<Option<Defaults>, ConfigError> {
        let Some((key, value)) =
            ["image_processor_type", "feature_extractor_type"].into_iter().find_map(|key| Some((key, self.get(key)?)))
        else {
            return Ok(None);
        };
        let class = value.as_str().unwrap_or_default().trim_end_matches("Fast");
        let class = class.strip_suffix("ImageProcessor").or_else(|| class.strip_suffix("FeatureExtractor"));
        let known = "the ImageProcessor of ViT, DeiT, CLIP, Blip, Siglip, Bit, Pvt or Llava";
        class.and_then(Defaults::of).map(Some).ok_or_else(|| invalid(key, known, value))
    }

    fn size(value: &Value, defaults: Option<&Defaults>) -> Result<Size, ConfigError> {
        let size = Self::size_as("size", value, defaults)?;
        match (size, defaults) {
            (Size::Shortest(short, Some(_)), Some(d)) if d.ignores_longest => Ok(Size::Shortest(short, None)),
            (Size::Exact { .. }, _) | (_, None) => Ok(size),
            (Size::Shortest(..), Some(d)) if d.integer_is_shortest => Ok(size),
            _ => Err(invalid(
                "size",
                "{\"height\": .., \"width\": ..}, which is all that this image_processor_type takes",
                value,
            )),
        }
    }

    /// A size in any of the forms that transformers knows.
    fn size_as(key: &str, value: &Value, defaults: Option<&Defaults>) -> Result<Size, ConfigError> {
        const EXPECTED: &str = "an integer, {\"height\", \"width\"}, {\"shortest_edge\"}, {\"longest_edge\"} or \
                                {\"shortest_edge\", \"longest_edge\"}, in pixels from 1 to 65535";
        let wrong = || invalid(key, EXPECTED, value);
        let side = |value: &Value| {
            value
                .as_u64()
                .and_then(|side| u32::try_from(side).ok())
                .filter(|side| (1..=65535).contains(side))
                .ok_or_else(wrong)
        };
        if let Some(sides) = value.as_object() {
            let edge = |name: &str| sides.get(name).map(side).transpose();
            let edges = (edge("height")?, edge("width")?, edge("shortest_edge")?, edge("longest_edge")?);
            return match (edges, sides.len()) {
                ((Some(height), Some(width), None, None), 2) => Ok(Size::Exact { height, width }),
                ((None, None, Some(short), None), 1) => Ok(Size::Shortest(short, None)),
                ((None, None, Some(short), Some(long)), 2) if short < long => Ok(Size::Shortest(short, Some(long))),
                ((None, None, None, Some(long)), 1) => Ok(Size::Longest(long)),
                _ => Err(wrong()),
            };
        }
        if let Some([height, width]) = value.as_array().map(Vec::as_slice) {
            return Ok(Size::Exact { height: side(height)?, width: side(width)? });
        }
        let side = side(value)?;
        let shortest = key == "size" && defaults.is_some_and(|d| d.integer_is_shortest);
        if key == "size" && defaults.is_none() {
            // Square for some classes and a short side for others.
            return Err(invalid(key, "an object with named sides, since image_processor_type is missing", value));
        }
        Ok(if shortest { Size::Shortest(side, None) } else { Size::Exact { height: side, width: side } })
    }

    fn triple(
        &self,
        key: &str,
        default: Option<[f64; 3]>,
        valid: impl Fn(f64) -> bool,
        expected: &str,
    ) -> Result<[f64; 3], ConfigError> {
        let Some(value) = self.get(key) else { return default.ok_or_else(|| missing(key)) };
        let wrong = || invalid(key, expected, value);
        let one = |value: &Value| number(value).filter(|value| valid(*value)).ok_or_else(wrong);
        match value.as_array().map(Vec::as_slice) {
            Some([r, g, b]) => Ok([one(r)?, one(g)?, one(b)?]),
            Some(_) => Err(wrong()),
            None => Ok([one(value)?; 3]),
        }
    }
}

fn refuse_unsupported(config: &Map<String, Value>) -> Result<(), ConfigError> {
    for (key, value) in config {
        let off = matches!(value, Value::Null | Value::Bool(false));
        let switch = key.starts_with("do_") && !SWITCHES.contains(&key.as_str());
        let layout = matches!(key.as_str(), "data_format" | "input_data_format") && value != "channels_first";
        if !off && (switch || layout || UNSUPPORTED.contains(&key.as_str())) {
            return Err(ConfigError::Unsupported { key: key.clone(), found: value.to_string() });
        }
    }
    Ok(())
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|value| value.is_finite() && (*value as f32).is_finite())
}

fn invalid(key: &str, expected: &str, found: &Value) -> ConfigError {
    ConfigError::Invalid { key: key.to_owned(), expected: expected.to_owned(), found: found.to_string() }
}

fn missing(key: &str) -> ConfigError {
    let expected = "a value, since there is no known image_processor_type to take the default from".to_owned();
    ConfigError::Invalid { key: key.to_owned(), expected, found: "nothing".to_owned() }
}
