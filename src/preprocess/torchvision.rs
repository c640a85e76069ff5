//! Preprocessing that is not transformers': timm's in `config.json` (`pretrained_cfg`), and `open_clip`'s in `open_clip_config.json`
//! (`preprocess_cfg`) or in a file of its own. Both are made of torchvision's transforms of Pillow's images.

use serde_json::{Map, Value, json};

use super::classes::{Edition, IMAGENET, OPENAI};
use super::error::ConfigError;
use super::geometry::{Centre, Crop, Geometry};
use super::keys::{Keys, side};
use super::normalize::{Rescale, Scaling};
use super::plan::Plan;
use super::resample::Filter;
use super::size::Size;

/// The preprocessing of timm or `open_clip` in `config`, if it is one of these.
pub(super) fn find(config: &Map<String, Value>) -> Option<Result<Plan, ConfigError>> {
    let object = |name: &str| config.get(name).and_then(Value::as_object);
    let bare = config.contains_key("resize_mode") && config.contains_key("mean") && !config.contains_key("image_mean");
    if let Some(timm) = object("pretrained_cfg") {
        Some(of_timm(keys(timm)))
    } else if let Some(clip) = object("preprocess_cfg") {
        let tower = object("model_cfg").and_then(|model| model.get("vision_cfg")?.get("image_size"));
        Some(of_open_clip(keys(clip), tower))
    } else {
        bare.then(|| of_open_clip(keys(config), None))
    }
}

const fn keys(object: &Map<String, Value>) -> Keys<'_> {
    Keys { object, edition: Edition::Four }
}

/// timm's `transforms_imagenet_eval` with the settings of `resolve_data_config`.
fn of_timm(keys: Keys<'_>) -> Result<Plan, ConfigError> {
    let (height, width) = match keys.get("input_size") {
        Some(size) => match size.as_array().map(Vec::as_slice) {
            Some([channels, height, width]) if channels == 3 => side(height).zip(side(width)),
            _ => None,
        }
        .ok_or_else(|| ConfigError::invalid("input_size", "[3, height, width]", size))?,
        None => keys.exact("img_size")?.unwrap_or((224, 224)),
    };
    let filter = filter(keys, &["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"])?;
    let part = match keys.get("crop_pct").filter(|part| part.as_f64() != Some(0.0)) {
        Some(part) => part
            .as_f64()
            .filter(|part| *part > 0.0 && part.is_finite())
            .ok_or_else(|| ConfigError::invalid("crop_pct", "a number above 0", part))?,
        None => 0.875,
    };
    let larger = |side: u32| {
        let pixels = (f64::from(side) / part).floor();
        let found = || ConfigError::invalid("crop_pct", "a part that gives 1 to 65535 pixels", &json!(part));
        (1.0..65536.0).contains(&pixels).then_some(pixels as u32).ok_or_else(found)
    };
    let (to_height, to_width) = (larger(height)?, larger(width)?);
    let mean_std = mean_std(keys, IMAGENET)?;
    let mode = keys.get("crop_mode").map_or("center", |mode| mode.as_str().unwrap_or_default());
    let (size, colour) = match mode {
        "squash" => (Size::Exact { height: to_height, width: to_width }, [0; 3]),
        "border" => {
            let colour = mean_std.0.map(|mean| (255.0 * mean).round_ties_even() as u8);
            (Size::Ratio { height: to_height, width: to_width, longest: true }, colour)
        }
        // timm takes every other word for this.
        _ if to_height == to_width => (Size::Shortest(to_height, None), [0; 3]),
        _ => (Size::Ratio { height: to_height, width: to_width, longest: false }, [0; 3]),
    };
    Ok(plan((size, filter), Some(Crop { size: (height, width), centre: Centre::Torchvision, colour }), mean_std))
}

/// `open_clip`'s `image_transform`. The image tower's size counts, if it is known.
fn of_open_clip(keys: Keys<'_>, tower: Option<&Value>) -> Result<Plan, ConfigError> {
    let (height, width) = match tower.filter(|size| !size.is_null()) {
        Some(size) => {
            let object = Map::from_iter([("image_size".to_owned(), size.clone())]);
            Keys { object: &object, edition: Edition::Four }.exact("image_size")?
        }
        None => keys.exact("size")?,
    }
    .unwrap_or((224, 224));
    if let Some(mode) = keys.get("mode").filter(|mode| *mode != "RGB") {
        return Err(ConfigError::invalid("mode", "\"RGB\"", mode));
    }
    // "random" is for training.
    let filter = filter(keys, &["bilinear", "bicubic", "random"])?;
    let grey = keys.get("fill_color").map_or(Some(0), |value| value.as_u64().and_then(|grey| u8::try_from(grey).ok()));
    let grey = grey.ok_or_else(|| {
        ConfigError::invalid("fill_color", "a number from 0 to 255", keys.get("fill_color").unwrap_or(&Value::Null))
    })?;
    let crop = |grey: u8| Some(Crop { size: (height, width), centre: Centre::Torchvision, colour: [grey; 3] });
    let (resize, crop) = match keys.get("resize_mode").map_or(Some("shortest"), Value::as_str) {
        Some("shortest") if height == width => ((Size::Shortest(height, None), filter), crop(0)),
        // Here open_clip forgets which filter it was told.
        Some("shortest") => ((Size::Ratio { height, width, longest: false }, Filter::Bicubic), crop(0)),
        Some("longest") => ((Size::Ratio { height, width, longest: true }, filter), crop(grey)),
        Some("squash") => ((Size::Exact { height, width }, filter), None),
        _ => {
            let found = keys.get("resize_mode").unwrap_or(&Value::Null);
            return Err(ConfigError::invalid("resize_mode", "shortest, longest or squash", found));
        }
    };
    Ok(plan(resize, crop, mean_std(keys, OPENAI)?))
}

fn plan(resize: (Size, Filter), crop: Option<Crop>, mean_std: ([f64; 3], [f64; 3])) -> Plan {
    let geometry = Geometry { resize: Some(resize), crop, ..Geometry::default() };
    let scaling = Scaling { rescale: Some(Rescale::Tensor), mean_std: Some(mean_std), again: None };
    Plan { geometry, scaling, ..Plan::default() }
}

/// `interpolation`, which is one of `known` or missing.
fn filter(keys: Keys<'_>, known: &[&str]) -> Result<Filter, ConfigError> {
    let Some(value) = keys.get("interpolation").filter(|value| *value != "") else { return Ok(Filter::Bicubic) };
    match value.as_str().filter(|name| known.contains(name)) {
        Some("random") => Some(Filter::Bicubic),
        Some(name) => Filter::named(name),
        None => None,
    }
    .map_or_else(|| Err(ConfigError::invalid("interpolation", &known.join(", "), value)), Ok)
}

/// `mean` and `std`; an empty list counts as missing, and one number for all three.
fn mean_std(keys: Keys<'_>, default: ([f64; 3], [f64; 3])) -> Result<([f64; 3], [f64; 3]), ConfigError> {
    let given = ["mean", "std"].into_iter().filter_map(|key| {
        let value = keys.get(key)?;
        match value.as_array().map(Vec::as_slice) {
            Some([]) => None,
            Some([one]) => Some((key.to_owned(), one.clone())),
            _ => Some((key.to_owned(), value.clone())),
        }
    });
    Keys { object: &given.collect(), edition: Edition::Four }.mean_std(["mean", "std"], Some(default))
}
