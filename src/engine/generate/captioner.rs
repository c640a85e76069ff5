//! The caption generator. In: requests, the states of the fusion graph. Out: for each request its tokens, or the error of its row. The
//! prompt of a request is tokenized and checked here; the request then waits in the queue of the scheduler ([`super::scheduler`]), is
//! prefilled ([`super::prefill`]), and its caption is generated token by token.

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::prefill::{PrefillBuilder, PromptEncoder, PromptedRequest};
use super::scheduler::{RequestQueue, Scheduler};
use super::sequence::{DecodeContext, GenerationRequest, Sequence};
use super::settings::{GenerationSettings, Strategy};
use crate::engine::decoder::continuous_batching::enable_continuous_batching;
use crate::engine::decoder::run::Decoder;
use crate::engine::encode::fusion::FusedStates;
use crate::engine::encode::shared_graph::SharedGraph;
use crate::engine::encode::tokenizer::TextTokenizer;
use crate::engine::prompt::expand::TokenizedPrompt;
use crate::engine::prompt::position_limits::PositionLimits;
use crate::model::{ModelDirectory, Role};
use crate::onnx::{GraphOptions, OnnxError};
use crate::row::error::{ErrorKind, RowError, Stage};

/// The decoder, and what makes the input of its prefill.
#[derive(Debug)]
pub(crate) struct CaptionGenerator {
    decoder: Decoder,
    encoder: Option<PromptEncoder>,
    limits: PositionLimits,
    /// Whether waiting requests take the slots of finished captions.
    pub(crate) continuous_batching: bool,
    /// The threads that select tokens while no graph runs.
    workers: ThreadPool,
    pub(crate) settings: GenerationSettings,
}

/// A row with its generated tokens, or with the reason why there are none.
pub(crate) type GeneratedRow = (usize, Result<Sequence, RowError>);

impl CaptionGenerator {
    /// `None` without a decoder; `text` is the opened text graph.
    pub(crate) fn open(
        directory: &ModelDirectory,
        settings: GenerationSettings,
        options: GraphOptions,
        text: Option<&SharedGraph>,
    ) -> Result<Option<Self>, OnnxError> {
        let Some(mut decoder) = Decoder::open(directory, options, text)? else { return Ok(None) };
        let continuous_batching = enable_continuous_batching(&mut decoder);
        let encoder = PromptEncoder::open(directory, options)?;
        let limits = PositionLimits::of(directory);
        let workers = ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|index| format!("select-{index}"))
            .build()
            .map_err(|error| OnnxError::of_run(format!("the threads that select tokens did not start: {error}")))?;
        Ok(Some(Self { decoder, encoder, limits, continuous_batching, workers, settings }))
    }

    /// Whether captions depend on the outputs of the graph of `role`.
    pub(crate) fn attends_to(&self, role: Role) -> bool {
        (role == Role::Vision && self.settings.prompt.holds_image())
            || self.decoder.encoder_outputs.iter().any(|output| output.role == role)
    }

    /// Captions for `requests`, with at most `batch_size` slots of the decoder in use; beam search takes several for a caption.
    /// `fused` are the states of every run of the fusion graph. The results name the rows of their requests and are in any
    /// order.
    pub(crate) fn generate(
        &mut self,
        requests: &[GenerationRequest<'_>],
        fused: &[FusedStates],
        tokenizer: &TextTokenizer,
        batch_size: usize,
    ) -> Result<Vec<GeneratedRow>, OnnxError> {
        let (mut results, mut prompted) = (Vec::with_capacity(requests.len()), Vec::with_capacity(requests.len()));
        for &request in requests {
            match self.tokenize(&request, tokenizer) {
                Ok(prompt) => prompted.push(PromptedRequest { request, prompt }),
                Err(error) => results.push((request.row, Err(error))),
            }
        }
        let queue = RequestQueue::new(prompted, self.attends_to(Role::Fusion));
        let slots = match self.settings.strategy {
            Strategy::Beam(beams) => (batch_size / beams.num_beams.max(1)).max(1),
            Strategy::Greedy | Strategy::Sample(_) => batch_size,
        };
        let scheduler = Scheduler {
            decoder: &mut self.decoder,
            prefill_builder: PrefillBuilder { encoder: self.encoder.as_mut(), fused },
            queue,
            slots,
            continuous_batching: self.continuous_batching,
            context: DecodeContext { settings: &self.settings, tokenizer, workers: &self.workers },
        };
        results.extend(scheduler.run()?.into_iter().map(|(row, sequence)| (row, Ok(sequence))));
        Ok(results)
    }

    /// The prompt of `request` as tokens, if it can be tokenized and is not too long.
    fn tokenize(
        &self,
        request: &GenerationRequest<'_>,
        tokenizer: &TextTokenizer,
    ) -> Result<TokenizedPrompt, RowError> {
        let fail = |kind, what: String| RowError::new(Stage::Generate, kind, what);
        let prompt = self.settings.prompt.of_row(request.prompt, tokenizer);
        let prompt = prompt.map_err(|what| fail(ErrorKind::InvalidPrompt, what))?;
        let features = request.image.hidden.as_ref().and_then(|(_, shape)| shape.first().copied()).unwrap_or(0);
        let tokenized = prompt.tokenize(tokenizer, features, request.image.grid);
        let tokenized = tokenized
            .map_err(|error| fail(ErrorKind::InvalidPrompt, format!("the prompt cannot be tokenized: {error}")))?;
        match self.limits.check(&tokenized, self.settings.max_new_tokens) {
            Ok(()) => Ok(tokenized),
            Err(long) => Err(fail(ErrorKind::PromptTooLong, format!("{}; {}", long.what, long.hint))),
        }
    }
}
