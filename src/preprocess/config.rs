//! `preprocessor_config.json` in, a validated [`ImageProcessor`] out. What a class of image processors does not read is ignored, as in
//! transformers; without a class, a key that would change pixels and is not supported is refused.

use serde_json::{Map, Value};

use super::classes::{CLASSES, Class, Edition};
use super::error::ConfigError;
use super::image::{PixelValues, RgbImage};
use super::keys::Keys;
use super::normalize::Normalizer;
use super::plan::Plan;
use super::scale::JpegScale;
use super::tiles::Tiling;
use super::torchvision;

/// The most values that every image may become: 5792 x 5792 pixels, or 253 tiles of 364 x 364. 400 MB of float32.
const MOST_VALUES: usize = 3 << 25;

/// A validated `preprocessor_config.json`: what happens to every image before the model.
#[derive(Debug, Clone)]
pub struct ImageProcessor {
    plan: Plan,
    normalizer: Normalizer,
    ignored: Vec<String>,
}

impl ImageProcessor {
    /// [`Self::for_model`] without a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] for a wrong value and for every step that is not supported here.
    pub fn from_config(config: &Value) -> Result<Self, ConfigError> {
        Self::for_model(config, None)
    }

    /// Reads the content of `preprocessor_config.json`, of a `processor_config.json` that holds it under `image_processor`, of timm's
    /// `config.json` or of `open_clip`'s settings. `model` is the model's `config.json`: its `model_type` stands in for a missing
    /// `image_processor_type`, and its `transformers_version` says who saved the files. Missing keys get the defaults of the class;
    /// without a class nothing is guessed and the keys must be there. Images are always converted to RGB, whatever `do_convert_rgb`
    /// says.
    ///
    /// # Errors
    /// [`ConfigError`] for a wrong value and for every step that is not supported here.
    pub fn for_model(config: &Value, model: Option<&Map<String, Value>>) -> Result<Self, ConfigError> {
        let nested = config.get("image_processor").and_then(Value::as_object);
        let Some(object) = nested.or_else(|| config.as_object()) else {
            return Err(ConfigError::invalid("(file)", "a JSON object", config));
        };
        // As transformers reads a directory of timm's, whatever other files it has.
        let timm = model.filter(|model| model.get("pretrained_cfg").is_some_and(Value::is_object));
        if let Some(plan) = torchvision::find(timm.unwrap_or(object)) {
            return Self::new(plan?, Vec::new());
        }
        let named = named(object)?;
        let saved_by_five = || {
            let version = model.and_then(|model| model.get("transformers_version")?.as_str());
            version.and_then(|version| version.split('.').next()?.parse::<u32>().ok()).is_some_and(|major| major >= 5)
        };
        let later = nested.is_some() || named.is_some_and(|(_, later)| later) || saved_by_five();
        let edition = if later { Edition::Five } else { Edition::Four };
        let keys = Keys { object, edition };
        // A `processor_config.json` may hold other settings only.
        let says = Class::KEYS.iter().any(|key| object.contains_key(*key));
        let of_model = || Class::of_model(model.filter(|_| says)?.get("model_type")?.as_str()?);
        match named.map(|(class, _)| class).or_else(of_model) {
            Some(class) => Self::new(Plan::named(keys, class)?, class.ignored(edition, object)),
            None => Self::new(Plan::unnamed(keys)?, Vec::new()),
        }
    }

    fn new(plan: Plan, ignored: Vec<String>) -> Result<Self, ConfigError> {
        let processor = Self { normalizer: Normalizer::new(&plan.scaling), plan, ignored };
        match processor.most_values().filter(|values| *values > MOST_VALUES) {
            Some(values) => {
                let key = if processor.plan.geometry.crop.is_some() { "crop_size" } else { "size" };
                let expected = format!("at most {MOST_VALUES} values an image ({} pixels)", MOST_VALUES / 3);
                Err(ConfigError::Invalid { key: key.to_owned(), expected, found: values.to_string() })
            }
            None => Ok(processor),
        }
    }

    /// The keys of the file that its image processor does not read.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Height and width of every output (of every tile), if they do not depend on the image.
    pub fn output_size(&self) -> Option<(u32, u32)> {
        match &self.plan.tiling {
            Some(tiling) => Some((tiling.side, tiling.side)),
            None => self.plan.pad.or_else(|| self.plan.geometry.fixed()),
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
        let area = |(height, width): (u32, u32)| u64::from(height) * u64::from(width);
        let pixels = match (&self.plan.tiling, self.plan.pad) {
            (Some(tiling), _) => tile_pixels(tiling),
            (None, Some(size)) => area(size),
            (None, None) => self.plan.geometry.most_pixels()?,
        };
        usize::try_from(pixels.saturating_mul(3)).ok()
    }

    /// The most pixels that an image of `width` x `height` becomes, tiles included, at the end or in between.
    pub(super) fn output_pixels(&self, width: u32, height: u32) -> u64 {
        if let Some(tiling) = &self.plan.tiling {
            return tile_pixels(tiling);
        }
        let pad = self.plan.pad.map_or(0, |(height, width)| u64::from(height) * u64::from(width));
        self.plan.geometry.most_at_once(height, width).max(pad)
    }

    /// Most bytes that [`Self::process`] takes at once for an image of `width` x `height`, its result included, the image not.
    pub(super) fn memory_needed(&self, width: u32, height: u32) -> u64 {
        let value_bytes = self.normalizer.value_bytes() as u64;
        // A padded result is made of one that is not.
        let copies = if self.plan.pad.is_some() { 2 } else { 1 };
        let values = self.most_values().map_or_else(|| 3 * self.output_pixels(width, height), |values| values as u64);
        let values = values.saturating_mul(value_bytes * copies);
        match &self.plan.tiling {
            Some(tiling) => tiling.memory_needed(width, height),
            None => self.plan.geometry.memory_needed(width, height),
        }
        .saturating_add(values)
    }

    /// The smallest scale at which a JPEG of `width` x `height` pixels (upright) still has twice the size that it is resized to
    /// first; the full one if it is not resized, or turned, padded or cropped before that, or to whole tiles.
    pub fn jpeg_scale(&self, width: u32, height: u32) -> JpegScale {
        let target = match &self.plan.tiling {
            Some(tiling) => tiling.resized(height, width),
            None => self.plan.geometry.first_size(height, width),
        };
        target
            .map_or(JpegScale::Full, |(to_height, to_width)| JpegScale::between((width, height), (to_width, to_height)))
    }

    /// Resizes, crops around the centre (padding with black what the image does not cover), rescales and normalises, as its class
    /// does.
    pub fn process(&self, image: &RgbImage) -> PixelValues {
        if let Some(tiling) = &self.plan.tiling {
            return tiling.process(image, &self.normalizer);
        }
        let mut patch = self.plan.geometry.process(image);
        if self.plan.flips {
            patch.pixels.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
        }
        let data = self.normalizer.apply(&[(&patch.pixels, patch.columns)], patch.at);
        let (height, width) = (patch.at.height, patch.at.width);
        match self.plan.pad {
            Some(to) => PixelValues { data: data.padded((height, width), to), height: to.0, width: to.1, grid: None },
            None => PixelValues { data, height, width, grid: None },
        }
    }

    /// One line for people, such as `resize 224x224 bicubic, rescale 1/255, mean [0.5, 0.5, 0.5] std [0.5, 0.5, 0.5]`;
    /// sizes are height x width.
    pub fn describe(&self) -> String {
        let Plan { tiling, geometry, flips, scaling, pad } = &self.plan;
        let tiles = tiling.as_ref().map(Tiling::describe);
        let pad = pad.map(|(height, width)| format!("pad to {height}x{width} with zeros"));
        let flip = flips.then(|| "blue before red".to_owned());
        let steps: Vec<_> =
            tiles.into_iter().chain(geometry.describe()).chain(flip).chain(scaling.describe()).chain(pad).collect();
        if steps.is_empty() { "nothing".to_owned() } else { steps.join(", ") }
    }
}

fn tile_pixels(tiling: &Tiling) -> u64 {
    u64::from(tiling.side) * u64::from(tiling.side) * tiling.most_tiles() as u64
}

/// The class that the file names, and whether its name is that of a class that reads what transformers 5 reads.
fn named(object: &Map<String, Value>) -> Result<Option<(&'static Class, bool)>, ConfigError> {
    let mut names = ["image_processor_type", "feature_extractor_type"].into_iter();
    let given = names.find_map(|key| Some((key, object.get(key).filter(|value| !value.is_null())?)));
    let Some((key, value)) = given else { return Ok(None) };
    let name = value.as_str().unwrap_or_default();
    let plain = name.strip_suffix("Fast").or_else(|| name.strip_suffix("Pil")).unwrap_or(name);
    let class = plain.strip_suffix("ImageProcessor").or_else(|| plain.strip_suffix("FeatureExtractor"));
    if let Some(class) = class.and_then(Class::named) {
        return Ok(Some((class, plain != name)));
    }
    let names: Vec<_> = CLASSES.iter().map(|class| class.name).collect();
    let why = match class.unwrap_or_default() {
        "DINOv3ViT" | "Sam2" | "Cohere2Vision" | "Llama4" => " (this one resizes with torchvision, not Pillow)",
        "Siglip2" | "Pixtral" | "Qwen2VL" | "Glm4v" | "Pix2Struct" => " (this one gives images of varying size)",
        _ => "",
    };
    Err(ConfigError::invalid(key, &format!("the ImageProcessor of {}{why}", names.join(", ")), value))
}
