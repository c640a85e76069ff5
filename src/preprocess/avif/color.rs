//! Decoded AV1 samples in, RGB out, bit for bit as libavif 1.4 and the libyuv in it make it of them: in integers with six bits behind
//! the point where libyuv knows the matrix, else in floating point.

use super::super::image::RgbImage;
use super::boxes::unsupported;
use super::frame::{Component, Frame, Layout};
use super::properties::Colors;
use crate::row::error::RowError;

/// libyuv's constants of a matrix: luma's factor and offset; blue of U; green of U and V; red of V.
#[derive(Clone, Copy)]
struct Fixed {
    luma: (i32, i32),
    blue: i32,
    green: (i32, i32),
    red: i32,
}

impl Fixed {
    /// None of matrices that libyuv does not know.
    fn of(colors: Colors) -> Option<Self> {
        let matrix = match (colors.matrix, colors.primaries) {
            (12, 1 | 2) => 1,
            (12, 5 | 6) => 5,
            (12, 9) => 9,
            (12, _) => return None,
            (matrix, _) => matrix,
        };
        let (luma_factor, (blue, green_u, green_v, red)) = match (matrix, colors.is_full_range) {
            (1, true) => (16320, (119, 12, 30, 101)),
            (1, false) => (18997, (128, 14, 34, 115)),
            (2 | 5 | 6, true) => (16320, (113, 22, 46, 90)),
            (2 | 5 | 6, false) => (18997, (128, 25, 52, 102)),
            (9, true) => (16320, (120, 11, 37, 94)),
            (9, false) => (19003, (128, 12, 42, 107)),
            _ => return None,
        };
        let luma = (luma_factor, if colors.is_full_range { 32 } else { -1160 });
        Some(Self { luma, blue, green: (green_u, green_v), red })
    }

    /// Luma of 16 bits, chroma of 8.
    fn pixel(&self, luma: u32, u: i32, v: i32) -> [u8; 3] {
        let luma = ((luma * self.luma.0 as u32) >> 16) as i32 + self.luma.1;
        let (u, v) = (u - 128, v - 128);
        let clamped = |value: i32| (value >> 6).clamp(0, 255) as u8;
        let green = luma - (u * self.green.0 + v * self.green.1);
        [clamped(luma + v * self.red), clamped(green), clamped(luma + u * self.blue)]
    }
}

/// Colours of `color`, whose file has alpha or not, divided by alpha where they are multiplied by it.
pub(super) fn to_rgb(
    color: &Frame,
    alpha: Option<&Frame>,
    is_premultiplied: bool,
    colors: Colors,
) -> Result<RgbImage, RowError> {
    let is_gray = color.layout() == Layout::Gray;
    let is_known = match colors.matrix {
        0 => is_gray || color.layout() == Layout::Full,
        8 => colors.is_full_range,
        1 | 2 | 4..=7 | 9 | 12 => true,
        _ => false,
    };
    if !is_known {
        return Err(unsupported(&format!("colours of the matrix {}, which libavif does not convert", colors.matrix)));
    }
    let fixed = Fixed::of(if is_gray && colors.matrix == 0 { Colors { matrix: 6, ..colors } } else { colors });
    // Gray without alpha is no layout that libyuv has.
    let fixed = fixed.filter(|_| !is_gray || alpha.is_some());
    let float = Float::new(colors, color.depth());
    let (width, height) = (color.width, color.height);
    let mut pixels = vec![0; width * height * 3];
    let mut rows = Rows::new(color);
    let mut alphas = vec![0; width];
    for (y, out) in pixels.chunks_exact_mut(width * 3).enumerate() {
        let out = out.as_chunks_mut::<3>().0;
        rows.luma(y);
        let is_slow = match &fixed {
            Some(fixed) => {
                rows.in_integers(fixed, alpha.is_some(), y, out);
                false
            }
            None => rows.in_floats(&float, y, out),
        };
        if let Some(alpha) = alpha.filter(|_| is_premultiplied) {
            alpha.row(Component::Luma, y, &mut alphas);
            let alpha = Alpha { depth: alpha.depth(), is_full_range: alpha.sequence().is_full_range };
            if is_slow {
                let values = out.iter_mut().zip(rows.floats.iter()).zip(&alphas);
                values.for_each(|((pixel, values), sample)| *pixel = alpha.divided(*values, *sample));
            } else {
                let is_quarter = alpha.depth == 12 && color.layout() == Layout::Quarter;
                let is_shifted = fixed.is_some() && !is_quarter && !is_gray;
                let values = out.iter_mut().zip(&alphas);
                values.for_each(|(pixel, sample)| *pixel = alpha.divided_bytes(*pixel, *sample, is_shifted));
            }
        }
    }
    Ok(RgbImage { width: width as u32, height: height as u32, pixels })
}

/// The rows of samples that one row of pixels is made of.
struct Rows<'a> {
    frame: &'a Frame,
    luma: Vec<u16>,
    chroma: [Vec<u16>; 2],
    /// The other row of chroma that a pixel lies between.
    other: [Vec<u16>; 2],
    /// Colours of the last row before they are rounded.
    floats: Vec<[f32; 3]>,
}

impl<'a> Rows<'a> {
    fn new(frame: &'a Frame) -> Self {
        let chroma = || vec![0; frame.chroma_width()];
        let floats = Vec::new();
        Self { frame, luma: vec![0; frame.width], chroma: [chroma(), chroma()], other: [chroma(), chroma()], floats }
    }

    fn luma(&mut self, y: usize) {
        self.frame.row(Component::Luma, y, &mut self.luma);
    }

    /// The rows of chroma next to row `y` and next but one; the same row twice where chroma has all rows, and at the edges.
    fn chroma(&mut self, y: usize) {
        let (near, far) = match self.frame.layout() {
            Layout::Quarter if y == 0 || y % 2 == 1 && y == self.frame.height - 1 => (y / 2, y / 2),
            Layout::Quarter if y % 2 == 1 => (y / 2, y / 2 + 1),
            Layout::Quarter => (y / 2, y / 2 - 1),
            _ => (y, y),
        };
        for (at, component) in [Component::U, Component::V].into_iter().enumerate() {
            self.frame.row(component, near, &mut self.chroma[at]);
            self.frame.row(component, far, &mut self.other[at]);
        }
    }

    /// Positions of chroma next to column `x` and next but one.
    fn columns(&self, x: usize, is_edge: bool) -> (usize, usize) {
        match self.frame.layout() {
            Layout::Full | Layout::Gray => (x, x),
            _ if is_edge => (x / 2, x / 2),
            _ if x % 2 == 1 => (x / 2, x / 2 + 1),
            _ => (x / 2, x / 2 - 1),
        }
    }

    /// As libyuv does.
    fn in_integers(&mut self, fixed: &Fixed, has_alpha: bool, y: usize, out: &mut [[u8; 3]]) {
        let (depth, layout, width) = (self.frame.depth(), self.frame.layout(), self.frame.width);
        let shift = depth - 8;
        if layout == Layout::Gray {
            for (pixel, luma) in out.iter_mut().zip(&self.luma) {
                *pixel = fixed.pixel(u32::from(luma >> shift) * 257, 128, 128);
            }
            return;
        }
        // Of ten bits with alpha, and of twelve with alpha in a quarter of chroma, libyuv keeps all bits of luma.
        let is_wide = has_alpha && (depth == 10 || depth == 12 && layout == Layout::Quarter);
        let is_nearest = has_alpha && depth == 12 && layout == Layout::Quarter;
        if is_nearest {
            self.frame.row(Component::U, y / 2, &mut self.chroma[0]);
            self.frame.row(Component::V, y / 2, &mut self.chroma[1]);
        } else {
            self.chroma(y);
        }
        let (before, after) = if is_wide { (0, shift) } else { (shift, 0) };
        let blended = |near: &[u16], far: &[u16], (x, beside): (usize, usize)| -> i32 {
            let at = |row: &[u16], x: usize| i32::from(row[x] >> before);
            let value = match layout {
                _ if is_nearest || x == beside && layout != Layout::Quarter => at(near, x),
                Layout::Quarter => (9 * at(near, x) + 3 * at(near, beside) + 3 * at(far, x) + at(far, beside) + 8) >> 4,
                _ => (3 * at(near, x) + at(near, beside) + 2) >> 2,
            };
            (value >> after).min(255)
        };
        for (x, pixel) in out.iter_mut().enumerate() {
            let luma = u32::from(self.luma[x]);
            let luma = if is_wide { luma << (16 - depth) | luma >> (2 * depth - 16) } else { (luma >> shift) * 257 };
            let columns = if is_nearest { (x / 2, x / 2) } else { self.columns(x, x == 0 || x == width - 1) };
            let [u, v] = [0, 1].map(|at| blended(&self.chroma[at], &self.other[at], columns));
            *pixel = fixed.pixel(luma, u, v);
        }
    }

    /// As libavif does. The answer says whether these pixels are divided by alpha before they are rounded.
    fn in_floats(&mut self, float: &Float, y: usize, out: &mut [[u8; 3]]) -> bool {
        let (layout, width) = (self.frame.layout(), self.frame.width);
        self.floats.clear();
        if layout != Layout::Gray {
            self.chroma(y);
        }
        for x in 0..width {
            let luma = float.luma(self.luma[x]);
            if layout == Layout::Gray {
                self.floats.push([luma.clamp(0.0, 1.0); 3]);
                continue;
            }
            let (near, far) = self.columns(x, x == 0 || x == width - 1 && x % 2 == 1);
            let [u, v] = [0, 1].map(|at| {
                let (row, other) = (&self.chroma[at], &self.other[at]);
                if layout == Layout::Full {
                    return float.chroma(row[near]);
                }
                float.chroma(row[near]) * (9.0 / 16.0)
                    + float.chroma(row[far]) * (3.0 / 16.0)
                    + float.chroma(other[near]) * (3.0 / 16.0)
                    + float.chroma(other[far]) * (1.0 / 16.0)
            });
            self.floats.push(float.pixel(luma, u, v).map(|value| value.clamp(0.0, 1.0)));
        }
        for (pixel, values) in out.iter_mut().zip(&self.floats) {
            *pixel = values.map(rounded);
        }
        let is_plain_identity = float.matrix == 0 && self.frame.depth() == 8 && float.is_full_range;
        let is_fast = match layout {
            Layout::Gray => float.matrix != 0 && float.matrix != 8,
            Layout::Full => is_plain_identity || float.matrix != 0 && float.matrix != 8,
            _ => false,
        };
        !is_fast
    }
}

fn rounded(value: f32) -> u8 {
    (0.5 + value * 255.0) as u8
}

/// libavif's own conversion (`avifImageYUVAnyToRGBAnySlow` in its `reformat.c`), in single precision.
struct Float {
    matrix: u16,
    is_full_range: bool,
    red: f32,
    green: f32,
    blue: f32,
    /// What is subtracted and what it is divided by.
    luma: (f32, f32),
    chroma: (f32, f32),
}

impl Float {
    fn new(colors: Colors, depth: u32) -> Self {
        let (red, blue) = match colors.matrix {
            1 => (0.2126, 0.0722),
            4 => (0.30, 0.11),
            7 => (0.212, 0.087),
            9 => (0.2627, 0.0593),
            12 => derived(colors.primaries),
            _ => (0.299, 0.114),
        };
        let most = ((1_u32 << depth) - 1) as f32;
        let of_eight = |value: u32| (value << (depth - 8)) as f32;
        let luma = if colors.is_full_range { (0.0, most) } else { (of_eight(16), of_eight(219)) };
        let range = if colors.is_full_range { most } else { of_eight(224) };
        let chroma = if colors.matrix == 0 { luma } else { (of_eight(128), range) };
        let is_full_range = colors.is_full_range;
        Self { matrix: colors.matrix, is_full_range, red, green: 1.0 - red - blue, blue, luma, chroma }
    }

    fn luma(&self, sample: u16) -> f32 {
        (f32::from(sample) - self.luma.0) / self.luma.1
    }

    fn chroma(&self, sample: u16) -> f32 {
        (f32::from(sample) - self.chroma.0) / self.chroma.1
    }

    #[allow(clippy::suboptimal_flops, reason = "libavif rounds every product")]
    fn pixel(&self, luma: f32, u: f32, v: f32) -> [f32; 3] {
        match self.matrix {
            0 => [v, luma, u],
            8 => [luma - u + v, luma + u, luma - u - v],
            _ => {
                let Self { red, green, blue, .. } = *self;
                let minus = (2.0 * ((red * (1.0 - red) * v) + (blue * (1.0 - blue) * u))) / green;
                [luma + (2.0 * (1.0 - red)) * v, luma - minus, luma + (2.0 * (1.0 - blue)) * u]
            }
        }
    }
}

/// The weights of red and blue that primaries have (equations 32 to 37 of ITU-T H.273).
#[allow(clippy::suboptimal_flops, reason = "libavif rounds every product")]
fn derived(primaries: u16) -> (f32, f32) {
    let [rx, ry, gx, gy, bx, by, wx, wy]: [f32; 8] = match primaries {
        4 => [0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316],
        5 => [0.64, 0.33, 0.29, 0.60, 0.15, 0.06, 0.3127, 0.3290],
        6 | 7 => [0.630, 0.340, 0.310, 0.595, 0.155, 0.070, 0.3127, 0.3290],
        8 => [0.681, 0.319, 0.243, 0.692, 0.145, 0.049, 0.310, 0.316],
        9 => [0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290],
        10 => [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.3333, 0.3333],
        11 => [0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351],
        12 => [0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290],
        22 => [0.630, 0.340, 0.295, 0.605, 0.155, 0.077, 0.3127, 0.3290],
        _ => [0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329],
    };
    let [rz, gz, bz, wz] = [(rx, ry), (gx, gy), (bx, by), (wx, wy)].map(|(x, y)| 1.0 - (x + y));
    let below = wy * (rx * (gy * bz - by * gz) + gx * (by * rz - ry * bz) + bx * (ry * gz - gy * rz));
    let red = ry * (wx * (gy * bz - by * gz) + wy * (bx * gz - gx * bz) + wz * (gx * by - bx * gy)) / below;
    let blue = by * (wx * (ry * gz - gy * rz) + wy * (gx * rz - rx * gz) + wz * (rx * gy - gx * ry)) / below;
    (red, blue)
}

/// What alpha's samples are.
struct Alpha {
    depth: u32,
    is_full_range: bool,
}

impl Alpha {
    /// In full range, as `avifLimitedToFullY`.
    fn full(&self, sample: u16) -> u32 {
        let (sample, most) = (i32::from(sample), (1 << self.depth) - 1);
        if self.is_full_range {
            return sample as u32;
        }
        let (low, range) = (16 << (self.depth - 8), 219 << (self.depth - 8));
        (((sample - low) * most + range / 2) / range).clamp(0, most) as u32
    }

    fn divided(&self, values: [f32; 3], sample: u16) -> [u8; 3] {
        let alpha = self.full(sample) as f32 / ((1_u32 << self.depth) - 1) as f32;
        values.map(|value| match alpha {
            0.0 => 0,
            1.0.. => rounded(value),
            _ => rounded((value / alpha).min(1.0)),
        })
    }

    /// As libyuv's `ARGBUnattenuate`, whose products of 16 bits become negative for the least alpha.
    fn divided_bytes(&self, pixel: [u8; 3], sample: u16, is_shifted: bool) -> [u8; 3] {
        let full = self.full(sample);
        let alpha = match self.depth {
            8 => full,
            depth if is_shifted => full >> (depth - 8),
            depth => (full as f32 / ((1_u32 << depth) - 1) as f32 * 255.0 + 0.5) as u32,
        };
        let inverse = match alpha {
            0 => 0,
            1 => 0xffff,
            255 => 0x100,
            alpha => 0x1_0000 / alpha,
        };
        pixel.map(|value| {
            let product = (u32::from(value) * 257 * inverse) >> 16;
            if product >= 0x8000 { 0 } else { product.min(255) as u8 }
        })
    }
}
