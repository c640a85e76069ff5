//! 8-bit RGB in, normalised planar f32 out, with the roundings of transformers' `rescale` and `normalize`.

use super::image::PixelValues;

/// What becomes of each of the 256 possible values of each channel.
///
/// transformers computes `f32(f64(value) * rescale_factor)` and then, in f32, `(value - mean) / std`. A pixel has only
/// 256 possible values, so a table gives the same bits.
#[derive(Debug, Clone)]
pub(super) struct Normalizer {
    tables: Box<[[f32; 256]; 3]>,
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
        Self { tables }
    }

    /// Places `patch` (`[patch_height, patch_width, 3]` u8) at (`left`, `top`) of a `[3, height, width]` tensor whose
    /// other pixels are black.
    pub(super) fn apply(&self, patch: &[u8], patch_width: usize, at: (usize, usize), size: (u32, u32)) -> PixelValues {
        let ((left, top), (width, height)) = (at, size);
        let (columns, plane) = (width as usize, width as usize * height as usize);
        let mut data = Vec::with_capacity(3 * plane);
        let whole = patch.len() == 3 * plane;
        for table in self.tables.iter() {
            data.resize(data.len() + if whole { 0 } else { plane }, table[0]);
            if whole {
                let channel = data.len() / plane.max(1);
                data.extend(patch.as_chunks::<3>().0.iter().map(|pixel| table[usize::from(pixel[channel])]));
            }
        }
        if !whole && patch_width > 0 {
            let pixels = patch.as_chunks::<3>().0;
            for (channel, (plane, table)) in data.chunks_exact_mut(plane).zip(self.tables.iter()).enumerate() {
                for (row, out) in pixels.chunks_exact(patch_width).zip(plane.chunks_exact_mut(columns).skip(top)) {
                    for (pixel, value) in row.iter().zip(&mut out[left..]) {
                        *value = table[usize::from(pixel[channel])];
                    }
                }
            }
        }
        PixelValues { data, height, width, grid: None }
    }
}
