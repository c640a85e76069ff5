//! Where the next tokens are selected. In: generation settings. Out: by the graph on a device; on the host among the best tokens that the
//! graph gives; or on the host from all logits.
//!
//! # Among the best tokens
//! Logits processors and warpers only lower scores, with the exceptions that `beyond_candidates` names. So no token beyond the candidates that the
//! graph gives has a higher score than the last of them. Where that does not decide which token is selected, the row's logits are read,
//! and the selection is the one that the host makes from them. So what is selected never depends on how many candidates there are.

use std::fmt;

use super::certain_filter::{filter, may_decide};
use super::logits_processors::{always_banned, beyond_bans, beyond_candidates, is_forced, keep_likely, process, warp};
use super::random::sample;
use super::settings::{GenerationSettings, Strategy};
use super::softmax::argmax;
use crate::engine::decoder::chosen::{Candidate, Chosen};
use crate::onnx::choose::Choice;

/// So many candidates more than a search needs: those that processors put behind others.
pub(crate) const SPARE_CANDIDATES: usize = 48;
/// Sampling without `top_k` asks for as many candidates as this times the spare ones, and these.
const SPARES_OF_FILTER: usize = 4;
/// The highest `top_k` for which candidates are asked for.
const MOST_TOP_K: usize = 464;
/// Token ids come to the host as float32, which has all whole numbers below this.
const MOST_TOKENS: usize = 1 << f32::MANTISSA_DIGITS;

/// Where the next tokens are selected on a device with steps of one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenSelection {
    /// In the graph; or the graph gives the candidates of each beam and bans tokens.
    Device,
    /// On the host, among as many of the best tokens of a row; these settings ask for it.
    Candidates(usize, Vec<&'static str>),
    /// On the host, from all logits, because of this.
    Host(&'static str),
}

impl TokenSelection {
    /// For `settings`, and logits of as many tokens.
    pub(crate) fn of(settings: &GenerationSettings, vocabulary: usize) -> Self {
        Self::with_spare(settings, vocabulary, SPARE_CANDIDATES).0
    }

    /// The same, and what the graph chooses, with `spare` candidates more than a search needs.
    pub(crate) fn with_spare(settings: &GenerationSettings, vocabulary: usize, spare: usize) -> (Self, Choice) {
        let mut asking = beyond_bans(settings);
        let needed = match &settings.strategy {
            Strategy::Greedy => 1,
            Strategy::Beam(beams) => beams.candidates(settings),
            Strategy::Sample(sampling) => {
                asking.insert(0, "sampling");
                if sampling.top_k > 0 { sampling.top_k } else { SPARES_OF_FILTER * spare }
            }
        };
        let of_sampling = match &settings.strategy {
            Strategy::Sample(sampling) if sampling.top_k > MOST_TOP_K => Some("sampling with top_k above 464"),
            Strategy::Sample(sampling) if sampling.top_k == 0 && !may_decide(sampling) => {
                Some("sampling without top_k, and without top_p at a temperature of at most 1")
            }
            _ => None,
        };
        let refused = if (2..MOST_TOKENS).contains(&vocabulary) {
            beyond_candidates(settings).or(of_sampling)
        } else {
            Some("the number of tokens")
        };
        let on_host = !asking.is_empty();
        let choice = Choice {
            vocabulary,
            candidates: if on_host { needed + spare } else { needed }.min(vocabulary),
            by_logits: !matches!(settings.strategy, Strategy::Beam(_)),
            ends: if on_host || (settings.min_new_tokens == 0 && settings.min_length == 0) {
                Vec::new()
            } else {
                settings.eos_token_ids.clone()
            },
            suppressed: always_banned(settings),
        };
        let selection = match refused {
            Some(why) => Self::Host(why),
            None if on_host => Self::Candidates(choice.candidates, asking),
            None => Self::Device,
        };
        (selection, choice)
    }
}

impl fmt::Display for TokenSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => f.write_str("tokens are chosen on the device"),
            Self::Candidates(count, asking) => {
                write!(f, "tokens are selected by the host among the {count} best of each row ({})", asking.join(", "))
            }
            Self::Host(why) => write!(f, "tokens are selected by the host from all logits ({why})"),
        }
    }
}

/// The scores of all tokens after processing; minus infinity for those that are no candidates. `scores` is a buffer that is used again.
pub(super) fn process_candidates(
    candidates: &[Candidate],
    vocabulary: usize,
    settings: &GenerationSettings,
    prompt: usize,
    history: &[i64],
    scores: &mut Vec<f32>,
) {
    scores.clear();
    scores.resize(vocabulary, f32::NEG_INFINITY);
    for Candidate { token, score, .. } in candidates {
        if let Some(place) = usize::try_from(*token).ok().and_then(|token| scores.get_mut(token)) {
            *place = *score;
        }
    }
    process(settings, prompt, history, scores);
}

/// What [`select_token`](super::sampler::select_token) selects, as far as the candidates tell; `None` if all logits are needed.
pub(super) fn select_among(
    chosen: &Chosen,
    vocabulary: usize,
    settings: &GenerationSettings,
    prompt: usize,
    history: &[i64],
    key: u64,
    scores: &mut Vec<f32>,
) -> Option<(i64, f64)> {
    let candidates = chosen.candidates.as_slice();
    process_candidates(candidates, vocabulary, settings, prompt, history, scores);
    let bound = chosen.bound(vocabulary);
    let decided = bound == f32::NEG_INFINITY || is_forced(settings, prompt, history);
    let token = match &settings.strategy {
        Strategy::Sample(sampling) => {
            if !decided && sampling.top_k == 0 {
                filter(sampling, candidates, bound, scores)?;
                if sampling.top_p < 1.0 {
                    keep_likely(sampling, scores);
                }
            } else {
                let temperature = sampling.temperature as f32;
                let above = scores.iter().filter(|score| **score / temperature > bound / temperature).count();
                if !decided && above < sampling.top_k {
                    return None;
                }
                warp(sampling, scores);
            }
            sample(sampling.seed, key, history.len() - prompt, scores)
        }
        Strategy::Greedy | Strategy::Beam(_) => {
            let best = argmax(scores);
            if !decided && scores.get(best).is_none_or(|score| *score <= bound) {
                return None;
            }
            best
        }
    };
    // a forced token may be no candidate
    let found = candidates.iter().find(|candidate| usize::try_from(candidate.token) == Ok(token))?;
    Some((found.token, found.logprob))
}
