//! The filters of sampling without `top_k`, as far as the best tokens of a row tell what they keep. In: candidates with their scores. Out:
//! the scores that all logits would leave, or nothing where these are needed.
//!
//! Which tokens `top_p` keeps depends on the probabilities of all. Those of the tokens beyond the candidates together are what the
//! candidates' probabilities leave of 1. At a temperature of at most 1 that is a bound after the division too: a score of at most
//! `bound` grows in proportion to the others by at most `exp(bound * (1 / temperature - 1))`. A token is kept or dropped only if it would be
//! with every sum within the bounds, and with sums that are wrong by [`MARGIN`].

use super::settings::SampleSettings;
use crate::engine::decoder::chosen::Candidate;

/// How much sums of probabilities may be wrong, relative to them: far more than by rounding.
const MARGIN: f64 = 1e-4;

/// Whether the filters of `sampling`, which has no `top_k`, can be decided by candidates.
pub(super) fn may_decide(sampling: &SampleSettings) -> bool {
    if sampling.top_p < 1.0 { sampling.temperature <= 1.0 } else { sampling.min_p.is_some_and(|p| p > 0.0) }
}

/// Divides processed `scores`, of which all but the candidates' are minus infinity, by the temperature, and applies `top_p`, or `min_p`
/// if that is the only filter. No other token has a higher score than `bound`. `None` if all logits are needed to tell.
pub(super) fn filter(
    sampling: &SampleSettings,
    candidates: &[Candidate],
    bound: f32,
    scores: &mut [f32],
) -> Option<()> {
    let temperature = sampling.temperature as f32;
    for score in scores.iter_mut() {
        *score /= temperature;
    }
    let mut known: Vec<(usize, f64)> = Vec::with_capacity(candidates.len());
    for Candidate { token, .. } in candidates {
        let token = usize::try_from(*token).ok()?;
        let score = *scores.get(token)?;
        known.extend((score > f32::NEG_INFINITY).then_some((token, f64::from(score))));
    }
    // the order in which top_p adds them up: the likeliest first, of equals the last
    known.sort_by(|(a, this), (b, that)| that.total_cmp(this).then(b.cmp(a)));
    let highest = known.first()?.1;
    let weight = |score: f64| (score - highest).exp();
    if sampling.top_p >= 1.0 {
        let least = sampling.min_p?;
        let certain = |score: f64| (weight(score) - least).abs() > MARGIN * least;
        let beyond = weight(f64::from(bound / temperature));
        if beyond >= least * (1.0 - MARGIN) || !known.iter().all(|(_, score)| certain(*score)) {
            return None;
        }
        known
            .iter()
            .filter(|(_, score)| weight(*score) < least)
            .for_each(|(token, _)| scores[*token] = f32::NEG_INFINITY);
        return Some(());
    }
    let first = candidates.first().filter(|first| first.score > f32::NEG_INFINITY)?;
    let beyond: f64 = 1.0 - candidates.iter().map(|candidate| candidate.logprob.exp()).sum::<f64>();
    let log_sum = f64::from(first.score) - first.logprob;
    let growth = f64::from(bound) * (sampling.temperature.recip() - 1.0);
    let beyond = (beyond.max(0.0) + MARGIN) * (growth + log_sum - highest).exp();
    let sum: f64 = known.iter().map(|(_, score)| weight(*score)).sum();
    let (least, most) = (sampling.top_p * sum * (1.0 - MARGIN), sampling.top_p * (sum + beyond) * (1.0 + MARGIN));
    if sum <= most {
        return None;
    }
    let mut above = 0.0;
    for (rank, (token, score)) in known.iter().enumerate() {
        if rank > 0 && above > most {
            scores[*token] = f32::NEG_INFINITY;
        } else if rank > 0 && above >= least {
            return None;
        }
        above += weight(*score);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::{filter, may_decide};
    use crate::engine::decoder::chosen::Candidate;
    use crate::engine::generate::logits_processors::warp;
    use crate::engine::generate::settings::SampleSettings;
    use crate::engine::generate::softmax::Softmax;

    /// Logits without a pattern, some of them equal.
    fn logits(seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        (0..400).map(|_| (next() * 64.0).round() / 4.0 - 2.0 * next().round()).collect()
    }

    #[test]
    fn what_is_kept_is_what_all_logits_leave() {
        let (mut decided, mut all) = (0, 0);
        for (seed, count) in (1..200).flat_map(|seed| [(seed, 8), (seed, 40), (seed, 120)]) {
            let logits = logits(seed);
            let softmax = Softmax::of(&logits);
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let candidates: Vec<Candidate> = order[..count]
                .iter()
                .map(|&token| {
                    let logprob = f64::from(softmax.logprob(logits[token]) as f32);
                    Candidate { token: token as i64, logprob, score: logits[token] }
                })
                .collect();
            for (temperature, top_p, min_p) in
                [(1.0, 0.9, None), (0.7, 0.8, None), (0.5, 0.97, None), (1.0, 1.0, Some(0.05)), (1.6, 1.0, Some(0.02))]
            {
                let sampling = SampleSettings { temperature, top_p, min_p, ..SampleSettings::default() };
                assert!(may_decide(&sampling));
                let mut scores = vec![f32::NEG_INFINITY; logits.len()];
                for candidate in &candidates {
                    scores[candidate.token as usize] = candidate.score;
                }
                all += 1;
                if filter(&sampling, &candidates, candidates[count - 1].score, &mut scores).is_some() {
                    let mut expected = logits.clone();
                    warp(&sampling, &mut expected);
                    assert_eq!(scores, expected, "seed {seed}, {count} candidates, {sampling:?}");
                    decided += 1;
                }
            }
        }
        assert!(decided > all / 8 && decided < all, "{decided} of {all}");
    }
}
