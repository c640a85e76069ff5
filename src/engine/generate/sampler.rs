//! Greedy search and sampling: one sequence for a caption. In: logits. Out: the next token, until the caption is finished.

use std::ops::ControlFlow;

use super::logits_processors::{process, warp};
use super::random::sample;
use super::sequence::{DecodeContext, Sequence, SequenceRequest, Told};
use super::settings::{GenerationSettings, Strategy};
use super::softmax::{Softmax, argmax};
use super::token_selection::select_among;
use crate::engine::decoder::cache::Slot;
use crate::engine::decoder::chosen::Chosen;
use crate::engine::decoder::run::Logits;
use crate::engine::encode::finite::is_finite;
use crate::onnx::OnnxError;

/// A caption whose next token is the most likely one (greedy search) or a random one (sampling).
#[derive(Debug)]
pub(crate) struct Sampler {
    sequence: Sequence,
    slot: Slot,
}

impl Sampler {
    pub(crate) fn new(slot: Slot) -> Self {
        Self { sequence: Sequence::empty(), slot }
    }

    /// Its slot and its last token.
    pub(crate) fn live_sequence(&self) -> Option<(Slot, i64)> {
        self.sequence.tokens.last().map(|&token| (self.slot, token))
    }

    /// Its slot is `first` from now on; returns the next free one.
    pub(crate) fn assign_slots(&mut self, first: usize) -> usize {
        self.slot = Slot(first);
        first + 1
    }

    /// Its slot, and the token that comes next into the cache: its last, or `first` before there is one.
    pub(crate) fn slot_and_token(&self, first: i64) -> (Slot, i64) {
        (self.slot, self.sequence.tokens.last().copied().unwrap_or(first))
    }

    /// Selects the next token as `chosen`, which is of its slot, tells it.
    pub(crate) fn select_among(
        self,
        request: &SequenceRequest,
        chosen: &Chosen,
        vocabulary: usize,
        context: &DecodeContext<'_>,
        scores: &mut Vec<f32>,
    ) -> Result<Told<Self>, OnnxError> {
        let selected = match chosen.candidates.as_slice() {
            _ if !chosen.finite => None,
            // the graph has chosen it
            [only] => Some((only.token, only.logprob)),
            _ => {
                let (settings, prompt) = (context.settings, &request.prompt);
                let history = [prompt.as_slice(), &self.sequence.tokens].concat();
                match select_among(chosen, vocabulary, settings, prompt.len(), &history, request.key, scores) {
                    Some(selected) => Some(selected),
                    None => return Ok(Told::Unknown(self)),
                }
            }
        };
        self.append(selected, request.prompt.len(), context).map(Told::Next)
    }

    /// Selects the next token.
    pub(crate) fn select(
        self,
        request: &SequenceRequest,
        logits: &Logits,
        context: &DecodeContext<'_>,
        scores: &mut Vec<f32>,
    ) -> Result<ControlFlow<Sequence, Self>, OnnxError> {
        let prompt = &request.prompt;
        let history = [prompt.as_slice(), &self.sequence.tokens].concat();
        let logits = logits.row(self.slot)?;
        let selected = select_token(&logits, context.settings, prompt.len(), &history, request.key, scores);
        self.append(selected, prompt.len(), context)
    }

    /// The sequence with a token and its log-probability; it breaks if that ends it, or if there is none because a logit is not finite.
    fn append(
        mut self,
        selected: Option<(i64, f64)>,
        prompt: usize,
        context: &DecodeContext<'_>,
    ) -> Result<ControlFlow<Sequence, Self>, OnnxError> {
        let sequence = &mut self.sequence;
        let Some((token, logprob)) = selected else {
            return Ok(ControlFlow::Break(Sequence { finite: false, ..self.sequence }));
        };
        sequence.tokens.push(token);
        sequence.logprob += logprob;
        Ok(match context.finish(prompt, &sequence.tokens)? {
            Some(finish) => ControlFlow::Break(Sequence { finish, ..self.sequence }),
            None => ControlFlow::Continue(self),
        })
    }
}

/// Selects the token after `history`, whose first `prompt` tokens are the prompt. Returns it with its log-probability before
/// logits processing; `None` if a logit is not finite. `logits` are one row, with a logit for each token of the vocabulary; `key`
/// is the hash of the row's key, which sampling depends on; `scores` is a buffer that is used again.
///
/// This is everything that greedy search and sampling do for a row in one step, apart from the decoder.
pub fn select_token(
    logits: &[f32],
    settings: &GenerationSettings,
    prompt: usize,
    history: &[i64],
    key: u64,
    scores: &mut Vec<f32>,
) -> Option<(i64, f64)> {
    if !is_finite(logits) {
        return None;
    }
    scores.clear();
    scores.extend_from_slice(logits);
    process(settings, prompt, history, scores);
    let token = match &settings.strategy {
        Strategy::Sample(sampling) => {
            warp(sampling, scores);
            sample(sampling.seed, key, history.len() - prompt, scores)
        }
        _ => argmax(scores),
    };
    Some((token as i64, Softmax::of(logits).logprob(*logits.get(token)?)))
}
