//! Pillow's `Image.resize(.., reducing_gap=2.0)`: an image that becomes more than four times smaller is averaged over whole pixels
//! first (`Image.reduce`, `src/libImaging/Reduce.c`), and what is left is resized.

use super::image::RgbImage;
use super::resample::{self, Filter};

/// `image` resized to `height` x `width`.
pub(super) fn resize(image: &RgbImage, (height, width): (u32, u32), filter: Filter) -> RgbImage {
    let by = |from: u32, to: u32| ((f64::from(from) / f64::from(to) / 2.0) as u32).max(1);
    let (down, across) = (by(image.height, height), by(image.width, width));
    let to = (width as usize, height as usize);
    let pixels = if (down, across) == (1, 1) || filter == Filter::Nearest {
        resample::resize(image, to, filter, resample::Window::whole(to))
    } else {
        let part = |side: u32, factor: u32| f64::from((f64::from(side) / f64::from(factor)) as f32);
        let extent = (part(image.width, across), part(image.height, down));
        resample::resize_part(&reduced(image, down, across), extent, to, filter)
    };
    RgbImage { width, height, pixels }
}

/// The means of `down` x `across` pixels; fewer in the last row and column.
fn reduced(image: &RgbImage, down: u32, across: u32) -> RgbImage {
    let (width, height) = (image.width.div_ceil(across), image.height.div_ceil(down));
    let source = image.pixels.as_chunks::<3>().0;
    let stride = image.width as usize;
    let mut pixels = Vec::with_capacity(3 * width as usize * height as usize);
    for row in 0..height {
        let rows = row * down..((row + 1) * down).min(image.height);
        for column in 0..width {
            let columns = column * across..((column + 1) * across).min(image.width);
            let count = rows.len() as u32 * columns.len() as u32;
            let mut sums = [count / 2; 3];
            for row in rows.clone() {
                for pixel in &source[row as usize * stride..][columns.start as usize..columns.end as usize] {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += u32::from(*value);
                    }
                }
            }
            // Pillow divides by a multiplication in 32 bits, computed in single precision.
            let multiplier = ((1u64 << 32) as f32 / count.wrapping_mul(256) as f32) as u32;
            pixels.extend(sums.map(|sum| (sum.wrapping_mul(multiplier) >> 24) as u8));
        }
    }
    RgbImage { width, height, pixels }
}
