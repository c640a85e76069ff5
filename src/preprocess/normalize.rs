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
}

impl Normalizer {
    /// Tables for `rescale` (none: values stay 0..=255) followed by `mean` and `std` per channel (none: no normalisation).
    pub(super) fn new(rescale: Option<f64>, mean_std: Option<([f64; 3], [f64; 3])>) -> Self {
        let mut tables = Box::new([[0.0; 256]; 3]);
        for (channel, table) in tables.iter_mut().enumerate() {
            for (value, out) in table.iter_mut().enumerate() {
                *out = rescale.map_or(value as f32, |factor| (value as f64 * factor) as f32);
                if let Some((mean, std)) = &mean_std {
                    *out = (*out - mean[channel] as f32) / std[channel] as f32;
                }
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
    /// pixels are black; the tensors follow each other.
    pub(super) fn apply(&self, patches: &[(&[u8], usize)], at: Placement) -> PixelData {
        match self {
            Self::F32(tables) => place(tables, patches, at).into(),
            Self::F16(tables) => place(tables, patches, at).into(),
        }
    }
}

fn place<T: Copy>(tables: &Tables<T>, patches: &[(&[u8], usize)], at: Placement) -> Vec<T> {
    let Placement { left, top, width, height } = at;
    let (columns, plane) = (width as usize, width as usize * height as usize);
    let mut data = Vec::with_capacity(patches.len() * 3 * plane);
    for (patch, patch_width) in patches {
        let (start, pixels) = (data.len(), patch.as_chunks::<3>().0);
        let whole = patch.len() == 3 * plane;
        for (channel, table) in tables.iter().enumerate() {
            if whole {
                data.extend(pixels.iter().map(|pixel| table[usize::from(pixel[channel])]));
            } else {
                data.resize(data.len() + plane, table[0]);
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
