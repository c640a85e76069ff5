//! Scores of vectors: dot products, which are cosines where vectors are L2-normalised.

/// Partial sums of a dot product. Their number is fixed, so that every processor adds in the same order.
const LANES: usize = 32;

/// The dot products of `vectors` `[rows, width]` with `query` `[width]`, into `scores` `[rows]`.
///
/// A value may differ from that of another library in its last bits, because sums are in another order.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub fn scores(vectors: &[f32], query: &[f32], scores: &mut [f32]) {
    for (score, vector) in scores.iter_mut().zip(vectors.chunks_exact(query.len())) {
        let mut sums = [0_f32; LANES];
        let (parts, query_parts) = (vector.chunks_exact(LANES), query.chunks_exact(LANES));
        let mut rest = 0_f32;
        for (a, b) in parts.remainder().iter().zip(query_parts.remainder()) {
            rest += a * b;
        }
        for (a, b) in parts.zip(query_parts) {
            for lane in 0..LANES {
                sums[lane] += a[lane] * b[lane];
            }
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                sums[lane] += sums[lane + width];
            }
            width /= 2;
        }
        *score = sums[0] + rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(seed: u32, width: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).max(1);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        };
        (0..width).map(|_| next()).collect()
    }

    #[test]
    fn dot_products_of_every_width_are_those_of_float64() {
        for width in 1..200 {
            let query = vector(7, width);
            let vectors: Vec<f32> = (1..=5).flat_map(|seed| vector(seed * 31, width)).collect();
            let mut found = vec![0.0; 5];
            scores(&vectors, &query, &mut found);
            for (row, found) in vectors.chunks_exact(width).zip(&found) {
                let expected: f64 = row.iter().zip(&query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                assert!((expected - f64::from(*found)).abs() < 1e-5, "width {width}: {expected} {found}");
            }
        }
    }
}
