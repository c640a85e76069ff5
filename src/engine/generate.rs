//! Captions, token by token. In: the states that the decoder attends to, one row for each caption. Out: the tokens of each
//! caption with their log-probability. Greedy search and sampling are here, beam search is [`super::beam`]; rows that
//! are finished leave the batch.

use super::beam;
use super::decoder::{Decoder, Decoding, Logits};
use super::finite::is_finite;
use super::processors::{process, warp};
use super::sample::draw;
use super::settings::{GenerationSettings, Strategy};
use super::softmax::{Softmax, likeliest};
use super::tokens::TextTokenizer;
use crate::onnx::{OnnxError, OnnxErrorKind, Value};

/// A generated caption.
#[derive(Debug, Clone, PartialEq)]
pub struct Caption {
    /// The text, without special tokens and without the prompt.
    pub text: String,
    /// The sum over generated tokens, end token included, of the log-softmax of the decoder's logits.
    pub logprob: f32,
    /// The generated tokens, end token included, start token and prompt not.
    pub token_ids: Vec<i64>,
    /// How many they are.
    pub tokens: i32,
    /// Why it ended.
    pub finish: Finish,
    /// The cosine of the image's embedding with the caption's, if asked for and the model compares them.
    pub similarity: Option<f32>,
}

/// Why a caption ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The end token.
    Eos,
    /// One of the texts in `stop`, which is the end of the caption.
    Stop,
    /// `max_new_tokens`.
    Length,
}

impl Finish {
    /// The name written to the `caption_finish` column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// The tokens of one caption.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sequence {
    /// The generated tokens, end token included, start token and prompt not.
    pub(super) tokens: Vec<i64>,
    pub(super) logprob: f64,
    pub(super) finish: Finish,
    /// Whether every logit was finite; if not, the row fails.
    pub(super) finite: bool,
}

/// Knows when a caption is finished.
pub(super) struct Ends<'a> {
    settings: &'a GenerationSettings,
    tokenizer: &'a TextTokenizer,
}

impl Ends<'_> {
    /// Why `tokens`, none of whose beginnings was finished, are; `None` if they are not.
    pub(super) fn finish(&self, tokens: &[i64]) -> Result<Option<Finish>, OnnxError> {
        if tokens.last().is_some_and(|last| self.settings.eos_token_ids.contains(last)) {
            return Ok(Some(Finish::Eos));
        }
        if !self.settings.stop.is_empty() {
            let text = self.tokenizer.decode_all(tokens).map_err(|error| OnnxError {
                kind: OnnxErrorKind::Run,
                graph: None,
                what: format!("the tokenizer failed: {error}"),
                hint: None,
            })?;
            if self.settings.stop.iter().any(|stop| text.contains(stop)) {
                return Ok(Some(Finish::Stop));
            }
        }
        Ok((tokens.len() >= self.settings.max_new_tokens).then_some(Finish::Length))
    }

    pub(super) fn max_new_tokens(&self) -> usize {
        self.settings.max_new_tokens
    }
}

/// What captions begin with, one row for each.
#[derive(Debug)]
pub(super) struct Start {
    /// What the decoder attends to, `[rows, ...]`, in the order of [`Decoder::contexts`].
    pub(super) contexts: Vec<Value>,
    /// The tokens that captions go on from, as many for every row.
    pub(super) prefixes: Vec<Vec<i64>>,
    /// Their vectors, if these are not what the tokens alone stand for.
    pub(super) embedded: Option<Value>,
}

/// Writes one caption for each of `keys`, the hashes of the rows' keys.
pub(super) fn generate(
    decoder: &mut Decoder,
    start: Start,
    keys: &[u64],
    settings: &GenerationSettings,
    tokenizer: &TextTokenizer,
) -> Result<Vec<Sequence>, OnnxError> {
    let ends = Ends { settings, tokenizer };
    let Start { contexts, prefixes, embedded } = start;
    let mut batch = decoder.begin(contexts, keys.len())?;
    let logits = decoder.first(&mut batch, &prefixes, embedded)?;
    match settings.strategy {
        Strategy::Beam(beams) => beam::search(decoder, batch, logits, &prefixes, settings, beams, &ends),
        Strategy::Greedy | Strategy::Sample(_) => {
            step_by_step(decoder, batch, logits, &prefixes, keys, settings, &ends)
        }
    }
}

fn step_by_step(
    decoder: &mut Decoder,
    mut batch: Decoding,
    mut logits: Logits,
    prefixes: &[Vec<i64>],
    keys: &[u64],
    settings: &GenerationSettings,
    ends: &Ends<'_>,
) -> Result<Vec<Sequence>, OnnxError> {
    let mut sequences: Vec<_> = keys.iter().map(|_| Sequence::begun()).collect();
    let mut active: Vec<usize> = (0..keys.len()).collect();
    let mut scores = Vec::new();
    loop {
        let (mut going, mut next) = (Vec::with_capacity(active.len()), Vec::with_capacity(active.len()));
        for (place, &row) in active.iter().enumerate() {
            let sequence = &mut sequences[row];
            let history = [prefixes[row].as_slice(), &sequence.tokens].concat();
            let prefix = prefixes[row].len();
            let chosen =
                logits.row(place).and_then(|logits| choose(logits, settings, prefix, &history, keys[row], &mut scores));
            let Some((token, logprob)) = chosen else {
                sequence.finite = false;
                continue;
            };
            sequence.tokens.push(token);
            sequence.logprob += logprob;
            if let Some(finish) = ends.finish(&sequence.tokens)? {
                sequence.finish = finish;
            } else {
                going.push(place);
                next.push(token);
            }
        }
        if going.is_empty() {
            return Ok(sequences);
        }
        batch.keep(&going)?;
        active = going.into_iter().map(|place| active[place]).collect();
        logits = decoder.next(&mut batch, &next)?;
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
