//! Beam search, as transformers 4.57 does it (`GenerationMixin._beam_search`). In: logits. Out: the next tokens of several
//! sequences of one row, until the best of them is known. Rows are searched independently of each other.

use std::borrow::Cow;
use std::ops::ControlFlow;

use itertools::Itertools;

use super::logits_processors::process;
use super::sequence::{DecodeContext, Sequence, SequenceRequest};
use super::settings::{BeamSettings, EarlyStopping, GenerationSettings};
use super::softmax::Softmax;
use crate::engine::decoder::cache::Slot;
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

impl BeamSearch {
    pub(crate) fn new(settings: BeamSettings, slot: Slot) -> Self {
        let beam = Beam { tokens: Vec::new(), score: 0.0, logprob: 0.0, slot };
        Self { settings, running: vec![beam], finished: Vec::new() }
    }

    /// The slots of its beams and their last tokens.
    pub(crate) fn live_sequences(&self) -> impl Iterator<Item = (Slot, i64)> {
        self.running.iter().filter_map(|beam| Some((beam.slot, *beam.tokens.last()?)))
    }

    /// Its slots are those from `first` on; returns the next free one.
    pub(crate) fn assign_slots(&mut self, first: usize) -> usize {
        self.running.iter_mut().zip(first..).for_each(|(beam, slot)| beam.slot = Slot(slot));
        first + self.running.len()
    }

    /// Selects the next token of every beam.
    pub(crate) fn select(
        mut self,
        request: &SequenceRequest,
        logits: &Logits,
        context: &DecodeContext<'_>,
    ) -> Result<ControlFlow<Sequence, Self>, OnnxError> {
        let Some(scored) = self.score(logits, context.settings, &request.prompt)? else {
            return Ok(ControlFlow::Break(Sequence { finite: false, ..Sequence::empty() }));
        };
        let keep = self.settings.num_beams * (1 + context.settings.eos_token_ids.len()).max(2);
        if self.advance(&scored, keep, context)? {
            return Ok(ControlFlow::Continue(self));
        }
        let best = self.finished.into_iter().next();
        Ok(ControlFlow::Break(best.map_or_else(Sequence::empty, |(_, best)| best)))
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
            scored.push(Scored { logits, softmax, processed });
        }
        Ok(Some(scored))
    }

    /// Looks at the `keep` best continuations, of which the best unfinished ones become the next beams. Returns whether the search
    /// goes on.
    fn advance(&mut self, scored: &[Scored<'_>], keep: usize, context: &DecodeContext<'_>) -> Result<bool, OnnxError> {
        let settings = self.settings;
        let mut running = Vec::with_capacity(settings.num_beams);
        for (rank, (score, beam, token)) in self.best(scored, keep).into_iter().enumerate() {
            let from = &self.running[beam];
            let tokens: Vec<i64> = from.tokens.iter().copied().chain([token as i64]).collect();
            let logprob = from.logprob + scored[beam].softmax.logprob(scored[beam].logits[token]);
            match context.finish(&tokens)? {
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
        Ok(self.can_improve(context.settings.max_new_tokens))
    }

    /// The `keep` best continuations: score, beam, token; among equals the lowest beam and token. Tokens whose score is minus
    /// infinity are left out.
    fn best(&self, scored: &[Scored<'_>], keep: usize) -> Vec<(f64, usize, usize)> {
        let order = |a: &(f64, usize, usize), b: &(f64, usize, usize)| {
            b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
        };
        let all = scored.iter().enumerate().flat_map(|(beam, scored)| {
            let tokens = scored.processed.iter().enumerate().filter(|(_, score)| **score > f32::NEG_INFINITY);
            tokens.map(move |(token, &score)| (self.running[beam].score + f64::from(score), beam, token))
        });
        all.k_smallest_by(keep, order).collect()
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
