//! Beam search, as transformers 4.57 does it (`GenerationMixin._beam_search`). In: logits. Out: the next tokens of several
//! sequences of one row, until the best of them is known. Rows are searched independently of each other.

use std::borrow::Cow;
use std::cmp::Ordering;
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
        self.advance(best, context)
    }

    /// Selects the next token of every beam among the candidates of its slot, each the best [`BeamSettings::candidates`] tokens with their
    /// log-probabilities; `None` in a slot whose logits are not finite.
    pub(crate) fn select_among(
        self,
        candidates: impl Fn(Slot) -> Option<Vec<(i64, f64)>>,
        context: &DecodeContext<'_>,
    ) -> Result<ControlFlow<Sequence, Self>, OnnxError> {
        let mut all = Vec::new();
        for (beam, Beam { slot, score, .. }) in self.running.iter().enumerate() {
            let Some(candidates) = candidates(*slot) else {
                return Ok(ControlFlow::Break(Sequence { finite: false, ..Sequence::empty() }));
            };
            all.extend(candidates.into_iter().map(|(token, logprob)| Continuation {
                score: score + logprob,
                beam,
                token: usize::try_from(token).unwrap_or(0),
                logprob,
            }));
        }
        let best = all.into_iter().k_smallest_by(self.settings.candidates(context.settings), by_score).collect();
        self.advance(best, context)
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

    /// Of the best continuations, the best unfinished ones become the next beams; if none can improve the search, it ends.
    fn advance(
        mut self,
        best: Vec<Continuation>,
        context: &DecodeContext<'_>,
    ) -> Result<ControlFlow<Sequence, Self>, OnnxError> {
        let settings = self.settings;
        let mut running = Vec::with_capacity(settings.num_beams);
        for (rank, Continuation { score, beam, token, logprob }) in best.into_iter().enumerate() {
            let from = &self.running[beam];
            let tokens: Vec<i64> = from.tokens.iter().copied().chain([token as i64]).collect();
            let logprob = from.logprob + logprob;
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
        if self.can_improve(context.settings.max_new_tokens) {
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
