//! The keys of `preprocessor_config.json`, one by one. In: the file's object. Out: values of the right type and range, or a
//! [`ConfigError`] that names the key.

use serde_json::{Map, Value};

use super::defaults::{Defaults, Size};
use super::error::{ConfigError, bounded};

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

/// The configuration's keys, with null meaning absent, as in transformers.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Keys<'a> {
    /// Refuses every key that means a step which is not implemented, unless `known` has it.
    pub(super) fn refuse_unsupported(self, known: &[&str]) -> Result<(), ConfigError> {
        for (key, value) in self.0.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            let off = matches!(value, Value::Null | Value::Bool(false));
            let switch = key.starts_with("do_") && !SWITCHES.contains(&key.as_str());
            let layout = matches!(key.as_str(), "data_format" | "input_data_format") && value != "channels_first";
            if !off && (switch || layout || UNSUPPORTED.contains(&key.as_str())) {
                return Err(ConfigError::Unsupported { key: key.clone(), found: bounded(value) });
            }
        }
        Ok(())
    }

    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn flag(self, key: &str, default: bool) -> Result<bool, ConfigError> {
        self.get(key).map_or(Ok(default), |value| {
            value.as_bool().ok_or_else(|| ConfigError::invalid(key, "true or false", value))
        })
    }

    /// The class of the image processor, without `ImageProcessor`, `Fast` or `FeatureExtractor`.
    pub(super) fn class(self) -> Result<Option<&'a str>, ConfigError> {
        let mut names = ["image_processor_type", "feature_extractor_type"].into_iter();
        let Some((key, value)) = names.find_map(|key| Some((key, self.get(key)?))) else { return Ok(None) };
        let class = value.as_str().unwrap_or_default().trim_end_matches("Fast");
        let class = class.strip_suffix("ImageProcessor").or_else(|| class.strip_suffix("FeatureExtractor"));
        let known = "the ImageProcessor of ViT, DeiT, CLIP, Blip, Siglip, Bit, Pvt, Llava, Idefics3 or SmolVLM";
        let known_class = class.filter(|class| Defaults::of(class).is_some());
        known_class.map(Some).ok_or_else(|| ConfigError::invalid(key, known, value))
    }

    /// What the named image processor does where the configuration is silent; `None` without a name.
    pub(super) fn defaults(self) -> Result<Option<Defaults>, ConfigError> {
        Ok(self.class()?.and_then(Defaults::of))
    }

    pub(super) fn size(value: &Value, defaults: Option<&Defaults>) -> Result<Size, ConfigError> {
        let size = Self::size_as("size", value, defaults)?;
        match (size, defaults) {
            (Size::Shortest(short, Some(_)), Some(d)) if d.ignores_longest => Ok(Size::Shortest(short, None)),
            (Size::Exact { .. }, _) | (_, None) => Ok(size),
            (Size::Shortest(..), Some(d)) if d.integer_is_shortest => Ok(size),
            _ => Err(ConfigError::invalid(
                "size",
                "{\"height\": .., \"width\": ..}, which is all that this image_processor_type takes",
                value,
            )),
        }
    }

    /// A size in any of the forms that transformers knows.
    pub(super) fn size_as(key: &str, value: &Value, defaults: Option<&Defaults>) -> Result<Size, ConfigError> {
        const EXPECTED: &str = "an integer, {\"height\", \"width\"}, {\"shortest_edge\"}, {\"longest_edge\"} or \
                                {\"shortest_edge\", \"longest_edge\"}, in pixels from 1 to 65535";
        let wrong = || ConfigError::invalid(key, EXPECTED, value);
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
            return Err(ConfigError::invalid(
                key,
                "an object with named sides, since image_processor_type is missing",
                value,
            ));
        }
        Ok(if shortest { Size::Shortest(side, None) } else { Size::Exact { height: side, width: side } })
    }

    pub(super) fn triple(
        self,
        key: &str,
        default: Option<[f64; 3]>,
        valid: impl Fn(f64) -> bool,
        expected: &str,
    ) -> Result<[f64; 3], ConfigError> {
        let Some(value) = self.get(key) else { return default.ok_or_else(|| missing(key)) };
        let wrong = || ConfigError::invalid(key, expected, value);
        let one = |value: &Value| number(value).filter(|value| valid(*value)).ok_or_else(wrong);
        match value.as_array().map(Vec::as_slice) {
            Some([r, g, b]) => Ok([one(r)?, one(g)?, one(b)?]),
            Some(_) => Err(wrong()),
            None => Ok([one(value)?; 3]),
        }
    }
}

/// A finite number.
pub(super) fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|value| value.is_finite() && (*value as f32).is_finite())
}

pub(super) fn missing(key: &str) -> ConfigError {
    let expected = "a value, since there is no known image_processor_type to take the default from".to_owned();
    ConfigError::Invalid { key: key.to_owned(), expected, found: "nothing".to_owned() }
}
