//! Beam search, as transformers 4.57 does it (`GenerationMixin._beam_search`). In: logits. Out: the next tokens of several
//! captions of one row, until the best of them is known. Rows are searched independently of each other.

use std::borrow::Cow;
use std::ops::ControlFlow;

use itertools::Itertools;

use super::decoder::Logits;
use super::finite::is_finite;
use super::generate::{Begun, Sequence, Writing};
use super::processors::process;
use super::settings::{BeamSettings, EarlyStopping, GenerationSettings};
use super::softmax::Softmax;
use crate::onnx::OnnxError;

/// A caption that can still grow.
#[derive(Debug)]
struct Beam {
    tokens: Vec<i64>,
    /// The sum of its tokens' processed log-probabilities.
    score: f64,
    /// The sum of the model's own.
    logprob: f64,
    /// Its place in the decoder's batch.
    place: usize,
}

/// One row's search.
#[derive(Debug)]
pub(super) struct Beams {
    settings: BeamSettings,
    /// Best first, as many as beams; one at the start, where all would be the same.
    running: Vec<Beam>,
    /// Finished captions with their scores after the length penalty, best first, at most as many as beams.
    finished: Vec<(f64, Sequence)>,
}

/// What the next tokens of one beam are worth.
struct Scored<'a> {
    logits: Cow<'a, [f32]>,
    softmax: Softmax,
    /// The log-probabilities after processing.
    processed: Vec<f32>,
}

impl Beams {
    pub(super) fn begun(settings: BeamSettings, place: usize) -> Self {
        let beam = Beam { tokens: Vec::new(), score: 0.0, logprob: 0.0, place };
        Self { settings, running: vec![beam], finished: Vec::new() }
    }

    /// The places of its beams in the decoder's batch and their last tokens.
    pub(super) fn paths(&self) -> impl Iterator<Item = (usize, i64)> {
        self.running.iter().filter_map(|beam| Some((beam.place, *beam.tokens.last()?)))
    }

    /// Its places are those from `place` on; returns the next after them.
    pub(super) fn settle(&mut self, place: usize) -> usize {
        self.running.iter_mut().zip(place..).for_each(|(beam, place)| beam.place = place);
        place + self.running.len()
    }

    /// Goes one token further.
    pub(super) fn step(
        mut self,
        begun: &Begun,
        logits: &Logits,
        writing: &Writing<'_>,
    ) -> Result<ControlFlow<Sequence, Self>, OnnxError> {
        let Some(scored) = self.score(logits, writing.settings, &begun.prefix) else {
            return Ok(ControlFlow::Break(Sequence { finite: false, ..Sequence::begun() }));
        };
        let keep = self.settings.num_beams * (1 + writing.settings.eos_token_ids.len()).max(2);
        if self.advance(&scored, keep, writing)? {
            return Ok(ControlFlow::Continue(self));
        }
        let best = self.finished.into_iter().next();
        Ok(ControlFlow::Break(best.map_or_else(Sequence::begun, |(_, best)| best)))
    }

    /// Scores every token after every beam; `None` if a logit is not finite.
    fn score<'a>(&self, logits: &'a Logits, settings: &GenerationSettings, prefix: &[i64]) -> Option<Vec<Scored<'a>>> {
        let score = |beam: &Beam| {
            let logits = logits.row(beam.place).filter(|logits| is_finite(logits))?;
            let softmax = Softmax::of(&logits);
            let mut processed: Vec<f32> = logits.iter().map(|&logit| softmax.logprob(logit) as f32).collect();
            process(settings, prefix.len(), &[prefix, &beam.tokens].concat(), &mut processed);
            Some(Scored { logits, softmax, processed })
        };
        self.running.iter().map(score).collect()
    }

    /// Goes one token further: the `keep` best continuations are looked at, of which the best unfinished ones go on. Says
    /// whether the search goes on.
    fn advance(&mut self, scored: &[Scored<'_>], keep: usize, writing: &Writing<'_>) -> Result<bool, OnnxError> {
        let settings = self.settings;
        let mut running = Vec::with_capacity(settings.num_beams);
        for (rank, (score, beam, token)) in self.best(scored, keep).into_iter().enumerate() {
            let from = &self.running[beam];
            let tokens: Vec<i64> = from.tokens.iter().copied().chain([token as i64]).collect();
            let logprob = from.logprob + scored[beam].softmax.logprob(scored[beam].logits[token]);
            match writing.finish(&tokens)? {
                None if running.len() < settings.num_beams => {
                    running.push(Beam { tokens, score, logprob, place: from.place });
                }
                // what ranks below is looked at only so that enough beams go on
                Some(finish) if rank < settings.num_beams => {
                    let penalised = score / (tokens.len() as f64).powf(settings.length_penalty);
                    self.finished.push((penalised, Sequence { tokens, logprob, finish, finite: true }));
                }
                _ => {}
            }
        }
        // stable: what was finished first stays first among equals
        self.finished.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        self.finished.truncate(settings.num_beams);
        self.running = running;
        Ok(self.can_improve(writing.settings.max_new_tokens))
    }

    /// The `keep` best continuations: score, beam, token; the lowest beam and token among equals. Tokens that cannot come
    /// next are none.
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

    /// Whether a running beam may still become better than the finished captions.
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
