//! Sampling. In: scores. Out: a token, which depends on nothing but the scores, the job's seed, the row's key and the step, so that a
//! row's caption is the same in every batch, shard and attempt.

/// A number in [0, 1) for `step` of the row with key hash `key`.
fn uniform(seed: u64, key: u64, step: usize) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&key.to_le_bytes()).update(&(step as u64).to_le_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    (u64::from_le_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Draws a token with the probabilities of the softmax of `scores`; the lowest token if every score is minus infinity.
pub(crate) fn sample(seed: u64, key: u64, step: usize, scores: &[f32]) -> usize {
    let possible = scores.iter().enumerate().filter(|(_, score)| **score > f32::NEG_INFINITY);
    let highest = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let weights: Vec<(usize, f64)> =
        possible.map(|(token, &score)| (token, (f64::from(score) - highest).exp())).collect();
    let target = uniform(seed, key, step) * weights.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut cumulative = 0.0;
    let drawn = weights.iter().find(|(_, weight)| {
        cumulative += weight;
        cumulative > target
    });
    drawn.or_else(|| weights.iter().rfind(|(_, weight)| *weight > 0.0)).map_or(0, |(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::sample;
    use crate::engine::generate::logits_processors::warp;
    use crate::engine::generate::settings::SampleSettings;
    use crate::engine::generate::softmax::Softmax;

    const LOGITS: [f32; 8] = [1.0, 2.5, -0.5, 0.0, 3.0, 2.0, -4.0, 1.5];

    /// Pearson's statistic of 20,000 draws, one for each key, against the probabilities of `scores`.
    fn chi_square(seed: u64, step: usize, scores: &[f32]) -> (f64, usize) {
        let draws = 20_000;
        let mut counts = vec![0_u32; scores.len()];
        for key in 0..draws {
            counts[sample(seed, key, step, scores)] += 1;
        }
        let softmax = Softmax::of(scores);
        let expected = scores.iter().map(|&score| softmax.logprob(score).exp() * draws as f64);
        let cells: Vec<_> = counts.iter().zip(expected).collect();
        assert!(cells.iter().all(|(count, expected)| **count == 0 || *expected > 0.0), "{cells:?}");
        let cells = cells.iter().filter(|(_, expected)| *expected > 0.0);
        let terms: Vec<_> = cells.map(|(count, expected)| (f64::from(**count) - expected).powi(2) / expected).collect();
        (terms.iter().sum(), terms.len() - 1)
    }

    #[test]
    fn draws_follow_the_probabilities() {
        // the 99.9 % quantiles of chi-square with 7, 4, 2 and 3 degrees of freedom; seeds are fixed, so nothing here is chance
        let plain = SampleSettings { seed: 7, ..SampleSettings::default() };
        for (settings, freedom, limit) in [
            (plain, 7, 24.32),
            (SampleSettings { temperature: 0.7, top_k: 5, ..plain }, 4, 18.47),
            (SampleSettings { top_p: 0.8, ..plain }, 2, 13.82),
            (SampleSettings { min_p: Some(0.2), ..plain }, 3, 16.27),
        ] {
            for step in 0..3 {
                let mut scores = LOGITS;
                warp(&settings, &mut scores);
                let (statistic, found) = chi_square(settings.seed, step, &scores);
                assert_eq!(found, freedom, "{settings:?} leaves {scores:?}");
                assert!(statistic < limit, "{settings:?}: {statistic} with {freedom} degrees of freedom");
            }
        }
    }

    #[test]
    fn a_draw_depends_on_seed_key_and_step() {
        let draws = |seed, key| (0..40).map(|step| sample(seed, key, step, &LOGITS)).collect::<Vec<_>>();
        assert_eq!(draws(1, 2), draws(1, 2));
        assert_ne!(draws(1, 2), draws(2, 1));
        assert_ne!(draws(1, 2), draws(1, 3));
        assert!(draws(1, 2).windows(2).any(|pair| pair[0] != pair[1]));
        assert_eq!(sample(0, 0, 0, &[f32::NEG_INFINITY; 3]), 0);
    }
}
