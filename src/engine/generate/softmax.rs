//! Argmax and log-softmax of a row of scores. In: the scores of one row. Out: a token, or log-probabilities; nothing is
//! allocated. A vocabulary has tens of thousands of tokens and this runs for every row of every step, so the loops are written to be
//! compiled into vector instructions; the best set that the CPU has is chosen at run time. All sets give the same bits, since no
//! operation is reordered between lanes.

/// Scores in one block of vector operations.
const LANES: usize = 32;
/// Terms that are added in single precision before their sum is added in double precision.
const RUN: usize = 32 * LANES;

/// The softmax over a row of scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Softmax {
    highest: f32,
    /// The logarithm of the sum of the exponentials of all scores less the highest.
    log_sum: f64,
}

impl Softmax {
    /// Over `scores`; those that are minus infinity have no probability.
    pub(crate) fn of(scores: &[f32]) -> Self {
        let highest = highest(scores);
        Self { highest, log_sum: sum_of_exponentials(scores, highest).ln() }
    }

    /// The logarithm of the probability of a token with this score.
    pub(crate) fn logprob(self, score: f32) -> f64 {
        f64::from(score) - f64::from(self.highest) - self.log_sum
    }
}

/// The token with the highest score, the lowest among equals.
#[expect(clippy::float_cmp, reason = "the highest is one of the scores")]
pub(crate) fn argmax(scores: &[f32]) -> usize {
    let highest = highest(scores);
    scores.iter().position(|score| *score == highest).unwrap_or(0)
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn highest(scores: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = scores.as_chunks::<LANES>();
    for block in blocks {
        for (lane, score) in lanes.iter_mut().zip(block) {
            *lane = if *score > *lane { *score } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn sum_of_exponentials(scores: &[f32], highest: f32) -> f64 {
    let mut sum = 0.0;
    for run in scores.chunks(RUN) {
        let mut lanes = [0.0_f32; LANES];
        let (blocks, rest) = run.as_chunks::<LANES>();
        for block in blocks {
            for (lane, score) in lanes.iter_mut().zip(block) {
                *lane += exponential(*score - highest);
            }
        }
        sum += lanes.into_iter().map(f64::from).sum::<f64>();
        sum += rest.iter().map(|score| f64::from(exponential(*score - highest))).sum::<f64>();
    }
    sum
}

/// e to the power of `x`, which is not above 0, within 2 units in the last place; 1.6e-38 for everything below -86. The
/// polynomial is that of Cephes' `expf` (Moshier, 1992).
#[inline(always)]
fn exponential(x: f32) -> f32 {
    /// Adding it rounds to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > -86.0 { x } else { -86.0 };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let r = x - power * LN_2_HIGH - power * LN_2_LOW;
    let series = [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let tail = series.into_iter().fold(1.987_569_1e-4, |sum: f32, factor| sum * r + factor);
    let mantissa = tail * (r * r) + r + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    mantissa * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::{LANES, RUN, Softmax, argmax, exponential};

    /// Numbers without a pattern from -`most` to `most`.
    fn scores(count: usize, most: f32) -> Vec<f32> {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * most
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn exponentials_are_those_of_double_precision() {
        for step in 0..860_000 {
            let x = -(step as f32) * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exponential(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "{x}: {error:e}");
        }
        assert_eq!(exponential(0.0).to_bits(), 1.0_f32.to_bits());
        assert!(exponential(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn log_probabilities_are_those_of_double_precision() {
        for (count, most) in [(1, 3.0), (LANES + 1, 1.0), (RUN + 5, 20.0), (50_257, 8.0), (50_257, 80.0)] {
            let scores = scores(count, most);
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = scores.iter().map(|score| (f64::from(*score) - f64::from(highest)).exp()).sum();
            let softmax = Softmax::of(&scores);
            for score in &scores {
                let exact = f64::from(*score) - f64::from(highest) - sum.ln();
                assert!((softmax.logprob(*score) - exact).abs() < 2e-7, "{count} scores up to {most}: {score}");
            }
        }
        assert!(Softmax::of(&[-3e38, 3e38]).logprob(3e38).abs() < 1e-12);
        let banned = Softmax::of(&[f32::NEG_INFINITY, 1.0, 1.0]);
        assert!((banned.logprob(1.0) + 2.0_f64.ln()).abs() < 1e-12 && banned.logprob(f32::NEG_INFINITY) < f64::MIN);
    }

    #[test]
    fn ties_go_to_the_lowest_id() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 0.0]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY, -3e38]), 2);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 2]), 0);
        let mut many = scores(RUN, 1.0);
        many.extend([2.0, 1.5, 2.0]);
        assert_eq!(argmax(&many), RUN);
    }
}
