//! The keys of `preprocessor_config.json`, one by one. In: the file's object. Out: values of the right type and range, or a
//! [`ConfigError`] that names the key.

use serde_json::{Map, Value};

use super::classes::Edition;
use super::error::{ConfigError, bounded};
use super::resample::Filter;
use super::size::Size;

/// Keys that mean a step, unless they are null or false: refused where no class says what is read.
const STEPS: [&str; 12] = [
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

/// `do_*` keys that are understood without a class, or that change no pixel.
const SWITCHES: [&str; 6] =
    ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels"];

/// The configuration's keys. Null means absent, but for switches, where it means no.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) object: &'a Map<String, Value>,
    pub(super) edition: Edition,
}

impl<'a> Keys<'a> {
    /// Refuses every key that means a step which is not implemented without the name of a class.
    pub(super) fn refuse_steps(self) -> Result<(), ConfigError> {
        for (key, value) in self.object {
            let off = matches!(value, Value::Null | Value::Bool(false));
            let switch = key.starts_with("do_") && !SWITCHES.contains(&key.as_str());
            if !off && (switch || STEPS.contains(&key.as_str())) {
                return Err(ConfigError::unsupported(key, value));
            }
        }
        Ok(())
    }

    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn flag(self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.object.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| ConfigError::invalid(key, "true or false", value)),
        }
    }

    /// The filter for resizing.
    pub(super) fn filter(self) -> Result<Option<Filter>, ConfigError> {
        let Some(id) = self.get("resample") else { return Ok(None) };
        let expected = "0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box or 5 hamming (transformers 4 cannot run with names, and 5 \
                        takes each for bilinear)";
        id.as_u64().and_then(Filter::from_id).map(Some).ok_or_else(|| ConfigError::invalid("resample", expected, id))
    }

    /// A number that is finite and not 0.
    pub(super) fn factor(self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = number(value).filter(|value| *value as f32 != 0.0);
        found.map(Some).ok_or_else(|| ConfigError::invalid(key, "a finite number that is not 0", value))
    }

    /// The size `key` as a height and width; a bare integer is both.
    pub(super) fn exact(self, key: &str) -> Result<Option<(u32, u32)>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match self.size(key, false)? {
            Some(Size::Exact { height, width }) => Ok(Some((height, width))),
            _ => Err(ConfigError::invalid(key, "an integer or {\"height\": .., \"width\": ..}", value)),
        }
    }

    /// A size in any of the forms that transformers' `get_size_dict` knows. A bare integer is the short side or a square.
    pub(super) fn size(self, key: &str, integer_is_shortest: bool) -> Result<Option<Size>, ConfigError> {
        const EXPECTED: &str = "an integer, {\"height\", \"width\"}, {\"shortest_edge\"}, {\"longest_edge\"}, \
                                {\"shortest_edge\", \"longest_edge\"} or {\"max_height\", \"max_width\"}, in pixels from 1 to 65535";
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || ConfigError::invalid(key, EXPECTED, value);
        if let Some(sides) = value.as_object() {
            // transformers 5 writes every side, most of them null.
            let given = sides.values().filter(|value| !value.is_null()).count();
            let edge =
                |name: &str| sides.get(name).filter(|v| !v.is_null()).map(|v| side(v).ok_or_else(wrong)).transpose();
            let pair = |first, second| Ok::<_, ConfigError>((edge(first)?, edge(second)?));
            return Ok(Some(match (given, pair("height", "width")?, pair("shortest_edge", "longest_edge")?) {
                (2, (Some(height), Some(width)), _) => Size::Exact { height, width },
                (1, _, (Some(short), None)) => Size::Shortest(short, None),
                (2, _, (Some(short), Some(long))) if short <= long => Size::Shortest(short, Some(long)),
                (1, _, (None, Some(long))) => Size::Longest(long),
                (2, ..) => match pair("max_height", "max_width")? {
                    (Some(height), Some(width)) => Size::Within { height, width },
                    _ => return Err(wrong()),
                },
                _ => return Err(wrong()),
            }));
        }
        if let Some([height, width, ..]) = value.as_array().map(Vec::as_slice) {
            let [height, width] = [height, width].map(|value| side(value).ok_or_else(wrong));
            return Ok(Some(Size::Exact { height: height?, width: width? }));
        }
        let side = side(value).ok_or_else(wrong)?;
        Ok(Some(if integer_is_shortest {
            Size::Shortest(side, None)
        } else {
            Size::Exact { height: side, width: side }
        }))
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

    /// `mean` and `std`, by these names.
    pub(super) fn mean_std(
        self,
        [mean, std]: [&str; 2],
        default: Option<([f64; 3], [f64; 3])>,
    ) -> Result<([f64; 3], [f64; 3]), ConfigError> {
        let nonzero = |value: f64| value as f32 != 0.0;
        Ok((
            self.triple(mean, default.map(|d| d.0), |_| true, "a number or three finite numbers")?,
            self.triple(std, default.map(|d| d.1), nonzero, "a number or three numbers, none zero")?,
        ))
    }
}

/// A number of pixels.
pub(super) fn side(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|side| u32::try_from(side).ok()).filter(|side| (1..=65535).contains(side))
}

/// A finite number.
pub(super) fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|value| value.is_finite() && (*value as f32).is_finite())
}

pub(super) fn missing(key: &str) -> ConfigError {
    let expected = "a value, since there is no known image_processor_type to take the default from".to_owned();
    ConfigError::Invalid { key: key.to_owned(), expected, found: "nothing".to_owned() }
}

impl ConfigError {
    pub(super) fn unsupported(key: &str, found: &Value) -> Self {
        Self::Unsupported { key: key.to_owned(), found: bounded(found) }
    }
}
