//! Beam search, as transformers 4.57 does it (`GenerationMixin._beam_search`). In: logits. Out: the next tokens of several
//! sequences of one row, until the best of them is known. Rows are searched independently of each other.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::ControlFlow;

use itertools::Itertools;

use super::logits_processors::{beyond_bans, is_forced, process, renormalize};
use super::sequence::{DecodeContext, Sequence, SequenceRequest, Told};
use super::settings::{BeamSettings, EarlyStopping, GenerationSettings};
use super::softmax::Softmax;
use super::token_selection::process_candidates;
use crate::engine::decoder::cache::Slot;
use crate::engine::decoder::chosen::{Candidate, Chosen};
use crate::engine::decoder::run::Logits;
use crate::engine::encode::finite::is_finite;
use crate::onnx::OnnxError;

/// A sequence that is not finished.
#[derive(Debug)]
struct Beam {
    tokens: Vec<i64>,
    /// The sum of its tokens' processed log-probabilities.
    score: f64,
    /// The sum of its tokens' log-probabilities before processing.
    logprob: f64,
    slot: Slot,
}

/// The search for the caption of one row.
#[derive(Debug)]
pub(crate) struct BeamSearch {
    settings: BeamSettings,
    /// Best first, at most `num_beams`; a single one at the start, since all would be equal.
    running: Vec<Beam>,
    /// Finished sequences with their scores after the length penalty, best first, at most `num_beams`.
    finished: Vec<(f64, Sequence)>,
}

/// The scores of the next tokens of one beam.
struct Scored<'a> {
    logits: Cow<'a, [f32]>,
    softmax: Softmax,
    /// The log-probabilities after processing.
    processed: Vec<f32>,
}

/// A beam with one more token.
struct Continuation {
    /// The sum of the processed log-probabilities.
    score: f64,
    /// The index of the beam.
    beam: usize,
    token: usize,
    /// The token's log-probability before processing.
    logprob: f64,
}

impl BeamSettings {
    /// How many continuations are looked at in a step: enough for all beams, however many of them end.
    pub(crate) fn candidates(&self, settings: &GenerationSettings) -> usize {
        self.num_beams * (1 + settings.eos_token_ids.len()).max(2)
    }
}

/// The highest score first; among equals the lowest beam and token.
fn by_score(a: &Continuation, b: &Continuation) -> Ordering {
    b.score.total_cmp(&a.score).then_with(|| (a.beam, a.token).cmp(&(b.beam, b.token)))
}

impl BeamSearch {
    pub(crate) fn new(settings: BeamSettings, slot: Slot) -> Self {
        let beam = Beam { tokens: Vec::new(), score: 0.0, logprob: 0.0, slot };
        Self { settings, running: vec![beam], finished: Vec::new() }
    }

    /// The slots of its beams and their last tokens.
    pub(crate) fn live_sequences(&self) -> impl Iterator<Item = (Slot, i64)> {
        self.running.iter().filter_map(|beam| Some((beam.slot, *beam.tokens.last()?)))
    }

    /// The slots of its beams, and for each the token that comes next into the cache: its last, or `first` before there is one.
    pub(crate) fn slots_and_tokens(&self, first: i64) -> Vec<(Slot, i64)> {
        self.running.iter().map(|beam| (beam.slot, beam.tokens.last().copied().unwrap_or(first))).collect()
    }

    /// Its slots are those from `first` on; returns the next free one.
    pub(crate) fn assign_slots(&mut self, first: usize) -> usize {
        self.running.iter_mut().zip(first..).for_each(|(beam, slot)| beam.slot = Slot(slot));
        first + self.running.len()
    }

    /// Selects the next token of every beam.
    pub(crate) fn select(
        self,
        request: &SequenceRequest,
        logits: &Logits,
        context: &DecodeContext<'_>,
    ) -> Result<ControlFlow<Sequence, Self>, OnnxError> {
        let Some(scored) = self.score(logits, context.settings, &request.prompt)? else {
            return Ok(ControlFlow::Break(Sequence { finite: false, ..Sequence::empty() }));
        };
        let best = self.best(&scored, self.settings.candidates(context.settings));
        self.advance(best, request.prompt.len(), context)
    }

    /// Selects the next token of every beam as `chosen`, which is in the order of slots, tells them.
    pub(crate) fn select_among(
        self,
        request: &SequenceRequest,
        chosen: &[Chosen],
        vocabulary: usize,
        context: &DecodeContext<'_>,
        scores: &mut Vec<f32>,
    ) -> Result<Told<Self>, OnnxError> {
        let (settings, prompt) = (context.settings, &request.prompt);
        let only_bans = beyond_bans(settings).is_empty();
        let (mut all, mut bound) = (Vec::new(), f64::NEG_INFINITY);
        for (beam, Beam { slot: Slot(slot), score, tokens, .. }) in self.running.iter().enumerate() {
            let Some(chosen) = chosen.get(*slot).filter(|chosen| chosen.finite) else {
                return Ok(Told::Next(ControlFlow::Break(Sequence { finite: false, ..Sequence::empty() })));
            };
            let history = [prompt.as_slice(), tokens].concat();
            if !only_bans {
                process_candidates(&chosen.candidates, vocabulary, settings, prompt.len(), &history, scores);
            }
            let known = all.len();
            for Candidate { token, logprob, score: unprocessed } in &chosen.candidates {
                let token = usize::try_from(*token).unwrap_or(0);
                let processed =
                    if only_bans { *unprocessed } else { scores.get(token).copied().unwrap_or(*unprocessed) };
                if processed > f32::NEG_INFINITY {
                    all.push(Continuation { score: score + f64::from(processed), beam, token, logprob: *logprob });
                }
            }
            if is_forced(settings, prompt.len(), &history) {
                // the forced tokens may be no candidates
                let left = scores.iter().filter(|score| **score > f32::NEG_INFINITY).count();
                if all.len() - known < left {
                    return Ok(Told::Unknown(self));
                }
            } else {
                bound = bound.max(score + f64::from(chosen.bound(vocabulary)));
            }
        }
        let keep = self.settings.candidates(settings);
        let best: Vec<_> = all.into_iter().k_smallest_by(keep, by_score).collect();
        // the order of equal candidates is that of their ids, unless they were processed
        let is_above = |last: &Continuation| last.score > bound || (only_bans && last.score >= bound);
        if bound > f64::NEG_INFINITY && !best.last().is_some_and(|last| best.len() == keep && is_above(last)) {
            return Ok(Told::Unknown(self));
        }
        self.advance(best, prompt.len(), context).map(Told::Next)
    }

    /// Scores every token after every beam; `None` if a logit is not finite.
    fn score<'a>(
        &self,
        logits: &'a Logits,
        settings: &GenerationSettings,
        prompt: &[i64],
    ) -> Result<Option<Vec<Scored<'a>>>, OnnxError> {
        let mut scored = Vec::with_capacity(self.running.len());
        for beam in &self.running {
            let logits = logits.row(beam.slot)?;
            if !is_finite(&logits) {
                return Ok(None);
            }
            let softmax = Softmax::of(&logits);
            let mut processed: Vec<f32> = logits.iter().map(|&logit| softmax.logprob(logit) as f32).collect();
            process(settings, prompt.len(), &[prompt, &beam.tokens].concat(), &mut processed);
            if settings.renormalize_logits {
                renormalize(&mut processed);
            }
            scored.push(Scored { logits, softmax, processed });
        }
        Ok(Some(scored))
    }

    /// Of the best continuations, the best unfinished ones become the next beams; if none can improve the search, it ends.
    fn advance(
        mut self,
        best: Vec<Continuation>,
        prompt: usize,
        context: &DecodeContext<'_>,
    ) -> Result<ControlFlow<Sequence, Self>, OnnxError> {
        let settings = self.settings;
        let mut running = Vec::with_capacity(settings.num_beams);
        for (rank, Continuation { score, beam, token, logprob }) in best.into_iter().enumerate() {
            let from = &self.running[beam];
            let tokens: Vec<i64> = from.tokens.iter().copied().chain([token as i64]).collect();
            let logprob = from.logprob + logprob;
            match context.finish(prompt, &tokens)? {
                None if running.len() < settings.num_beams => {
                    running.push(Beam { tokens, score, logprob, slot: from.slot });
                }
                // continuations of lower rank only fill up the next beams
                Some(finish) if rank < settings.num_beams => {
                    let penalised = score / (tokens.len() as f64).powf(settings.length_penalty);
                    self.finished.push((penalised, Sequence { tokens, logprob, finish, finite: true }));
                }
                _ => {}
            }
        }
        // a stable sort: among equals, the sequence that was finished first stays first
        self.finished.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        self.finished.truncate(settings.num_beams);
        self.running = running;
        if self.can_improve(context.settings.most_new(prompt)) {
            return Ok(ControlFlow::Continue(self));
        }
        let best = self.finished.into_iter().next();
        Ok(ControlFlow::Break(best.map_or_else(Sequence::empty, |(_, best)| best)))
    }

    /// The `keep` best continuations. Tokens whose score is minus infinity are left out.
    fn best(&self, scored: &[Scored<'_>], keep: usize) -> Vec<Continuation> {
        let all = scored.iter().enumerate().flat_map(|(beam, scored)| {
            let tokens = scored.processed.iter().enumerate().filter(|(_, score)| **score > f32::NEG_INFINITY);
            tokens.map(move |(token, &score)| {
                let score = self.running[beam].score + f64::from(score);
                Continuation { score, beam, token, logprob: 0.0 }
            })
        });
        let logprob = |best: Continuation| {
            let Scored { logits, softmax, .. } = &scored[best.beam];
            Continuation { logprob: softmax.logprob(logits[best.token]), ..best }
        };
        all.k_smallest_by(keep, by_score).map(logprob).collect()
    }

    /// Whether a running beam may still become better than the finished sequences.
    fn can_improve(&self, max_new_tokens: usize) -> bool {
        let settings = self.settings;
        let Some(best) = self.running.first() else { return false };
        let full = self.finished.len() == settings.num_beams;
        let Some((worst, _)) = self.finished.last().filter(|_| full) else { return true };
        let longest = settings.early_stopping == EarlyStopping::Never && settings.length_penalty > 0.0;
        let length = if longest { max_new_tokens } else { best.tokens.len() };
        settings.early_stopping != EarlyStopping::True
            && best.score / (length as f64).powf(settings.length_penalty) > *worst
    }
}
