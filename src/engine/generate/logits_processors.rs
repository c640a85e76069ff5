//! Logits processors and warpers, which change a row's scores before its next token is selected. In: one row's tokens and scores. Out:
//! the changed scores. Names, meanings and order are transformers' (`GenerationMixin._get_logits_processor`).

use super::settings::{GenerationSettings, SampleSettings, Strategy};
use super::softmax::{Softmax, argmax};

/// Applies the logits processors. `history` holds the row's tokens so far, the first `prompt` of which are the prompt;
/// `scores` are logits, or log-probabilities in beam search.
pub(crate) fn process(settings: &GenerationSettings, prompt: usize, history: &[i64], scores: &mut [f32]) {
    let generated = history.len() - prompt;
    sequence_bias(&settings.sequence_bias, history, scores);
    repetition_penalty(settings.repetition_penalty as f32, history, scores);
    no_repeat_ngram(settings.no_repeat_ngram_size, history, scores);
    bad_words(&settings.bad_words_ids, &settings.eos_token_ids, history, scores);
    if generated < settings.fewest_new(prompt) {
        ban(&settings.eos_token_ids, scores);
    }
    if let Some(token) = forced_first(settings, history) {
        force(&[token], scores);
    }
    if let Some(tokens) = forced_last(settings, prompt, generated) {
        force(tokens, scores);
    }
    if let Some((start, factor)) = settings.exponential_decay_length_penalty {
        exponential_decay(generated as i64 - start, factor, &settings.eos_token_ids, scores);
    }
    ban(&settings.suppress_tokens, scores);
    if generated == usize::from(prompt == 1 && settings.forced_bos_token_id.is_some()) {
        ban(&settings.begin_suppress_tokens, scores);
    }
}

/// Whether the next token is one of those that are forced, whatever the scores are.
pub(crate) fn is_forced(settings: &GenerationSettings, prompt: usize, history: &[i64]) -> bool {
    forced_first(settings, history).is_some() || forced_last(settings, prompt, history.len() - prompt).is_some()
}

/// The token that is forced because it is the first.
fn forced_first(settings: &GenerationSettings, history: &[i64]) -> Option<i64> {
    settings.forced_bos_token_id.filter(|_| history.len() == 1)
}

/// The tokens that are forced because a caption with `generated` tokens gets its last one.
fn forced_last(settings: &GenerationSettings, prompt: usize, generated: usize) -> Option<&[i64]> {
    let forced = settings.forced_eos_token_ids.as_slice();
    (!forced.is_empty() && generated + 1 == settings.most_new(prompt)).then_some(forced)
}

/// The settings whose logits processors do more than to ban the same tokens in every step, or the end tokens until a caption is long
/// enough.
pub(crate) fn beyond_bans(settings: &GenerationSettings) -> Vec<&'static str> {
    let named = [
        ((settings.repetition_penalty - 1.0).abs() >= f64::EPSILON, "repetition_penalty"),
        (settings.no_repeat_ngram_size > 0, "no_repeat_ngram_size"),
        (settings.bad_words_ids.iter().any(|word| word.len() > 1), "bad_words_ids of several tokens"),
        (settings.forced_bos_token_id.is_some(), "forced_bos_token_id"),
        (!settings.forced_eos_token_ids.is_empty(), "forced_eos_token_id"),
        (!settings.begin_suppress_tokens.is_empty(), "begin_suppress_tokens"),
    ];
    named.into_iter().filter_map(|(set, name)| set.then_some(name)).collect()
}

/// The setting that may raise a score, or that depends on the scores of all tokens: candidates do not tell what it does.
pub(crate) fn beyond_candidates(settings: &GenerationSettings) -> Option<&'static str> {
    let samples = match &settings.strategy {
        Strategy::Sample(sampling) => sampling.filters_by_entropy(),
        Strategy::Greedy | Strategy::Beam(_) => false,
    };
    let named = [
        (settings.repetition_penalty < 1.0, "repetition_penalty below 1"),
        (!settings.sequence_bias.is_empty(), "sequence_bias"),
        (settings.exponential_decay_length_penalty.is_some(), "exponential_decay_length_penalty"),
        (settings.renormalize_logits, "renormalize_logits"),
        (samples, "typical_p, epsilon_cutoff or eta_cutoff"),
    ];
    named.into_iter().find_map(|(set, name)| set.then_some(name))
}

/// The tokens that are banned in every step.
pub(crate) fn always_banned(settings: &GenerationSettings) -> Vec<i64> {
    let single = settings.bad_words_ids.iter().filter(|word| word.len() == 1).flatten();
    let single = single.filter(|word| !settings.eos_token_ids.contains(word));
    settings.suppress_tokens.iter().chain(single).copied().collect()
}

/// Applies the warpers of sampling.
pub(crate) fn warp(settings: &SampleSettings, scores: &mut [f32]) {
    for score in scores.iter_mut() {
        *score /= settings.temperature as f32;
    }
    if settings.top_k > 0 {
        top_k(settings.top_k, scores);
    }
    if settings.top_p < 1.0 {
        top_p(settings.top_p, scores);
    }
    keep_likely(settings, scores);
    if settings.typical_p < 1.0 {
        typical_p(settings.typical_p, scores);
    }
    if settings.epsilon_cutoff > 0.0 && settings.epsilon_cutoff < 1.0 {
        keep_above(settings.epsilon_cutoff, scores);
    }
    if settings.eta_cutoff > 0.0 && settings.eta_cutoff < 1.0 {
        let eta = settings.eta_cutoff.min(settings.eta_cutoff.sqrt() * (-entropy(scores)).exp());
        keep_above(eta, scores);
    }
}

/// Keeps the tokens that `min_p` does.
pub(crate) fn keep_likely(settings: &SampleSettings, scores: &mut [f32]) {
    if let Some(min_p) = settings.min_p {
        self::min_p(min_p, scores);
    }
}

fn ban(tokens: &[i64], scores: &mut [f32]) {
    for &token in tokens {
        if let Some(score) = usize::try_from(token).ok().and_then(|token| scores.get_mut(token)) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Leaves only `tokens`, all equally likely.
fn force(tokens: &[i64], scores: &mut [f32]) {
    scores.fill(f32::NEG_INFINITY);
    for &token in tokens {
        if let Some(score) = usize::try_from(token).ok().and_then(|token| scores.get_mut(token)) {
            *score = 0.0;
        }
    }
}

/// Adds the bias of every sequence that the next token would complete. As in transformers, one that is longer than the tokens so far is
/// ignored.
fn sequence_bias(biases: &[(Vec<i64>, f64)], history: &[i64], scores: &mut [f32]) {
    // all scores are read before one is changed: several sequences may end with one token
    let mut added: Vec<(usize, f32)> = Vec::new();
    for (sequence, bias) in biases {
        let Some((last, begun)) = sequence.split_last() else { continue };
        let completes = begun.is_empty() || (sequence.len() <= history.len() && history.ends_with(begun));
        if let Some(last) = usize::try_from(*last).ok().filter(|_| completes) {
            match added.iter_mut().find(|(token, _)| *token == last) {
                Some((_, sum)) => *sum += *bias as f32,
                None => added.push((last, *bias as f32)),
            }
        }
    }
    for (token, bias) in added {
        if let Some(score) = scores.get_mut(token) {
            *score += bias;
        }
    }
}

/// Raises the scores of the end tokens, `over` tokens after the start of the penalty.
fn exponential_decay(over: i64, factor: f64, ends: &[i64], scores: &mut [f32]) {
    if over <= 0 {
        return;
    }
    let grown = (factor.powf(over as f64) - 1.0) as f32;
    let mut ends = ends.to_vec();
    ends.sort_unstable();
    ends.dedup();
    for end in ends {
        if let Some(score) = usize::try_from(end).ok().and_then(|end| scores.get_mut(end)) {
            // a banned token stays banned
            if score.is_finite() {
                *score += score.abs() * grown;
            }
        }
    }
}

/// Makes log-probabilities of `scores`.
pub(crate) fn renormalize(scores: &mut [f32]) {
    let softmax = Softmax::of(scores);
    for score in scores.iter_mut() {
        *score = softmax.logprob(*score) as f32;
    }
}

/// Once for each token that occurs, however often it does.
fn repetition_penalty(penalty: f32, history: &[i64], scores: &mut [f32]) {
    let mut seen = history.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        if let Some(score) = usize::try_from(token).ok().and_then(|token| scores.get_mut(token)) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// Bans what would complete an n-gram of `size` tokens that occurred before.
fn no_repeat_ngram(size: usize, history: &[i64], scores: &mut [f32]) {
    if size == 0 || history.len() + 1 < size {
        return;
    }
    let begun = &history[history.len() + 1 - size..];
    for ngram in history.windows(size).filter(|ngram| ngram.starts_with(begun)) {
        ban(&ngram[size - 1..], scores);
    }
}

/// Bans what would complete a bad word. As in transformers, an end token alone is never one, and a word longer than the
/// tokens so far is ignored.
fn bad_words(words: &[Vec<i64>], ends: &[i64], history: &[i64], scores: &mut [f32]) {
    for word in words {
        let Some((last, begun)) = word.split_last() else { continue };
        let is_end = begun.is_empty() && ends.contains(last);
        let completes = begun.is_empty() || (word.len() <= history.len() && history.ends_with(begun));
        if completes && !is_end {
            ban(&[*last], scores);
        }
    }
}

/// Keeps the `k` highest scores, and those equal to the lowest of them.
fn top_k(k: usize, scores: &mut [f32]) {
    if k >= scores.len() {
        return;
    }
    let mut sorted = scores.to_vec();
    let (_, &mut least, _) = sorted.select_nth_unstable_by(k.saturating_sub(1), |a, b| b.total_cmp(a));
    scores.iter_mut().filter(|score| **score < least).for_each(|score| *score = f32::NEG_INFINITY);
}

/// Keeps the most likely tokens that together have probability `p`, at least one.
fn top_p(p: f64, scores: &mut [f32]) {
    let softmax = Softmax::of(scores);
    let mut order: Vec<usize> = (0..scores.len()).filter(|&token| scores[token] > f32::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let mut cumulative = 0.0;
    for &token in order.iter().take(order.len().saturating_sub(1)) {
        cumulative += softmax.logprob(scores[token]).exp();
        if cumulative > 1.0 - p {
            break;
        }
        scores[token] = f32::NEG_INFINITY;
    }
}

/// Keeps the tokens whose probability is at least `p` times the highest.
fn min_p(p: f64, scores: &mut [f32]) {
    let softmax = Softmax::of(scores);
    let Some(&highest) = scores.get(argmax(scores)) else { return };
    let highest = softmax.logprob(highest).exp();
    for score in scores.iter_mut().filter(|score| **score > f32::NEG_INFINITY) {
        if softmax.logprob(*score).exp() < p * highest {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// The entropy of the tokens' probabilities.
fn entropy(scores: &[f32]) -> f64 {
    let softmax = Softmax::of(scores);
    let likely = scores.iter().filter(|score| **score > f32::NEG_INFINITY).map(|score| softmax.logprob(*score));
    -likely.map(|logprob| logprob.exp() * logprob).sum::<f64>()
}

/// Keeps the tokens whose surprise is closest to the entropy, until they have probability `p` together (`TypicalLogitsWarper`).
fn typical_p(p: f64, scores: &mut [f32]) {
    let (softmax, entropy) = (Softmax::of(scores), entropy(scores));
    let shift = |score: f32| (-softmax.logprob(score) - entropy).abs();
    let mut order: Vec<usize> = (0..scores.len()).filter(|&token| scores[token] > f32::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| shift(scores[a]).total_cmp(&shift(scores[b])));
    let mut cumulative = 0.0;
    let below = order.iter().take_while(|token| {
        cumulative += softmax.logprob(scores[**token]).exp();
        cumulative < p
    });
    let last = below.count().min(order.len().saturating_sub(1));
    let Some(farthest) = order.get(last).map(|&token| shift(scores[token])) else { return };
    for score in scores.iter_mut().filter(|score| **score > f32::NEG_INFINITY) {
        if shift(*score) > farthest {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Keeps the tokens whose probability is at least `least`, and the most likely one.
fn keep_above(least: f64, scores: &mut [f32]) {
    let softmax = Softmax::of(scores);
    let Some(&highest) = scores.get(argmax(scores)) else { return };
    for score in scores.iter_mut().filter(|score| **score < highest) {
        if softmax.logprob(*score).exp() < least {
            *score = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::warp;
    use crate::engine::generate::settings::SampleSettings;
    use crate::engine::generate::softmax::Softmax;

    #[test]
    fn warpers_leave_the_probabilities_of_transformers() {
        let goldens = include_str!("../../../tests/goldens/generation.json");
        agree(goldens, 9);
        agree(include_str!("../../../tests/goldens/generation_files.json"), 9);
    }

    fn agree(goldens: &str, count: usize) {
        let goldens = serde_json::from_str::<Value>(goldens).unwrap_or_default();
        let numbers =
            |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect::<Vec<_>>();
        let logits: Vec<f32> = numbers(&goldens["warpers"]["logits"]).into_iter().map(|logit| logit as f32).collect();
        let cases = goldens["warpers"]["cases"].as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!((logits.len(), cases.len()), (12, count));
        for case in cases {
            let given = &case["settings"];
            let number = |name: &str, neutral: f64| given[name].as_f64().unwrap_or(neutral);
            let settings = SampleSettings {
                temperature: number("temperature", 1.0),
                top_k: given["top_k"].as_u64().unwrap_or(0) as usize,
                top_p: number("top_p", 1.0),
                min_p: given["min_p"].as_f64(),
                typical_p: number("typical_p", 1.0),
                epsilon_cutoff: number("epsilon_cutoff", 0.0),
                eta_cutoff: number("eta_cutoff", 0.0),
                seed: 0,
            };
            let mut scores = logits.clone();
            warp(&settings, &mut scores);
            let expected = numbers(&case["probabilities"]);
            let softmax = Softmax::of(&scores);
            for (token, (&score, expected)) in scores.iter().zip(expected).enumerate() {
                assert!(
                    (softmax.logprob(score).exp() - expected).abs() < 1e-6,
                    "{settings:?}: token {token} in {scores:?}"
                );
            }
        }
    }
}
