//! 8-bit RGB resizing in, out the bytes that Pillow's `Image.resize` gives (Pillow, `src/libImaging/Resample.c` and, for
//! nearest, `Geometry.c`): a horizontal and then a vertical pass, each rounded to 8 bits, with weights in fixed point.
//!
//! The passes are compiled for several instruction sets, of which the processor's best is chosen when they run. All give the
//! same bits, since the arithmetic is on integers.
//!
//! Only the wanted window of the resized image is computed, which is exact since no output pixel depends on another.

use std::f64::consts::PI;
use std::ops::Range;

use super::image::RgbImage;

/// Fraction bits of a weight: 32, less 8 for a pixel and 2 for overshoot of the filters with negative lobes.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// One half, added before the shift that drops the fraction.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// A resampling filter of Pillow, by its id in `preprocessor_config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Id 0: the nearest pixel, without antialiasing.
    Nearest,
    /// Id 1: sinc windowed by a wider sinc, radius 3.
    Lanczos,
    /// Id 2: triangle, radius 1.
    Bilinear,
    /// Id 3: cubic convolution with a = -0.5, radius 2.
    Bicubic,
    /// Id 4: mean of the covered pixels.
    Box,
    /// Id 5: sinc windowed by a Hamming window, radius 1.
    Hamming,
}

impl Filter {
    /// The filter with Pillow's id.
    pub fn from_id(id: u64) -> Option<Self> {
        [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box, Self::Hamming]
            .get(usize::try_from(id).ok()?)
            .copied()
    }

    /// The filter of this [name](Self::name).
    pub(super) fn named(name: &str) -> Option<Self> {
        (0..=5).filter_map(Self::from_id).find(|filter| filter.name() == name)
    }

    /// The name, as people and timm call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Lanczos => "lanczos",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Box => "box",
            Self::Hamming => "hamming",
        }
    }

    const fn radius(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bicubic => 2.0,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Box | Self::Nearest => 0.5,
        }
    }

    /// The filter's value at `x`, in source pixels (times the scale when shrinking).
    fn at(self, x: f64) -> f64 {
        let a = x.abs();
        match self {
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic if a < 1.0 => (1.5 * a - 2.5) * a * a + 1.0,
            Self::Bicubic if a < 2.0 => (((a - 5.0) * a + 8.0) * a - 4.0) * -0.5,
            Self::Bilinear if a < 1.0 => 1.0 - a,
            Self::Box | Self::Nearest if x > -0.5 && x <= 0.5 => 1.0,
            Self::Hamming if a == 0.0 => 1.0,
            // Pillow writes these two constants as C floats.
            Self::Hamming if a < 1.0 => {
                (a * PI).sin() / (a * PI) * (f64::from(0.54f32) + f64::from(0.46f32) * (a * PI).cos())
            }
            _ => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

/// A part of the resized image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Window {
    /// All of an image of `width` x `height`.
    pub(super) const fn whole((width, height): (usize, usize)) -> Self {
        Self { left: 0, top: 0, width, height }
    }
}

/// The pixels (`[window.height, window.width, 3]` u8) in `window` of `image` resized to `width` x `height`.
pub(super) fn resize(image: &RgbImage, to: (usize, usize), filter: Filter, window: Window) -> Vec<u8> {
    let (from_width, from_height) = (image.width as usize, image.height as usize);
    let columns = window.left..window.left + window.width;
    let rows = window.top..window.top + window.height;
    if (from_width, from_height) == to || filter == Filter::Nearest {
        return pick(image, &nearest(from_width, to.0)[columns], &nearest(from_height, to.1)[rows]);
    }
    passes(image, (from_width as f64, from_height as f64), to, filter, (columns, rows))
}

/// The part of `image` from its first pixel to `extent` (columns and rows, which may have fractions) resized to `to`.
pub(super) fn resize_part(image: &RgbImage, extent: (f64, f64), to: (usize, usize), filter: Filter) -> Vec<u8> {
    passes(image, extent, to, filter, (0..to.0, 0..to.1))
}

fn passes(
    image: &RgbImage,
    extent: (f64, f64),
    (width, height): (usize, usize),
    filter: Filter,
    (columns, rows): (Range<usize>, Range<usize>),
) -> Vec<u8> {
    let (from_width, from_height) = (image.width as usize, image.height as usize);
    let same = |from: usize, extent: f64, to: usize| from == to && (to as f64).total_cmp(&extent).is_eq();
    let input = View { bytes: &image.pixels, width: from_width, left: 0, top: 0 };
    let horizontal = Weights::new(from_width, extent.0, width, filter, columns.clone());
    let vertical = Weights::new(from_height, extent.1, height, filter, rows.clone());
    if same(from_width, extent.0, width) {
        vertical_pass(input, columns, &vertical)
    } else if same(from_height, extent.1, height) {
        horizontal_pass(input, rows, &horizontal)
    } else if vertical_first((from_width, from_height), (width, height)) {
        let (left, reach) = (horizontal.reach().start, horizontal.reach());
        let bytes = vertical_pass(input, reach.clone(), &vertical);
        let between = View { bytes: &bytes, width: reach.len(), left, top: rows.start };
        horizontal_pass(between, rows, &horizontal)
    } else {
        let (top, reach) = (vertical.reach().start, vertical.reach());
        let bytes = horizontal_pass(input, reach, &horizontal);
        let between = View { bytes: &bytes, width: columns.len(), left: columns.start, top };
        vertical_pass(between, columns, &vertical)
    }
}

/// Most bytes that [`resize`] takes for an image of `from`, resized to `to`, of which it keeps `window`; all are columns and rows.
/// The result, the image between the two passes, and per column and row weights (up to six taps of 4 bytes), sums and positions.
pub(super) fn memory_needed(from: (u32, u32), to: (u32, u32), window: (u32, u32)) -> u64 {
    let bytes = |columns: u32, rows: u32| 3 * u64::from(columns) * u64::from(rows);
    let between = bytes(window.0, from.1).max(bytes(from.0, window.1));
    let lines = |(columns, rows): (u32, u32), each: u64| (u64::from(columns) + u64::from(rows)) * each;
    bytes(window.0, window.1) + between + lines(from, 64) + lines(window, 256) + lines(to, 8)
}

/// Since Pillow 13: "if height is being scaled down more than twice the amount the width is, run the vertical pass
/// first". The two orders round differently.
fn vertical_first(from: (usize, usize), to: (usize, usize)) -> bool {
    let shrinks = |from: usize, to: usize| from as i64 - to as i64;
    let (columns, rows) = (shrinks(from.0, to.0), shrinks(from.1, to.1));
    rows > 0 && rows > 2 * columns
}

/// The part of an image that begins at (`left`, `top`); `width` pixels a row, interleaved RGB.
#[derive(Clone, Copy)]
struct View<'a> {
    bytes: &'a [u8],
    width: usize,
    left: usize,
    top: usize,
}

impl<'a> View<'a> {
    /// The view's rows from `first` (a coordinate of the image) on.
    fn rows(self, first: usize) -> impl Iterator<Item = &'a [u8]> {
        let row_bytes = 3 * self.width;
        self.bytes[(first - self.top) * row_bytes..].chunks_exact(row_bytes)
    }
}

/// For each output coordinate the input coordinate under its centre; the sum grows step by step because Pillow's does.
fn nearest(from: usize, to: usize) -> Vec<usize> {
    let step = from as f64 / to as f64;
    let mut at = step * 0.5;
    let mut picks = Vec::with_capacity(to);
    for _ in 0..to {
        picks.push((at as usize).min(from - 1));
        at += step;
    }
    picks
}

fn pick(image: &RgbImage, columns: &[usize], rows: &[usize]) -> Vec<u8> {
    let pixels = image.pixels.as_chunks::<3>().0;
    let mut out = Vec::with_capacity(3 * columns.len() * rows.len());
    for row in rows {
        let line = &pixels[row * image.width as usize..][..image.width as usize];
        out.extend(columns.iter().flat_map(|&column| line[column]));
    }
    out
}

/// For each output coordinate of a window, which input coordinates count and how much.
struct Weights {
    /// First input coordinate and number of weights, per output coordinate.
    spans: Vec<(usize, usize)>,
    /// `[outputs, stride]`, zero after each span's own weights.
    fixed: Vec<i32>,
    stride: usize,
}

impl Weights {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`, for the first `extent` of `from` pixels.
    fn new(from: usize, extent: f64, to: usize, filter: Filter, outputs: Range<usize>) -> Self {
        let scale = extent / to as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.radius() * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut spans = Vec::with_capacity(outputs.len());
        let mut fixed = vec![0; stride * outputs.len()];
        let mut exact = Vec::with_capacity(stride);
        for (output, fixed) in outputs.zip(fixed.chunks_exact_mut(stride)) {
            let center = (output as f64 + 0.5) * scale;
            // A float to unsigned cast saturates, which is Pillow's clamp at zero.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((start..end).map(|x| filter.at((x as f64 - center + 0.5) * filter_scale.recip())));
            let sum: f64 = exact.iter().sum();
            for (weight, fixed) in exact.iter().zip(fixed) {
                let weight = if sum == 0.0 { *weight } else { weight / sum } * f64::from(1 << PRECISION_BITS);
                *fixed = (weight + 0.5f64.copysign(weight)) as i32;
            }
            spans.push((start, end - start));
        }
        Self { spans, fixed, stride }
    }

    /// The input coordinates that any output needs.
    fn reach(&self) -> Range<usize> {
        let start = self.spans.first().map_or(0, |span| span.0);
        start..self.spans.last().map_or(start, |span| span.0 + span.1)
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.spans.iter().zip(self.fixed.chunks_exact(self.stride)).map(|(span, weights)| (span.0, &weights[..span.1]))
    }
}

fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Rows that the horizontal pass sums at once.
const ROWS: usize = 8;
/// What they have in one column: red, green, blue and a byte that does not count for each.
const LANES: usize = 4 * ROWS;

/// The columns of `weights` for the given rows.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2", "x86_64+sse4.1"))]
fn horizontal_pass(input: View<'_>, rows: Range<usize>, weights: &Weights) -> Vec<u8> {
    let (reach, width) = (weights.reach(), weights.spans.len());
    let mut out = vec![0; 3 * width * rows.len()];
    // Rows side by side, a column after the other: a weight is that of neighbouring bytes.
    let mut columns = vec![[0; LANES]; reach.len()];
    let mut sums = vec![[0; LANES]; width];
    let mut bytes = vec![[0; LANES]; width];
    for (first, out) in rows.clone().step_by(ROWS).zip(out.chunks_mut(ROWS * 3 * width)) {
        for (place, row) in input.rows(first).take(ROWS.min(rows.end - first)).enumerate() {
            let pixels = &row.as_chunks::<3>().0[reach.start - input.left..][..reach.len()];
            // The byte that does not count is the next pixel's, so that four are copied at once.
            for (column, pair) in columns.iter_mut().zip(pixels.windows(2)) {
                if let [[red, green, blue], [next, ..]] = pair {
                    column.as_chunks_mut::<4>().0[place] = [*red, *green, *blue, *next];
                }
            }
            if let (Some(column), Some([red, green, blue])) = (columns.last_mut(), pixels.last()) {
                column.as_chunks_mut::<4>().0[place] = [*red, *green, *blue, 0];
            }
        }
        for ((start, weights), sums) in weights.iter().zip(&mut sums) {
            let mut lanes = [HALF; LANES];
            for (weight, column) in weights.iter().zip(&columns[start - reach.start..]) {
                add(&mut lanes, column, &[*weight; LANES]);
            }
            *sums = lanes;
        }
        for (byte, sum) in bytes.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            *byte = to_u8(*sum);
        }
        for (place, row) in out.chunks_exact_mut(3 * width).enumerate() {
            for (pixel, bytes) in row.as_chunks_mut::<3>().0.iter_mut().zip(&bytes) {
                let [red, green, blue, _] = bytes.as_chunks::<4>().0[place];
                *pixel = [red, green, blue];
            }
        }
    }
    out
}

/// Bytes of a row summed at once.
const BLOCK: usize = 32;

/// The rows of `weights` for the given columns.
#[multiversion::multiversion(targets("x86_64+avx2", "x86_64+sse4.1"))]
fn vertical_pass(input: View<'_>, columns: Range<usize>, weights: &Weights) -> Vec<u8> {
    let (first, row_bytes) = (3 * (columns.start - input.left), 3 * columns.len());
    let mut out = vec![0; row_bytes * weights.spans.len()];
    for ((start, weights), out) in weights.iter().zip(out.chunks_exact_mut(row_bytes)) {
        let rows = || weights.iter().zip(input.rows(start));
        let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
        let mut at = first;
        for block in blocks {
            let mut sums = [HALF; BLOCK];
            for (weight, row) in rows() {
                let Some(bytes) = row[at..].first_chunk() else { break };
                add(&mut sums, bytes, &[*weight; BLOCK]);
            }
            for (value, sum) in block.iter_mut().zip(sums) {
                *value = to_u8(sum);
            }
            at += BLOCK;
        }
        for (value, at) in rest.iter_mut().zip(at..) {
            *value = to_u8(HALF + rows().map(|(weight, row)| weight * i32::from(row[at])).sum::<i32>());
        }
    }
    out
}

/// Adds `bytes` times `weights`, lane by lane. No sum of weights and bytes overflows, and without a check for it lanes are added
/// side by side in every build. With optimisation level 3 the compiler would rather unroll the lanes and take several weights of one
/// lane at once, which is four times slower; it does not across a black box.
#[expect(clippy::inline_always, reason = "to be compiled with the caller's instruction set")]
#[inline(always)]
fn add<const N: usize>(sums: &mut [i32; N], bytes: &[u8; N], weights: &[i32; N]) {
    for ((sum, byte), weight) in sums.iter_mut().zip(bytes).zip(weights) {
        *sum = sum.wrapping_add(i32::from(*byte).wrapping_mul(*weight));
    }
    std::hint::black_box(());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One line of an image resized: bytes of `input` from `start` on, `step` apart.
    fn line(input: &[u8], weights: &Weights, step: usize, start: usize) -> Vec<u8> {
        let sum = |(first, weights): (usize, &[i32])| {
            let terms = weights.iter().zip(first..).map(|(weight, at)| weight * i32::from(input[start + at * step]));
            to_u8(HALF + terms.sum::<i32>())
        };
        weights.iter().map(sum).collect()
    }

    /// The resized columns of a whole image.
    fn columns(input: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
        let rows = input.chunks_exact(3 * width).flat_map(|row| {
            let channels = [0, 1, 2].map(|channel| line(row, weights, 3, channel));
            (0..weights.spans.len()).flat_map(|x| [channels[0][x], channels[1][x], channels[2][x]]).collect::<Vec<_>>()
        });
        rows.collect()
    }

    /// The resized rows of a whole image.
    fn rows(input: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
        let lines: Vec<_> = (0..3 * width).map(|at| line(input, weights, 3 * width, at)).collect();
        (0..weights.spans.len()).flat_map(|y| lines.iter().map(move |line| line[y])).collect()
    }

    /// A side before and after resizing, and the first and the number of the pixels that are kept of it.
    fn side() -> impl Strategy<Value = (usize, usize, usize, usize)> {
        (1..90usize, 1..90usize)
            .prop_flat_map(|(from, to)| (Just(from), Just(to), 0..to))
            .prop_flat_map(|(from, to, first)| (Just(from), Just(to), Just(first), 1..=to - first))
    }

    proptest! {
        #[test]
        fn any_window_is_what_a_plain_loop_over_the_whole_image_gives(
            (width, to_width, left, window_width) in side(),
            (height, to_height, top, window_height) in side(),
            id in 1..6u64,
            extremes: bool,
            bytes in proptest::collection::vec(any::<u8>(), 3 * 90 * 90),
        ) {
            let filter = Filter::from_id(id).unwrap();
            let byte = |byte: &u8| if extremes { (byte >> 7) * 255 } else { *byte };
            let pixels: Vec<u8> = bytes[..3 * width * height].iter().map(byte).collect();
            let image = RgbImage { width: width as u32, height: height as u32, pixels };
            let window = Window { left, top, width: window_width, height: window_height };
            let found = resize(&image, (to_width, to_height), filter, window);

            let horizontal = Weights::new(width, width as f64, to_width, filter, 0..to_width);
            let vertical = Weights::new(height, height as f64, to_height, filter, 0..to_height);
            let whole = if (width, height) == (to_width, to_height) {
                image.pixels
            } else if width == to_width {
                rows(&image.pixels, width, &vertical)
            } else if height == to_height {
                columns(&image.pixels, width, &horizontal)
            } else if vertical_first((width, height), (to_width, to_height)) {
                columns(&rows(&image.pixels, width, &vertical), width, &horizontal)
            } else {
                rows(&columns(&image.pixels, width, &horizontal), to_width, &vertical)
            };
            let kept = whole.chunks_exact(3 * to_width).skip(top).take(window_height);
            let expected: Vec<u8> = kept.flat_map(|row| &row[3 * left..][..3 * window_width]).copied().collect();
            prop_assert_eq!(found, expected);
        }
    }
}
