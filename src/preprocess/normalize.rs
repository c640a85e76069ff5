//! 8-bit RGB in, normalised planar floats out, with the roundings of transformers' `rescale` and `normalize`.

use half::f16;

use super::pixel_data::PixelData;

/// What becomes of each of the 256 possible values of each channel.
///
/// transformers computes `f32(f64(value) * rescale_factor)` and then, in f32, `(value - mean) / std`. A pixel has only
/// 256 possible values, so a table gives the same bits. A graph that takes float16 gets these values rounded to it.
#[derive(Debug, Clone)]
pub(super) enum Normalizer {
    F32(Box<Tables<f32>>),
    F16(Box<Tables<f16>>),
}

/// One table for each channel.
type Tables<T> = [[T; 256]; 3];

/// Where a patch is placed: the first column and row, and width and height of the whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placement {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: u32,
    pub(super) height: u32,
    /// Of the pixels that the patch does not cover.
    pub(super) colour: [u8; 3],
}

/// How 8-bit values become numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Scaling {
    pub(super) rescale: Option<Rescale>,
    /// Mean and standard deviation per channel.
    pub(super) mean_std: Option<([f64; 3], [f64; 3])>,
    /// Divides by these once more, as `include_top` of `EfficientNetImageProcessor` does.
    pub(super) again: Option<[f64; 3]>,
}

/// The first step from 8-bit values to numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rescale {
    /// Times this, computed in 64 bits.
    Factor(f64),
    /// The same, less 1.
    Offset(f64),
    /// Divided by 255 in 32 bits, as torchvision's `ToTensor` does.
    Tensor,
}

impl Scaling {
    /// What becomes of `value` in `channel`.
    fn of(&self, channel: usize, value: u8) -> f32 {
        let rescaled = match self.rescale {
            None => f32::from(value),
            Some(Rescale::Factor(factor)) => (f64::from(value) * factor) as f32,
            Some(Rescale::Offset(factor)) => (f64::from(value) * factor) as f32 - 1.0,
            Some(Rescale::Tensor) => f32::from(value) / 255.0,
        };
        let normalized = match &self.mean_std {
            Some((mean, std)) => (rescaled - mean[channel] as f32) / std[channel] as f32,
            None => rescaled,
        };
        self.again.map_or(normalized, |std| normalized / std[channel] as f32)
    }

    /// For people, a text for each step.
    pub(super) fn describe(&self) -> impl Iterator<Item = String> {
        let inverse = |factor: f64| {
            let inverse = (1.0 / factor).round();
            let exact = (1.0 / inverse).total_cmp(&factor).is_eq();
            if exact { format!("rescale 1/{inverse}") } else { format!("rescale {factor}") }
        };
        let rescale = self.rescale.map(|rescale| match rescale {
            Rescale::Factor(factor) => inverse(factor),
            Rescale::Offset(factor) => format!("{} - 1", inverse(factor)),
            Rescale::Tensor => "rescale 1/255".to_owned(),
        });
        let mean_std = self.mean_std.map(|(mean, std)| format!("mean {mean:?} std {std:?}"));
        [rescale, mean_std, self.again.map(|std| format!("std {std:?} again"))].into_iter().flatten()
    }
}

impl Normalizer {
    /// Tables for `scaling`.
    pub(super) fn new(scaling: &Scaling) -> Self {
        let mut tables = Box::new([[0.0; 256]; 3]);
        for (channel, table) in tables.iter_mut().enumerate() {
            for (value, out) in (0..=u8::MAX).zip(table.iter_mut()) {
                *out = scaling.of(channel, value);
            }
        }
        Self::F32(tables)
    }

    /// The same with results in float16.
    pub(super) fn to_half(&self) -> Self {
        match self {
            Self::F32(tables) => Self::F16(Box::new(tables.map(|table| table.map(f16::from_f32)))),
            Self::F16(_) => self.clone(),
        }
    }

    /// The size of one value.
    pub(super) const fn value_bytes(&self) -> usize {
        match self {
            Self::F32(_) => size_of::<f32>(),
            Self::F16(_) => size_of::<f16>(),
        }
    }

    /// Places each of `patches` (`[patch_height, patch_width, 3]` u8, with `patch_width`) into a `[3, height, width]` tensor whose other
    /// pixels have the colour of `at`; the tensors follow each other.
    pub(super) fn apply(&self, patches: &[(&[u8], usize)], at: Placement) -> PixelData {
        match self {
            Self::F32(tables) => place(tables, patches, at).into(),
            Self::F16(tables) => place(tables, patches, at).into(),
        }
    }
}

fn place<T: Copy>(tables: &Tables<T>, patches: &[(&[u8], usize)], at: Placement) -> Vec<T> {
    let Placement { left, top, width, height, colour } = at;
    let (columns, plane) = (width as usize, width as usize * height as usize);
    let mut data = Vec::with_capacity(patches.len() * 3 * plane);
    for (patch, patch_width) in patches {
        let (start, pixels) = (data.len(), patch.as_chunks::<3>().0);
        let whole = patch.len() == 3 * plane;
        for (channel, table) in tables.iter().enumerate() {
            if whole {
                data.extend(pixels.iter().map(|pixel| table[usize::from(pixel[channel])]));
            } else {
                data.resize(data.len() + plane, table[usize::from(colour[channel])]);
            }
        }
        if !whole && *patch_width > 0 {
            for (channel, (plane, table)) in data[start..].chunks_exact_mut(plane).zip(tables.iter()).enumerate() {
                for (row, out) in pixels.chunks_exact(*patch_width).zip(plane.chunks_exact_mut(columns).skip(top)) {
                    for (pixel, value) in row.iter().zip(&mut out[left..]) {
                        *value = table[usize::from(pixel[channel])];
                    }
                }
            }
        }
    }
    data
}
