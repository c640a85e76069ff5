//! From the keys of a configuration to the steps on every image, for the image processors of transformers.

use serde_json::Value;

use super::classes::{Class, Edition, Steps};
use super::error::ConfigError;
use super::geometry::{Before, Centre, Crop, Geometry, Thumbnail};
use super::keys::{Keys, missing};
use super::normalize::{Rescale, Scaling};
use super::resample::Filter;
use super::size::Size;
use super::tiles::Tiling;

/// The steps on every image.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) tiling: Option<Tiling>,
    pub(super) geometry: Geometry,
    /// Blue before red.
    pub(super) flips: bool,
    pub(super) scaling: Scaling,
    /// Height and width that the result is padded to, with zeros below and to the right.
    pub(super) pad: Option<(u32, u32)>,
}

impl Plan {
    /// Without the name of a class, nothing is guessed: every key of a step that is taken has to be there.
    pub(super) fn unnamed(keys: Keys<'_>) -> Result<Self, ConfigError> {
        keys.refuse_steps()?;
        let resize = if keys.flag("do_resize", true)? {
            let size = keys.get("size").ok_or_else(|| missing("size"))?;
            if size.is_number() {
                // Square for some classes and a short side for others.
                let expected = "an object with named sides, since image_processor_type is missing";
                return Err(ConfigError::invalid("size", expected, size));
            }
            let size = keys.size("size", false)?.ok_or_else(|| missing("size"))?;
            Some((size, keys.filter()?.ok_or_else(|| missing("resample"))?))
        } else {
            None
        };
        let crop = if keys.flag("do_center_crop", false)? {
            Some(centre(keys.exact("crop_size")?.ok_or_else(|| missing("crop_size"))?))
        } else {
            None
        };
        let scaling = scaling(keys, None)?;
        Ok(Self { geometry: Geometry { resize, crop, ..Geometry::default() }, scaling, ..Self::default() })
    }

    /// For a named class.
    pub(super) fn named(keys: Keys<'_>, class: &Class) -> Result<Self, ConfigError> {
        let class = class.of(keys.edition);
        let filter = keys.filter()?.unwrap_or(class.filter);
        let mut plan = Self { scaling: scaling(keys, Some(&class))?, ..Self::default() };
        match class.steps {
            Steps::Tiles => {
                plan.tiling = Some(Tiling::from_keys(keys, filter)?);
                return Ok(plan);
            }
            Steps::Donut => plan.geometry = donut(keys, &class, filter)?,
            _ => {
                let size = size(keys, &class)?;
                let resize = keys.flag("do_resize", true)?.then_some((size, filter));
                let crop = crop(keys, &class)?;
                plan.geometry = Geometry { resize, crop: crop.map(centre), ..Geometry::default() };
                refine(keys, &class, size, crop, &mut plan)?;
            }
        }
        if keys.edition == Edition::Five && class.pads && keys.flag("do_pad", false)? {
            plan.pad = pad(keys, &plan.geometry)?;
        }
        Ok(plan)
    }
}

const fn centre(size: (u32, u32)) -> Crop {
    Crop { size, centre: Centre::Transformers, colour: [0; 3] }
}

/// What a class does that others do not.
fn refine(
    keys: Keys<'_>,
    class: &Class,
    size: Size,
    crop: Option<(u32, u32)>,
    plan: &mut Plan,
) -> Result<(), ConfigError> {
    let geometry = &mut plan.geometry;
    match (class.steps, size) {
        (Steps::ConvNext, Size::Shortest(short, _)) => {
            if let Some((size, _)) = &mut geometry.resize {
                if short < 384 {
                    *size = Size::Shortest(part(keys, short, keys.factor("crop_pct")?.unwrap_or(224.0 / 256.0))?, None);
                    geometry.crop = Some(centre((short, short)));
                } else {
                    *size = Size::Exact { height: short, width: short };
                }
            }
        }
        (Steps::ConvNext, _) => return Err(only(keys, "{\"shortest_edge\": ..}")),
        (Steps::PoolFormer, _) => {
            let none = keys.object.get("crop_pct") == Some(&Value::Null);
            let pct = if none { None } else { Some(keys.factor("crop_pct")?.unwrap_or(0.9)) };
            if let (Some((to, _)), Some(pct)) = (&mut geometry.resize, pct) {
                *to = match size {
                    Size::Shortest(side, _) => Size::Shortest(part(keys, side, pct)?, None),
                    Size::Aspect { shortest, .. } => Size::Shortest(part(keys, shortest, pct)?, None),
                    Size::Exact { height, width } if height == width => Size::Shortest(part(keys, height, pct)?, None),
                    Size::Exact { height, width } => {
                        Size::Exact { height: part(keys, height, pct)?, width: part(keys, width, pct)? }
                    }
                    _ => return Err(only(keys, "{\"shortest_edge\": ..} or {\"height\": .., \"width\": ..}")),
                };
            }
        }
        (Steps::Levit, Size::Shortest(short, _)) => {
            if let Some((size, _)) = &mut geometry.resize {
                *size = Size::Shortest((256.0 / 224.0 * f64::from(short)) as u32, None);
            }
        }
        (Steps::Perceiver, Size::Exact { height, width }) => {
            geometry.crop = None;
            geometry.before = crop.map(|crop| Before::Part {
                height: f64::from(height) / f64::from(crop.0),
                width: f64::from(width) / f64::from(crop.1),
            });
        }
        (Steps::Perceiver, _) => return Err(only(keys, "{\"height\": .., \"width\": ..}")),
        (Steps::EfficientNet, _) => {
            if let Some(Rescale::Factor(factor)) = plan.scaling.rescale
                && keys.flag("rescale_offset", false)?
            {
                plan.scaling.rescale = Some(Rescale::Offset(factor));
            }
            if keys.flag("include_top", true)? {
                plan.scaling.again = Some(keys.mean_std(["image_mean", "image_std"], Some(class.mean_std))?.1);
            }
        }
        (Steps::MobileVit, _) => plan.flips = keys.flag("do_flip_channel_order", true)?,
        (Steps::Llava, _) if keys.flag("do_pad", false)? => {
            let (mean, _) = keys.mean_std(["image_mean", "image_std"], Some(class.mean_std))?;
            geometry.before = Some(Before::Square(mean.map(|value| (value * 255.0) as u8)));
        }
        _ => {}
    }
    Ok(())
}

/// `side` divided by `pct` and cut off, as pixels.
fn part(keys: Keys<'_>, side: u32, pct: f64) -> Result<u32, ConfigError> {
    let pixels = f64::from(side) / pct;
    let found = keys.get("crop_pct").unwrap_or(&Value::Null);
    let fits = (1.0..65536.0).contains(&pixels);
    fits.then_some(pixels as u32)
        .ok_or_else(|| ConfigError::invalid("crop_pct", "a part that gives 1 to 65535 pixels", found))
}

fn only(keys: Keys<'_>, forms: &str) -> ConfigError {
    let expected = format!("{forms}, which is all that this image_processor_type takes");
    ConfigError::invalid("size", &expected, keys.get("size").unwrap_or(&Value::Null))
}

/// The size that is resized to, or the class's own.
fn size(keys: Keys<'_>, class: &Class) -> Result<Size, ConfigError> {
    let four = keys.edition == Edition::Four;
    let shortest = match keys.get("default_to_square").filter(|_| !four) {
        Some(square) => {
            !square.as_bool().ok_or_else(|| ConfigError::invalid("default_to_square", "true or false", square))?
        }
        None => class.integer_is_shortest,
    };
    let size = keys.size("size", shortest)?.unwrap_or(class.size);
    if keys.get("use_square_size").is_some_and(|value| value == true) && class.name == "CLIP" {
        return match size {
            _ if !four => Ok(Size::Exact { height: 224, width: 224 }),
            Size::Shortest(side, _) => Ok(Size::Exact { height: side, width: side }),
            _ => Err(only(keys, "{\"shortest_edge\": ..} with use_square_size")),
        };
    }
    match size {
        Size::Exact { .. } => Ok(size),
        Size::Shortest(short, _) if four && class.edges => Ok(Size::Shortest(short, None)),
        Size::Longest(_) => Err(only(keys, "{\"height\": .., \"width\": ..} or {\"shortest_edge\": ..}")),
        // transformers 4 cannot run with these; 5 can.
        _ if four && class.crop.is_none() => Err(only(keys, "{\"height\": .., \"width\": ..}")),
        Size::Shortest(shortest, Some(longest)) => Ok(Size::Aspect { shortest, longest }),
        _ => Ok(size),
    }
}

/// Height and width of the center crop, if there is one.
fn crop(keys: Keys<'_>, class: &Class) -> Result<Option<(u32, u32)>, ConfigError> {
    let by_default = match class.crop {
        Some((on, _)) => on,
        None if keys.edition == Edition::Five && class.steps == Steps::Plain => false,
        None if keys.edition == Edition::Five && class.steps == Steps::ConvNext => return no_crop(keys),
        None => return Ok(None),
    };
    if !keys.flag("do_center_crop", by_default)? {
        return Ok(None);
    }
    let size = keys.exact("crop_size")?.or(class.crop.map(|(_, side)| (side, side)));
    size.map(Some).ok_or_else(|| missing("crop_size"))
}

/// Transformers 5 crops here if it is asked to; the class never does so by itself.
fn no_crop(keys: Keys<'_>) -> Result<Option<(u32, u32)>, ConfigError> {
    match keys.get("do_center_crop") {
        Some(value) if value != false => Err(ConfigError::unsupported("do_center_crop", value)),
        _ => Ok(None),
    }
}

fn donut(keys: Keys<'_>, class: &Class, filter: Filter) -> Result<Geometry, ConfigError> {
    if keys.edition == Edition::Five {
        no_crop(keys)?;
    }
    let size = match (keys.size("size", false)?.unwrap_or(class.size), keys.get("size")) {
        // A list is a width and a height.
        (Size::Exact { height, width }, Some(Value::Array(_))) => (width, height),
        (Size::Exact { height, width }, _) => (height, width),
        _ => return Err(only(keys, "{\"height\": .., \"width\": ..}")),
    };
    let (height, width) = size;
    let [turns, resizes, shrinks, pads] = [
        keys.flag("do_align_long_axis", false)?,
        keys.flag("do_resize", true)?,
        keys.flag("do_thumbnail", true)?,
        keys.flag("do_pad", true)?,
    ];
    if pads && !(resizes && shrinks) {
        // Images that are larger than what they are padded to cannot be padded.
        let key = if resizes { "do_thumbnail" } else { "do_resize" };
        return Err(ConfigError::unsupported(key, &Value::Bool(false)));
    }
    let thumbnail = match keys.edition {
        Edition::Four => Thumbnail { height, width, filter: Filter::Bicubic, reduces: true },
        Edition::Five if filter == Filter::Nearest => {
            Thumbnail { height, width, filter: Filter::Bicubic, reduces: false }
        }
        Edition::Five => Thumbnail { height, width, filter, reduces: false },
    };
    Ok(Geometry {
        before: turns.then_some(Before::Turn { height, width }),
        resize: resizes.then_some((Size::Shortest(height.min(width), None), filter)),
        thumbnail: shrinks.then_some(thumbnail),
        crop: pads.then_some(Crop { size, centre: Centre::Torchvision, colour: [0; 3] }),
    })
}

/// Rescaling and normalisation.
fn scaling(keys: Keys<'_>, class: Option<&Class>) -> Result<Scaling, ConfigError> {
    let rescale = if keys.flag("do_rescale", true)? {
        let factor = keys.get("rescale_factor").map(|value| {
            super::keys::number(value).ok_or_else(|| ConfigError::invalid("rescale_factor", "a finite number", value))
        });
        Some(Rescale::Factor(factor.transpose()?.unwrap_or(class.map_or(1.0 / 255.0, |class| class.rescale_factor))))
    } else {
        None
    };
    let normalizes = class.is_none_or(|class| class.steps != Steps::MobileVit) && keys.flag("do_normalize", true)?;
    let mean_std = if normalizes {
        Some(keys.mean_std(["image_mean", "image_std"], class.map(|class| class.mean_std))?)
    } else {
        None
    };
    Ok(Scaling { rescale, mean_std, again: None })
}

/// What transformers 5 pads the result to. Without `pad_size` that is the largest image of a batch, whose images are alike here.
fn pad(keys: Keys<'_>, geometry: &Geometry) -> Result<Option<(u32, u32)>, ConfigError> {
    let (Some(value), Some(to)) = (keys.get("pad_size"), keys.exact("pad_size")?) else { return Ok(None) };
    match geometry.fixed() {
        Some(size) if size == to => Ok(None),
        Some((height, width)) if height <= to.0 && width <= to.1 => Ok(Some(to)),
        _ => Err(ConfigError::invalid("pad_size", "at least the size of every image", value)),
    }
}
