//! The size that an image is resized to, in each of the ways that image processors state it. In: a height and width. Out: the new ones.

/// The size to resize to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// Exactly this, whatever the aspect ratio.
    Exact { height: u32, width: u32 },
    /// The short side becomes this, the long side follows, but not beyond the second number (then both shrink).
    Shortest(u32, Option<u32>),
    /// The long side becomes at most this.
    Longest(u32),
    /// As [`Self::Shortest`] with a second number, rounded as transformers 5 does it.
    Aspect { shortest: u32, longest: u32 },
    /// The largest that has at most this height and width.
    Within { height: u32, width: u32 },
    /// Of timm: one side becomes this height or width, the other does not become smaller (`longest`: larger) than its own.
    Ratio { height: u32, width: u32, longest: bool },
}

impl Size {
    /// Height and width that an image of `height` x `width` is resized to.
    pub(super) fn of(self, height: u32, width: u32) -> (u32, u32) {
        let (short, long) = (height.min(width), height.max(width));
        let scaled = |by: f64| ((f64::from(height) * by) as u32, (f64::from(width) * by) as u32);
        let oriented = |(short, long)| if width <= height { (long, short) } else { (short, long) };
        let (to_height, to_width) = match self {
            Self::Exact { height, width } => return (height, width),
            // transformers' `get_resize_output_image_size`, which cuts fractions off.
            Self::Shortest(edge, cap) => {
                let follows = (f64::from(edge) * f64::from(long) / f64::from(short)) as u32;
                oriented(match cap {
                    Some(cap) if follows > cap => ((f64::from(cap) * f64::from(edge) / f64::from(follows)) as u32, cap),
                    _ => (edge, follows),
                })
            }
            Self::Longest(cap) if long > cap => {
                oriented(((f64::from(short) * f64::from(cap) / f64::from(long)) as u32, cap))
            }
            Self::Longest(_) => (height, width),
            Self::Aspect { shortest, longest } => oriented(aspect(short, long, shortest, longest)),
            Self::Within { height: most_height, width: most_width } => {
                let by = f64::from(most_height) / f64::from(height);
                scaled(by.min(f64::from(most_width) / f64::from(width)))
            }
            Self::Ratio { height: to_height, width: to_width, longest } => {
                let ratios = (f64::from(height) / f64::from(to_height), f64::from(width) / f64::from(to_width));
                let ratio = if longest { ratios.0.max(ratios.1) } else { ratios.0.min(ratios.1) };
                let round = |side: u32| (f64::from(side) / ratio).round_ties_even() as u32;
                (round(height), round(width))
            }
        };
        (to_height.max(1), to_width.max(1))
    }

    /// The most pixels that [`Size::of`] makes of any image, if there is a bound.
    pub(super) const fn most_pixels(self) -> Option<u64> {
        match self {
            Self::Exact { height, width }
            | Self::Within { height, width }
            | Self::Ratio { height, width, longest: true } => Some(height as u64 * width as u64),
            Self::Shortest(edge, Some(cap)) => Some(edge as u64 * cap as u64),
            Self::Longest(cap) | Self::Aspect { longest: cap, .. } => Some(cap as u64 * cap as u64),
            Self::Shortest(_, None) | Self::Ratio { longest: false, .. } => None,
        }
    }

    /// For people.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Exact { height, width } => format!("{height}x{width}"),
            Self::Shortest(short, None) => format!("shortest edge {short}"),
            Self::Shortest(shortest, Some(longest)) | Self::Aspect { shortest, longest } => {
                format!("shortest edge {shortest}, longest at most {longest},")
            }
            Self::Longest(long) => format!("longest edge at most {long}"),
            Self::Within { height, width } => format!("at most {height}x{width}"),
            Self::Ratio { height, width, longest } => {
                format!("{} {height}x{width}", if longest { "to fit into" } else { "to cover" })
            }
        }
    }
}

/// transformers' `get_size_with_aspect_ratio`: short and long side.
fn aspect(short: u32, long: u32, edge: u32, cap: u32) -> (u32, u32) {
    let (low, high) = (f64::from(short), f64::from(long));
    let exact = (high / low * f64::from(edge) > f64::from(cap)).then(|| f64::from(cap) * low / high);
    let edge = exact.map_or(edge, |exact| exact.round_ties_even() as u32);
    if short == edge { (short, long) } else { (edge, (exact.unwrap_or(f64::from(edge)) * high / low) as u32) }
}
