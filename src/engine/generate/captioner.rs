//! The caption generator. In: requests, the states of the fusion graph. Out: for each request its tokens, or the error of its row. The
//! prompt of a request is tokenized and checked here; the request then waits in the queue of the scheduler ([`super::scheduler`]), is
//! prefilled ([`super::prefill`]), and its caption is generated token by token.

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::device_search::DeviceSearch;
use super::prefill::{PrefillBuilder, PromptEncoder, PromptedRequest};
use super::scheduler::{RequestQueue, Scheduler};
use super::sequence::{DecodeContext, GenerationRequest, Sequence};
use super::settings::GenerationSettings;
use super::token_selection::{SPARE_CANDIDATES, TokenSelection};
use crate::engine::decoder::continuous_batching::enable_continuous_batching;
use crate::engine::decoder::run::Decoder;
use crate::engine::decoder::static_decoder::StaticDecoder;
use crate::engine::decoder::step_graph::StepGraph;
use crate::engine::encode::fusion::FusedStates;
use crate::engine::encode::shared_graph::SharedGraph;
use crate::engine::encode::tokenizer::TextTokenizer;
use crate::engine::prompt::expand::TokenizedPrompt;
use crate::engine::prompt::position_limits::PositionLimits;
use crate::model::{ModelDirectory, Role};
use crate::onnx::{GraphOptions, OnnxError, OnnxErrorKind};
use crate::row::error::{ErrorKind, RowError, Stage};

/// The decoder, and what makes the input of its prefill.
#[derive(Debug)]
pub(crate) struct CaptionGenerator {
    decoder: Decoder,
    /// Its steps on a device, if the graph has static ones and can choose tokens as the settings ask.
    static_decoder: Option<StaticDecoder>,
    encoder: Option<PromptEncoder>,
    limits: PositionLimits,
    /// How many rows the decoder takes at once, if it takes no other number.
    fixed_batch: Option<usize>,
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
        Self::open_with(directory, settings, options, text, SPARE_CANDIDATES)
    }

    /// The same, with steps on a device that give `spare` candidates more than a search needs.
    fn open_with(
        directory: &ModelDirectory,
        settings: GenerationSettings,
        options: GraphOptions,
        text: Option<&SharedGraph>,
        spare: usize,
    ) -> Result<Option<Self>, OnnxError> {
        let Some(mut decoder) = Decoder::open(directory, options, text)? else { return Ok(None) };
        let static_decoder = open_static(&mut decoder, directory, &settings, options, spare)?;
        let fixed_batch = directory.decoder_batch();
        let continuous_batching =
            static_decoder.is_some() || fixed_batch.is_none() && enable_continuous_batching(&mut decoder);
        let encoder = PromptEncoder::open(directory, options)?;
        let positions = static_decoder.as_ref().and_then(StaticDecoder::positions);
        let limits = PositionLimits::of(directory).on_device(positions);
        let workers = ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|index| format!("select-{index}"))
            .build()
            .map_err(|error| OnnxError::of_run(format!("the threads that select tokens did not start: {error}")))?;
        Ok(Some(Self { decoder, static_decoder, encoder, limits, fixed_batch, continuous_batching, workers, settings }))
    }

    /// Whether steps have one shape and choose tokens on the device.
    pub(crate) fn has_static_steps(&self) -> bool {
        self.static_decoder.is_some()
    }

    /// The bytes of a device's memory that captions take, `slots` of the decoder at once, by those that were generated so far.
    pub(crate) fn device_bytes(&self, slots: usize) -> usize {
        let slots = slots.max(self.settings.strategy.beams());
        self.static_decoder.as_ref().map_or(0, |decoder| decoder.bytes(slots))
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
        let batch_size = self.fixed_batch.unwrap_or(batch_size);
        let (mut results, mut prompted) = (Vec::with_capacity(requests.len()), Vec::with_capacity(requests.len()));
        for &request in requests {
            match self.tokenize(&request, tokenizer) {
                Ok(prompt) => prompted.push(PromptedRequest { request, prompt }),
                Err(error) => results.push((request.row, Err(error))),
            }
        }
        let queue = RequestQueue::new(prompted, self.attends_to(Role::Fusion));
        let captions = (batch_size / self.settings.strategy.beams()).max(1);
        let decoder = &mut self.decoder;
        let prefill_builder = PrefillBuilder { encoder: self.encoder.as_mut(), fused };
        let context = DecodeContext { settings: &self.settings, tokenizer, workers: &self.workers };
        let finished = if let Some(static_decoder) = &mut self.static_decoder {
            static_decoder.set_slots(batch_size);
            DeviceSearch { decoder, static_decoder, prefill_builder, queue, captions, context }.run()?
        } else {
            let continuous_batching = self.continuous_batching;
            Scheduler { decoder, prefill_builder, queue, slots: captions, continuous_batching, context }.run()?
        };
        results.extend(finished.into_iter().map(|(row, sequence)| (row, Ok(sequence))));
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
        let features = request.image.hidden.as_ref().and_then(|states| states.shape().first().copied()).unwrap_or(0);
        let tokenized = prompt.tokenize(tokenizer, features, request.image.grid);
        let tokenized = tokenized
            .map_err(|error| fail(ErrorKind::InvalidPrompt, format!("the prompt cannot be tokenized: {error}")))?;
        let length = tokenized.decoder_tokens().len();
        let most_new = self.settings.most_new(length);
        if most_new == 0 {
            let most = self.settings.max_length.unwrap_or_default();
            let what = format!("the prompt has {length} tokens, and max_length is {most} with the caption");
            return Err(fail(ErrorKind::PromptTooLong, format!("{what}; set max_new_tokens in the job")));
        }
        match self.limits.check(&tokenized, most_new) {
            Ok(()) => Ok(tokenized),
            Err(long) => Err(fail(ErrorKind::PromptTooLong, format!("{}; {}", long.what, long.hint))),
        }
    }
}

/// The static decoder for `settings`, if there is one; the log says why not.
fn open_static(
    decoder: &mut Decoder,
    directory: &ModelDirectory,
    settings: &GenerationSettings,
    options: GraphOptions,
    spare: usize,
) -> Result<Option<StaticDecoder>, OnnxError> {
    let step = match decoder.graph.static_step.take() {
        None => return Ok(None),
        Some(Ok(_)) if directory.decoder_batch().is_some() => return Ok(None),
        Some(Ok(step)) => step,
        Some(Err(not)) => {
            tracing::info!("the decoder's steps run as they were exported: {not}");
            return Ok(None);
        }
    };
    let logits = directory.graph(Role::Decoder).and_then(|graph| graph.header.output(StepGraph::LOGITS));
    let vocabulary = logits.and_then(|logits| logits.fixed(2)).unwrap_or(0);
    let (selection, choice) = TokenSelection::with_spare(settings, vocabulary, spare);
    if let TokenSelection::Host(_) = selection {
        tracing::info!("the decoder's steps run as they were exported: {selection}");
        return Ok(None);
    }
    match StaticDecoder::open(decoder, &step, &choice, settings.strategy.beams(), options) {
        Ok(opened) => {
            tracing::info!(captured = opened.captures(), "the decoder's steps have one shape; {selection}");
            Ok(Some(opened))
        }
        Err(error) if error.kind == OnnxErrorKind::OutOfMemory => Err(error),
        Err(error) => {
            tracing::warn!("the decoder's steps run as they were exported: {error}");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod on_device;
