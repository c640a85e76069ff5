//! One caption, token by token: greedy search and sampling. In: logits. Out: the next token, until the caption is finished.

use std::ops::ControlFlow;

use super::decoder::Logits;
use super::finite::is_finite;
use super::generate::{Begun, Sequence, Writing};
use super::processors::{process, warp};
use super::sample::draw;
use super::settings::{GenerationSettings, Strategy};
use super::softmax::{Softmax, likeliest};
use crate::onnx::OnnxError;

/// A caption of which there is one version at a time.
#[derive(Debug)]
pub(super) struct Single {
    sequence: Sequence,
    /// Its place in the decoder's batch.
    place: usize,
}

impl Single {
    pub(super) fn begun(place: usize) -> Self {
        Self { sequence: Sequence::begun(), place }
    }

    /// Its place in the decoder's batch and its last token.
    pub(super) fn path(&self) -> Option<(usize, i64)> {
        self.sequence.tokens.last().map(|&token| (self.place, token))
    }

    /// Its place is `place` from now on; returns the next.
    pub(super) fn settle(&mut self, place: usize) -> usize {
        self.place = place;
        place + 1
    }

    /// Goes one token further.
    pub(super) fn step(
        mut self,
        begun: &Begun,
        logits: &Logits,
        writing: &Writing<'_>,
        scores: &mut Vec<f32>,
    ) -> Result<ControlFlow<Sequence, Self>, OnnxError> {
        let (sequence, prefix) = (&mut self.sequence, &begun.prefix);
        let history = [prefix.as_slice(), &sequence.tokens].concat();
        let chosen = logits
            .row(self.place)
            .and_then(|logits| choose(&logits, writing.settings, prefix.len(), &history, begun.key, scores));
        let Some((token, logprob)) = chosen else {
            return Ok(ControlFlow::Break(Sequence { finite: false, ..self.sequence }));
        };
        sequence.tokens.push(token);
        sequence.logprob += logprob;
        Ok(match writing.finish(&sequence.tokens)? {
            Some(finish) => ControlFlow::Break(Sequence { finish, ..self.sequence }),
            None => ControlFlow::Continue(self),
        })
    }
}

/// The next token after `history`, the first `prefix` tokens of which were given, and its log-probability before
/// processing; `None` if a logit is not finite. `logits` are those of one row, one for each token of the vocabulary; `key` is a
/// hash of the row's key, which decides with the seed what is drawn. `scores` is room to work in. What greedy search and sampling do
/// for every row of every step, and nothing else that a step costs here; beam search has its own.
pub fn choose(
    logits: &[f32],
    settings: &GenerationSettings,
    prefix: usize,
    history: &[i64],
    key: u64,
    scores: &mut Vec<f32>,
) -> Option<(i64, f64)> {
    if !is_finite(logits) {
        return None;
    }
    scores.clear();
    scores.extend_from_slice(logits);
    process(settings, prefix, history, scores);
    let token = match &settings.strategy {
        Strategy::Sample(sampling) => {
            warp(sampling, scores);
            draw(sampling.seed, key, history.len() - prefix, scores)
        }
        _ => likeliest(scores),
    };
    Some((token as i64, Softmax::of(logits).logprob(*logits.get(token)?)))
}
