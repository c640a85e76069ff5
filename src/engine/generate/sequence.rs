//! The data that scheduler and search share: requests, sequences of tokens, captions. No graph is run and no token is selected
//! here.
//!
//! Two indexes tell sequences apart: a *row* is an index into the rows that [`Engine::run`](crate::engine::Engine::run) was given, and
//! stays with a request until its caption is known; a *slot* ([`Slot`](crate::engine::decoder::cache::Slot)) is the index in the
//! decoder's batch, and changes when sequences leave or join.

use std::ops::ControlFlow;

use rayon::ThreadPool;

use super::settings::GenerationSettings;
use crate::engine::encode::fusion::FusedRow;
use crate::engine::encode::tokenizer::TextTokenizer;
use crate::engine::encode::vision::ImageFeatures;
use crate::onnx::OnnxError;

/// A generated caption.
#[derive(Debug, Clone, PartialEq)]
pub struct Caption {
    /// The text, without special tokens and without the prompt.
    pub text: String,
    /// The sum over generated tokens, end token included, of the log-softmax of the decoder's logits.
    pub logprob: f32,
    /// The generated tokens, end token included, start token and prompt not.
    pub token_ids: Vec<i64>,
    /// How many tokens were generated.
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
    /// One of the texts in `stop`, with which the caption ends.
    Stop,
    /// `max_new_tokens`, or `max_length` with the prompt.
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

/// A row whose image is to be captioned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GenerationRequest<'a> {
    pub(crate) row: usize,
    /// The hash of the row's key, on which sampling depends.
    pub(crate) key: u64,
    pub(crate) image: &'a ImageFeatures,
    /// The row's own prompt, where the job's is a template.
    pub(crate) prompt: Option<&'a str>,
    /// Its fused states, if the fusion graph was run for it.
    pub(crate) fused: Option<FusedRow>,
}

/// A row whose caption is being generated, with what the selection of its tokens depends on.
#[derive(Debug)]
pub(crate) struct SequenceRequest {
    pub(crate) row: usize,
    /// As in [`GenerationRequest`].
    pub(crate) key: u64,
    /// The tokens that the decoder processed before the first generated one.
    pub(crate) prompt: Vec<i64>,
}

/// The generated tokens of one caption.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sequence {
    /// The end token included, start token and prompt not.
    pub(crate) tokens: Vec<i64>,
    pub(crate) logprob: f64,
    pub(crate) finish: Finish,
    /// Whether every logit was finite; if not, the row fails.
    pub(crate) finite: bool,
}

impl Sequence {
    /// A sequence without tokens.
    pub(crate) fn empty() -> Self {
        Self { tokens: Vec::new(), logprob: 0.0, finish: Finish::Length, finite: true }
    }
}

/// What a search knows after a step whose candidates it has seen.
#[derive(Debug)]
pub(crate) enum Told<Search> {
    /// How it goes on, or its caption.
    Next(ControlFlow<Sequence, Search>),
    /// All logits are needed; the search before the step.
    Unknown(Search),
}

/// What decides how tokens are selected and when captions end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecodeContext<'a> {
    pub(crate) settings: &'a GenerationSettings,
    pub(crate) tokenizer: &'a TextTokenizer,
    /// The threads that select the tokens of a step, each those of some captions.
    pub(crate) workers: &'a ThreadPool,
}

impl DecodeContext<'_> {
    /// Why a caption after `prompt` tokens ends with the last of `tokens`; `None` if it goes on. It must not have ended before that.
    pub(crate) fn finish(&self, prompt: usize, tokens: &[i64]) -> Result<Option<Finish>, OnnxError> {
        if tokens.last().is_some_and(|last| self.settings.eos_token_ids.contains(last)) {
            return Ok(Some(Finish::Eos));
        }
        if !self.settings.stop.is_empty() {
            let text = self.tokenizer.decode_all(tokens).map_err(|error| OnnxError::of_tokenizer(&error))?;
            if self.settings.stop.iter().any(|stop| text.contains(stop)) {
                return Ok(Some(Finish::Stop));
            }
        }
        Ok((tokens.len() >= self.settings.most_new(prompt)).then_some(Finish::Length))
    }
}
