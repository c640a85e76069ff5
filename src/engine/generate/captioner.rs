//! The caption generator. In: requests, the states of the fusion graph. Out: for each request its tokens, or the error of its row. The
//! prompt of a request is tokenized and checked here; the request then waits in the queue of the scheduler ([`super::scheduler`]), is
//! prefilled ([`super::prefill`]), and its caption is generated token by token.

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::device_search::DeviceSearch;
use super::prefill::{PrefillBuilder, PromptEncoder, PromptedRequest};
use super::scheduler::{RequestQueue, Scheduler};
use super::sequence::{DecodeContext, GenerationRequest, Sequence};
use super::settings::{GenerationSettings, Strategy};
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
use crate::onnx::choose::Choice;
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
        let static_decoder = open_static(&mut decoder, directory, &settings, options)?;
        let continuous_batching = static_decoder.is_some() || enable_continuous_batching(&mut decoder);
        let encoder = PromptEncoder::open(directory, options)?;
        let limits = PositionLimits::of(directory);
        let workers = ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|index| format!("select-{index}"))
            .build()
            .map_err(|error| OnnxError::of_run(format!("the threads that select tokens did not start: {error}")))?;
        Ok(Some(Self { decoder, static_decoder, encoder, limits, continuous_batching, workers, settings }))
    }

    /// Whether steps have one shape and choose tokens on the device.
    pub(crate) fn has_static_steps(&self) -> bool {
        self.static_decoder.is_some()
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
        let captions = match self.settings.strategy {
            Strategy::Beam(beams) => (batch_size / beams.num_beams.max(1)).max(1),
            Strategy::Greedy | Strategy::Sample(_) => batch_size,
        };
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
        match self.limits.check(&tokenized, self.settings.max_new_tokens) {
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
) -> Result<Option<StaticDecoder>, OnnxError> {
    let step = match decoder.graph.static_step.take() {
        None => return Ok(None),
        Some(Ok(step)) => step,
        Some(Err(not)) => {
            tracing::info!("the decoder's steps run as they were exported: {not}");
            return Ok(None);
        }
    };
    let logits = directory.graph(Role::Decoder).and_then(|graph| graph.header.output(StepGraph::LOGITS));
    let Some(choice) = logits.and_then(|logits| logits.fixed(2)).and_then(|size| Choice::of(settings, size)) else {
        tracing::info!("the decoder's steps run as they were exported: tokens are selected by more than their logits");
        return Ok(None);
    };
    match StaticDecoder::open(decoder, &step, &choice, options) {
        Ok(opened) => {
            tracing::info!(captured = opened.captures(), "the decoder's steps have one shape");
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
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::encode::fusion::Fusion;
    use crate::engine::encode::text::TextEncoder;
    use crate::engine::encode::vision::{ImageEncoder, ImageFeatures};
    use crate::engine::generate::settings::GenerationOverrides;
    use crate::onnx::Device;
    use crate::preprocess::{ImageProcessor, RgbImage};

    const OPTIONS: GraphOptions =
        GraphOptions { device: Device::StandIn, threads: 1, dynamic_shapes: true, repeatable: true };

    fn directory(model: &str) -> ModelDirectory {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(model);
        ModelDirectory::open(&path, None).unwrap()
    }

    /// Images of two shades of gray, encoded.
    fn images(directory: &ModelDirectory) -> Vec<std::sync::Arc<ImageFeatures>> {
        let processor = ImageProcessor::from_config(&directory.preprocessor().unwrap().value).unwrap();
        let image = |gray| RgbImage { width: 40, height: 30, pixels: vec![gray; 3600] };
        let pixels = [50, 200].map(|gray| processor.process(&image(gray)));
        let mut encoder = ImageEncoder::open(directory, OPTIONS, true).unwrap().unwrap();
        encoder.encode(&pixels.iter().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn image_states_are_on_the_device_from_the_encoder_to_the_prefill() {
        for model in ["vit_gpt2", "trocr", "blip", "git", "coca", "florence2", "llava", "smolvlm"] {
            let directory = directory(&format!("models/{model}"));
            let images = images(&directory);
            assert!(images.iter().all(|image| image.hidden.as_ref().unwrap().values().is_none()), "{model}");
            assert!(images.iter().all(|image| image.finite), "{model}");
            let prompt = match model {
                "florence2" => Some("<CAPTION>"),
                "llava" | "smolvlm" => Some("Describe this image."),
                _ => None,
            };
            let overrides = GenerationOverrides { prompt: prompt.map(str::to_owned), ..GenerationOverrides::default() };
            let settings = GenerationSettings::resolve(&directory, &overrides).unwrap();
            let text = TextEncoder::open(&directory, OPTIONS).unwrap();
            let text = text.as_ref().map(|text| &text.graph);
            let mut captioner = CaptionGenerator::open(&directory, settings, OPTIONS, text).unwrap().unwrap();
            let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
            let request = |(row, image)| GenerationRequest { row, key: 0, image, prompt: None, fused: None };
            let requests = images.iter().map(|image| &**image).enumerate().map(request);
            let prompted: Vec<_> = requests
                .map(|request| PromptedRequest { request, prompt: captioner.tokenize(&request, &tokenizer).unwrap() })
                .collect();
            let mut builder = PrefillBuilder { encoder: captioner.encoder.as_mut(), fused: &[] };
            let batch = builder.build(&prompted, &mut captioner.decoder).unwrap();
            let tensors: Vec<_> = batch.encoder_outputs.iter().chain(&batch.embedded).collect();
            let on_device = tensors.iter().filter(|tensor| tensor.device().is_some()).count();
            assert_eq!(on_device, tensors.len(), "{model}: tensors of states on the host");
            assert!(on_device > 0, "{model}");
        }
    }

    #[test]
    fn fused_states_stay_on_the_device() {
        let directory = directory("tiny_model");
        let images = images(&directory);
        let mut fusion = Fusion::open(&directory, OPTIONS).unwrap().unwrap();
        let images: Vec<_> = images.iter().map(|image| &**image).collect();
        let fused = fusion.fuse(&images, &[None, None], None).unwrap();
        assert!(fused.states.iter().all(|(_, states)| states.device().is_some()) && !fused.states.is_empty());
        assert_eq!(fused.embeddings.len(), 2, "embeddings are read");
    }
}
