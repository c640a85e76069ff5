//! The image processors of transformers that are known by name: the steps of each, in which keys it reads, and what it does where
//! `preprocessor_config.json` is silent.
//!
//! transformers 4.57.6 with its slow classes and transformers 5 with its `Pil` classes read the same file differently here and there.
//! Which of them counts is an [`Edition`].

use serde_json::{Map, Value};

use super::resample::Filter;
use super::size::Size;

const HALF: [f64; 3] = [0.5; 3];
pub(super) const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
pub(super) const OPENAI: ([f64; 3], [f64; 3]) =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]);

/// Whose reading of a file counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edition {
    /// The slow classes of transformers 4.57.6.
    Four,
    /// The classes of transformers 5 that work with Pillow. The `Fast` classes of 4 read the same keys.
    Five,
}

/// What an image processor does, beside resizing, rescaling and normalising.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Steps {
    /// A center crop after resizing, if the class has one.
    Plain,
    /// Nothing.
    Resize,
    /// Resizes to more than the size, by `crop_pct`, and crops; below 384 pixels.
    ConvNext,
    /// Resizes to more than the size, by `crop_pct`, and crops.
    PoolFormer,
    /// Resizes the short side to 256/224 of the size, and crops.
    Levit,
    /// Turns, resizes, makes thumbnails, and pads.
    Donut,
    /// Crops before resizing.
    Perceiver,
    /// Rescales with an offset, and divides by the standard deviation a second time.
    EfficientNet,
    /// Blue before red, and no normalisation.
    MobileVit,
    /// Pads to a square before resizing.
    Llava,
    /// Cuts into tiles.
    Tiles,
}

impl Steps {
    /// Keys beside [`Class::KEYS`].
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Resize | Self::Levit | Self::Perceiver => &[],
            Self::ConvNext | Self::PoolFormer => &["crop_pct"],
            Self::Donut => &["do_thumbnail", "do_align_long_axis", "do_pad"],
            Self::EfficientNet => &["rescale_offset", "include_top"],
            Self::MobileVit => &["do_flip_channel_order"],
            Self::Llava => &["do_pad"],
            Self::Tiles => &["max_image_size", "do_image_splitting", "do_pad"],
        }
    }

    /// What is done, for people.
    pub(super) const fn describe(self, crops: bool) -> &'static str {
        match self {
            Self::Plain if crops => "resize, center crop, rescale, normalise",
            Self::Plain | Self::Resize => "resize, rescale, normalise",
            Self::ConvNext => "resize by `crop_pct` and center crop (from 384 pixels on: resize), rescale, normalise",
            Self::PoolFormer => "resize by `crop_pct`, center crop, rescale, normalise",
            Self::Levit => "resize to 256/224 of the short side, center crop, rescale, normalise",
            Self::Donut => "turn, resize, thumbnail, pad, rescale, normalise",
            Self::Perceiver => "center crop, resize, rescale, normalise",
            Self::EfficientNet => "resize, center crop, rescale (with offset), normalise (twice by `include_top`)",
            Self::MobileVit => "resize, rescale, center crop, blue before red",
            Self::Llava => "pad to a square, resize, center crop, rescale, normalise",
            Self::Tiles => "resize, cut into tiles, rescale, normalise",
        }
    }
}

/// A class of image processors, and its defaults.
#[derive(Debug, Clone, Copy)]
pub(super) struct Class {
    /// Its name without `ImageProcessor`, `FeatureExtractor`, `Fast` and `Pil`.
    pub(super) name: &'static str,
    /// The `model_type` of `config.json` for which `AutoImageProcessor` takes this class.
    pub(super) models: &'static [&'static str],
    pub(super) steps: Steps,
    pub(super) size: Size,
    /// A bare integer is the length of the short side, not that of a square.
    pub(super) integer_is_shortest: bool,
    /// transformers 4 takes a `shortest_edge`, and then ignores the longest.
    pub(super) edges: bool,
    pub(super) filter: Filter,
    /// Whether it crops, and to which side.
    pub(super) crop: Option<(bool, u32)>,
    pub(super) rescale_factor: f64,
    pub(super) mean_std: ([f64; 3], [f64; 3]),
    /// transformers 5 pads the result to `pad_size`.
    pub(super) pads: bool,
}

impl Class {
    /// The keys that every class reads.
    pub(super) const KEYS: [&'static str; 8] =
        ["do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"];
    const CROP: [&'static str; 2] = ["do_center_crop", "crop_size"];
    /// Keys that say who reads the file, or that concern no image of this program: images are always converted to RGB.
    const FOR_OTHERS: [&'static str; 9] = [
        "image_processor_type",
        "feature_extractor_type",
        "processor_class",
        "auto_map",
        "do_convert_rgb",
        "data_format",
        "input_data_format",
        "do_reduce_labels",
        "return_tensors",
    ];

    /// The class of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        CLASSES.iter().find(|class| class.name == name)
    }

    /// The class that `AutoImageProcessor` takes for this `model_type`.
    pub(super) fn of_model(model_type: &str) -> Option<&'static Self> {
        CLASSES.iter().find(|class| class.models.contains(&model_type))
    }

    /// The class with the defaults of `edition`.
    pub(super) const fn of(mut self, edition: Edition) -> Self {
        if matches!(edition, Edition::Five) {
            match self.name.as_bytes() {
                b"Beit" => {
                    self.size = square(224);
                    self.crop = Some((false, 224));
                }
                b"ConvNext" | b"EfficientNet" | b"MobileViT" | b"Pvt" => self.filter = Filter::Bicubic,
                _ => {}
            }
        }
        self
    }

    /// The keys that it reads.
    pub(super) fn keys(&self, edition: Edition) -> Vec<&'static str> {
        let normalizes = self.steps != Steps::MobileVit;
        let base =
            Self::KEYS.into_iter().filter(|key| normalizes || !key.starts_with("image_") && *key != "do_normalize");
        let crops = self.crop.is_some() || edition == Edition::Five && self.steps == Steps::Plain;
        let crop = Self::CROP.into_iter().filter(|_| crops);
        let pad = ["do_pad", "pad_size", "default_to_square"].into_iter().filter(|key| match *key {
            "default_to_square" => edition == Edition::Five,
            _ => edition == Edition::Five && self.pads,
        });
        let square = (self.name == "CLIP").then_some("use_square_size");
        base.chain(crop).chain(self.steps.keys().iter().copied()).chain(pad).chain(square).collect()
    }

    /// The keys of `config` that it does not read, though they are there for something.
    pub(super) fn ignored(&self, edition: Edition, config: &Map<String, Value>) -> Vec<String> {
        let read = self.keys(edition);
        let unread = config.iter().filter(|(key, value)| {
            let key = key.as_str();
            !value.is_null() && !key.starts_with('_') && !Self::FOR_OTHERS.contains(&key) && !read.contains(&key)
        });
        unread.map(|(key, _)| key.clone()).collect()
    }
}

/// The table of all image processors in `docs/models.md`, a line each.
pub fn image_processor_table() -> String {
    let row = |class: &Class| {
        let quoted = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let crop = class
            .crop
            .map_or(String::new(), |(on, side)| format!(", crop {side}x{side}{}", if on { "" } else { " (off)" }));
        let keys: Vec<_> = class.keys(Edition::Four).into_iter().filter(|key| !Class::KEYS.contains(key)).collect();
        let (size, filter) = (class.size.describe(), class.filter.name());
        format!(
            "| `{}` | {} | {} | {size} {filter}{crop} | {} |\n",
            class.name,
            quoted(class.models),
            class.steps.describe(class.crop.is_some()),
            quoted(&keys)
        )
    };
    CLASSES.iter().map(row).collect()
}

const fn square(side: u32) -> Size {
    Size::Exact { height: side, width: side }
}

/// Resizes to a square; mean and deviation are 0.5.
const fn exact(name: &'static str, models: &'static [&'static str], side: u32, filter: Filter) -> Class {
    Class {
        name,
        models,
        steps: Steps::Plain,
        size: square(side),
        integer_is_shortest: false,
        edges: false,
        filter,
        crop: None,
        rescale_factor: 1.0 / 255.0,
        mean_std: (HALF, HALF),
        pads: true,
    }
}

/// Resizes the short side and crops.
const fn edge(name: &'static str, models: &'static [&'static str], side: u32, filter: Filter, crop: u32) -> Class {
    Class {
        size: Size::Shortest(side, None),
        integer_is_shortest: true,
        edges: true,
        crop: Some((true, crop)),
        ..exact(name, models, side, filter)
    }
}

const fn openai(class: Class) -> Class {
    Class { mean_std: OPENAI, ..class }
}

const fn imagenet(class: Class) -> Class {
    Class { mean_std: IMAGENET, ..class }
}

const VIT: &[&str] = &[
    "clipseg",
    "dinat",
    "ijepa",
    "mgp-str",
    "nat",
    "swiftformer",
    "swin",
    "swinv2",
    "trocr",
    "vit",
    "vit_mae",
    "vit_msn",
];
const CLIP: &[&str] = &[
    "aimv2",
    "aimv2_vision_model",
    "altclip",
    "clip",
    "florence2",
    "git",
    "groupvit",
    "kosmos-2",
    "metaclip_2",
    "mlcd",
    "vipllava",
    "xclip",
];
const CONVNEXT: &[&str] = &["convnext", "convnextv2", "cvt", "regnet", "resnet", "van"];

/// Every class, in the order of their names.
pub(super) const CLASSES: [Class; 25] = {
    use Filter::{Bicubic, Bilinear, Lanczos, Nearest};
    [
        Class { crop: Some((true, 224)), pads: false, ..exact("Beit", &["beit", "data2vec-vision"], 256, Bicubic) },
        openai(edge("Bit", &["bit", "dinov2", "focalnet", "hiera", "pixio"], 224, Bicubic, 224)),
        openai(exact("Blip", &["blip", "blip-2", "instructblip"], 384, Bicubic)),
        openai(edge("CLIP", CLIP, 224, Bicubic, 224)),
        Class {
            rescale_factor: 0.0078,
            mean_std: ([1.0; 3], [1.0; 3]),
            ..edge("Chameleon", &["chameleon"], 512, Lanczos, 512)
        },
        Class { edges: false, ..openai(edge("ChineseCLIP", &["chinese_clip"], 224, Bicubic, 224)) },
        Class { steps: Steps::ConvNext, crop: None, pads: false, ..edge("ConvNext", CONVNEXT, 384, Bilinear, 384) },
        Class { crop: Some((true, 224)), ..exact("DeiT", &["deit"], 256, Bicubic) },
        Class {
            steps: Steps::Donut,
            size: Size::Exact { height: 2560, width: 1920 },
            pads: false,
            ..exact("Donut", &["donut-swin"], 2560, Bilinear)
        },
        Class {
            steps: Steps::EfficientNet,
            crop: Some((false, 289)),
            pads: false,
            ..exact("EfficientNet", &["align", "efficientnet"], 346, Nearest)
        },
        Class { crop: Some((true, 224)), pads: false, ..openai(exact("Flava", &["flava"], 224, Bicubic)) },
        Class { steps: Steps::Tiles, pads: false, ..exact("Idefics3", &["idefics3"], 364, Lanczos) },
        Class { steps: Steps::Levit, ..imagenet(edge("Levit", &["levit"], 224, Bicubic, 224)) },
        Class { steps: Steps::Llava, pads: false, ..openai(edge("Llava", &["llava"], 224, Bicubic, 224)) },
        edge("MobileNetV1", &["mobilenet_v1"], 256, Bilinear, 224),
        Class { pads: false, ..edge("MobileNetV2", &["mobilenet_v2"], 256, Bilinear, 224) },
        Class {
            steps: Steps::MobileVit,
            pads: false,
            ..edge("MobileViT", &["mobilevit", "mobilevitv2"], 224, Bilinear, 256)
        },
        Class { crop: Some((false, 768)), ..openai(exact("OwlViT", &["owlvit"], 768, Bicubic)) },
        Class {
            steps: Steps::Perceiver,
            crop: Some((true, 256)),
            pads: false,
            ..imagenet(exact("Perceiver", &["perceiver"], 224, Bicubic))
        },
        Class { steps: Steps::PoolFormer, ..imagenet(edge("PoolFormer", &["poolformer"], 224, Bicubic, 224)) },
        imagenet(exact("Pvt", &["pvt", "pvt_v2"], 224, Bilinear)),
        Class {
            steps: Steps::Resize,
            pads: false,
            ..imagenet(exact("Segformer", &["segformer", "upernet"], 512, Bilinear))
        },
        Class {
            integer_is_shortest: true,
            ..exact("Siglip", &["colpali", "gemma3n", "paligemma", "siglip"], 224, Bicubic)
        },
        Class { steps: Steps::Tiles, pads: false, ..exact("SmolVLM", &["smolvlm"], 364, Lanczos) },
        exact("ViT", VIT, 224, Bilinear),
    ]
};
