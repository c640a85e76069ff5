//! How small a JPEG may be decoded: an image's size and the size that it will be resized to in, one of the four fractions of
//! libjpeg's scaled decoding out. The rule is Pillow's `Image.draft("RGB", (2 * width, 2 * height))`, which its
//! `thumbnail(reducing_gap=2.0)` uses too: what is resized afterwards has at least twice as many pixels along each side.

/// The part of its width and height at which a JPEG is decoded, each side rounded up. From large to small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum JpegScale {
    /// As it is.
    #[default]
    Full,
    /// 1/2.
    Half,
    /// 1/4.
    Quarter,
    /// 1/8.
    Eighth,
}

impl JpegScale {
    /// The smallest that leaves an image of `full` at least twice the size of `target`; both are width and height in pixels.
    pub fn between(full: (u32, u32), target: (u32, u32)) -> Self {
        let times = |full: u32, target: u32| u64::from(full) / (2 * u64::from(target)).max(1);
        match times(full.0, target.0).min(times(full.1, target.1)) {
            8.. => Self::Eighth,
            4.. => Self::Quarter,
            2.. => Self::Half,
            _ => Self::Full,
        }
    }

    /// What the sides are divided by: 1, 2, 4 or 8.
    pub const fn divisor(self) -> u32 {
        match self {
            Self::Full => 1,
            Self::Half => 2,
            Self::Quarter => 4,
            Self::Eighth => 8,
        }
    }
}
