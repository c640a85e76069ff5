//! The bootstrap: Efron, *Bootstrap Methods: Another Look at the Jackknife*, 1979; for paired differences of scores Koehn, *Statistical
//! Significance Tests for Machine Translation Evaluation*, 2004.
//!
//! Rows are drawn again with replacement, the same ones for both OUTPUTs; the interval holds the middle 95 of 100 differences.

use rayon::prelude::*;

/// How often rows are drawn.
pub const RESAMPLES: u64 = 1000;
/// The share of the differences within an interval.
pub const CONFIDENCE: f64 = 0.95;

/// An interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The intervals of what `differences` computes from weights: `weights[row]` says how often each of `rows` rows was drawn. Draws are the
/// same each time. A value that is not a number, because no row that it needs was drawn, is left out; without any, there is no interval.
pub fn intervals(rows: usize, differences: impl Fn(&[u32]) -> Vec<f64> + Sync) -> Vec<Option<Interval>> {
    let drawn: Vec<Vec<f64>> = (0..RESAMPLES).into_par_iter().map(|draw| differences(&weights(rows, draw))).collect();
    let values = drawn.first().map_or(0, Vec::len);
    let of_value = |at: usize| {
        let mut all: Vec<f64> = drawn.iter().map(|values| values[at]).filter(|value| !value.is_nan()).collect();
        all.sort_unstable_by(f64::total_cmp);
        let rest = (1.0 - CONFIDENCE) / 2.0;
        Some(Interval { low: quantile(&all, rest)?, high: quantile(&all, 1.0 - rest)? })
    };
    (0..values).map(of_value).collect()
}

/// How often each row is drawn.
fn weights(rows: usize, draw: u64) -> Vec<u32> {
    // SplitMix64, <https://prng.di.unimi.it/splitmix64.c>. Draws start far apart in its sequence.
    let mut state = (draw + 1).wrapping_mul(0xD1B5_4A32_D192_ED03);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    };
    let mut weights = vec![0; rows];
    for _ in 0..rows {
        // The upper half of the product is below `rows`.
        weights[((u128::from(next()) * rows as u128) >> 64) as usize] += 1;
    }
    weights
}

/// The quantile of sorted values, between two values by their distance, as numpy has it.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([1, 2, 4, 8], [0.025, 0.5, 0.975])
        let found = [0.025, 0.5, 0.975].map(|share| quantile(&[1.0, 2.0, 4.0, 8.0], share).unwrap());
        assert!(found.iter().zip([1.075, 3.0, 7.7]).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert_eq!((quantile(&[], 0.5), quantile(&[3.0], 0.975)), (None, Some(3.0)));
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_its_standard_error() {
        let values: Vec<f64> = (0..400).map(|row| f64::from(row * 7919 % 400) / 400.0).collect();
        let mean = |weights: &[u32]| {
            weights.iter().zip(&values).map(|(weight, value)| f64::from(*weight) * value).sum::<f64>() / 400.0
        };
        let found = intervals(400, |weights| vec![mean(weights), f64::NAN]);
        // Uniform values have a standard deviation of 1 / sqrt(12).
        let half = 1.96 / 12.0_f64.sqrt() / 20.0;
        let Interval { low, high } = found[0].unwrap();
        assert!((low - (0.49875 - half)).abs() < 0.003 && (high - (0.49875 + half)).abs() < 0.003, "{low} {high}");
        assert_eq!(found[1], None);
        assert_eq!(found, intervals(400, |weights| vec![mean(weights), f64::NAN]));
    }
}
