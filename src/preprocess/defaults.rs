//! What the image processors of transformers 4.57.6 do where `preprocessor_config.json` is silent, by class name.

use super::resample::Filter;

const HALF: [f64; 3] = [0.5; 3];
const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];
const OPENAI_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const OPENAI_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

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

impl Size {
    /// Height and width that an image of `height` x `width` is resized to.
    pub(super) fn of(self, height: u32, width: u32) -> (u32, u32) {
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

    /// The most pixels that [`Size::of`] makes of any image, if there is a bound.
    pub(super) const fn most_pixels(self) -> Option<u64> {
        match self {
            Self::Exact { height, width } => Some(height as u64 * width as u64),
            Self::Shortest(edge, Some(cap)) => Some(edge as u64 * cap as u64),
            Self::Shortest(_, None) => None,
            Self::Longest(cap) => Some(cap as u64 * cap as u64),
        }
    }
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
            "SmolVLM" | "Idefics3" => square(364, Filter::Lanczos, None),
            _ => return None,
        })
    }
}
