//! A loaded model. In: rows with encoded images and texts. Out: for each row its embeddings and caption, or the error of that
//! row alone. Which graph feeds which follows from the model directory; captions are generated in [`super::generate::captioner`].

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::encode::embedding::cosine;
use super::encode::finite::is_finite;
use super::encode::fusion::{Fused, FusedRow, FusedStates, Fusion};
use super::encode::text::{TextEncoder, TextFeatures};
use super::encode::tokenizer::{TextTokenizer, Tokens};
use super::encode::vision::{ImageEncoder, ImageFeatures};
use super::generate::captioner::CaptionGenerator;
use super::generate::sequence::{Caption, GenerationRequest, Sequence};
use super::generate::settings::GenerationSettings;
use crate::model::{ModelDirectory, ModelError, Problem, Role};
use crate::onnx::{Device, GraphOptions, OnnxError};
use crate::preprocess::PixelValues;
use crate::row::error::{ErrorKind, RowError, Stage};

/// What an engine is to compute. Graphs that are not needed for it are not opened.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct EngineOptions {
    /// Where graphs run.
    pub device: Device,
    /// Threads that a graph uses; 0 leaves it to ONNX Runtime (every core).
    pub threads: usize,
    /// Whether two runs give the same bytes on a GPU, as they do on the CPU.
    pub repeatable: bool,
    /// Whether rows have images; without, only the text graph is opened.
    pub images: bool,
    /// How captions are generated; `None` generates none.
    pub generation: Option<GenerationSettings>,
    /// Whether a caption is compared with its image.
    pub caption_similarity: bool,
    /// Whether to compute fused embeddings and how well image and text match.
    pub wants_fused: bool,
}

impl Default for EngineOptions {
    /// Image and text embeddings, no captions.
    fn default() -> Self {
        let (device, generation) = (Device::Cpu, None);
        Self {
            device,
            threads: 0,
            repeatable: true,
            images: true,
            generation,
            caption_similarity: false,
            wants_fused: false,
        }
    }
}

/// One row: its encoded image, its text, or both.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowInput {
    /// From [`Engine::encode_images`].
    pub image: Option<Arc<ImageFeatures>>,
    /// A text without any token counts as none.
    pub text: Option<String>,
    /// The row's own prompt, where the job's prompt is a template.
    pub prompt: Option<String>,
    /// A hash of the row's key, on which sampling depends.
    pub key: u64,
}

/// The outputs of a model for one row. Every embedding is L2-normalised.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowOutput {
    /// Of the row's image.
    pub image_embedding: Option<Vec<f32>>,
    /// Of the row's own text.
    pub text_embedding: Option<Vec<f32>>,
    /// Of image and text together; also for a row without text, if the model allows that.
    pub fused_embedding: Option<Vec<f32>>,
    /// The cosine of image and text embedding, if the model compares them.
    pub image_text_similarity: Option<f32>,
    /// The probability that image and text match, if the model rates that.
    pub image_text_match: Option<f32>,
    /// The generated caption, if the row has an image and captions are asked for.
    pub caption: Option<Caption>,
}

/// A loaded model.
#[derive(Debug)]
pub struct Engine {
    tokenizer: Option<TextTokenizer>,
    vision: Option<ImageEncoder>,
    text: Option<TextEncoder>,
    fusion: Option<Fusion>,
    captioner: Option<CaptionGenerator>,
    compares: bool,
    caption_similarity: bool,
}

/// The index of a row with an image, and its row in the fused states, if it has one.
type EmbeddedImage = (usize, Option<usize>);

impl Engine {
    /// Opens the graphs that `options` ask for.
    ///
    /// # Errors
    /// When ONNX Runtime is missing or refuses a graph, the tokenizer cannot be read, or captions are asked for
    /// and the model has no decoder.
    pub fn load(directory: &ModelDirectory, options: EngineOptions) -> Result<Self, ModelError> {
        let EngineOptions { device, threads, repeatable, .. } = options;
        let graph = GraphOptions { device, threads, dynamic_shapes: true, repeatable };
        let EngineOptions { images, generation, caption_similarity, wants_fused, .. } = options;
        if generation.is_some() && !directory.can_caption() {
            let what = format!("captions are asked for, but there is no {}.onnx", Role::Decoder.stem());
            return Err(ModelError::one(
                directory.path(),
                Problem::new(".", what).with_hint("generation.enabled = false"),
            ));
        }
        let text = TextEncoder::open(directory, graph)?;
        let captioner = match generation.filter(|_| images) {
            Some(settings) => {
                CaptionGenerator::open(directory, settings, graph, text.as_ref().map(|text| &text.graph))?
            }
            None => None,
        };
        let attends = |role| captioner.as_ref().is_some_and(|captioner| captioner.attends_to(role));
        let fuses = images && (wants_fused || attends(Role::Fusion));
        let fusion = if fuses { Fusion::open(directory, graph)? } else { None };
        let fixed_sizes = GraphOptions { dynamic_shapes: false, ..graph };
        let returns_states = fusion.is_some() || attends(Role::Vision);
        let vision = if images { ImageEncoder::open(directory, fixed_sizes, returns_states)? } else { None };
        let tokenizer = TextTokenizer::load(directory)?;
        let compares = directory.compares_images_with_texts();
        Ok(Self { tokenizer, vision, text, fusion, captioner, compares, caption_similarity })
    }

    /// Whether a caption depends on its row's key, so that rows equal otherwise get captions of their own.
    pub fn draws_by_key(&self) -> bool {
        self.captioner.as_ref().is_some_and(|captioner| !captioner.settings.is_deterministic())
    }

    /// Takes `time` for the time where prompts hold it; without, it is that of 1 January 1970.
    pub fn set_time(&mut self, time: DateTime<Utc>) {
        if let Some(captioner) = &mut self.captioner {
            captioner.settings.prompt.set_time(time);
        }
    }

    /// Encodes `images`, those of one size together, in batches of the size that the vision graph is fastest with.
    ///
    /// # Errors
    /// When an image has another size than the graph takes, there is no vision graph, or the run fails.
    pub fn encode_images(&mut self, images: &[&PixelValues]) -> Result<Vec<Arc<ImageFeatures>>, OnnxError> {
        match &mut self.vision {
            Some(vision) => vision.encode(images),
            None => Err(OnnxError::of_run("images were given to a model without a vision graph")),
        }
    }

    /// Whether the next rows take the slots of finished captions in [`Self::run`] (continuous batching).
    pub fn supports_continuous_batching(&self) -> bool {
        self.captioner.as_ref().is_some_and(|captioner| captioner.continuous_batching)
    }

    /// The bytes of a device's memory that captions in batches of `batch_size` take, by the rows that were run so far.
    pub fn device_bytes(&self, batch_size: usize) -> usize {
        self.captioner.as_ref().map_or(0, |captioner| captioner.device_bytes(batch_size))
    }

    /// Whether the decoder runs steps of one shape, which choose tokens on the device.
    pub fn has_static_steps(&self) -> bool {
        self.captioner.as_ref().is_some_and(CaptionGenerator::has_static_steps)
    }

    /// Runs `rows`, at most `batch_size` at once (in beam search, beams and not rows are counted, but one caption at least). The
    /// results are in the order of `rows`; a row whose values are not finite or whose prompt is not usable fails alone.
    ///
    /// # Errors
    /// When a run fails as a whole.
    pub fn run(&mut self, rows: &[RowInput], batch_size: usize) -> Result<Vec<Result<RowOutput, RowError>>, OnnxError> {
        let batch_size = batch_size.max(1);
        let mut results: Vec<_> = rows.iter().map(|row| image_output(row.image.as_deref())).collect();
        let (mut requests, mut states) = (Vec::with_capacity(rows.len()), Vec::new());
        for (first, batch) in (0..).step_by(batch_size).zip(rows.chunks(batch_size)) {
            let (images, fused) = self.embed(batch, &mut results[first..first + batch.len()])?;
            let run = states.len();
            let request = move |(index, fused_row): EmbeddedImage| {
                let RowInput { image, prompt, key, .. } = &batch[index];
                let fused = fused_row.map(|row| FusedRow { run, row });
                let (row, key, prompt) = (first + index, *key, prompt.as_deref());
                Some(GenerationRequest { row, key, image: image.as_deref()?, prompt, fused })
            };
            requests.extend(images.into_iter().filter_map(request));
            states.push(fused);
        }
        self.caption(&requests, &states, batch_size, &mut results)?;
        self.compare_captions(&mut results, batch_size)?;
        Ok(results)
    }

    /// The embeddings of one batch. Returns the indexes of its rows that can be captioned, each with its row in the fused states.
    fn embed(
        &mut self,
        rows: &[RowInput],
        results: &mut [Result<RowOutput, RowError>],
    ) -> Result<(Vec<EmbeddedImage>, FusedStates), OnnxError> {
        let texts: Vec<_> = rows.iter().map(|row| row.text.as_deref()).collect();
        let (text, text_of) = self.encode_texts(&texts, results)?;
        if let Some(text) = &text {
            self.add_text_outputs(text, &text_of, results);
        }
        let images: Vec<usize> =
            (0..rows.len()).filter(|&row| rows[row].image.is_some() && results[row].is_ok()).collect();
        let (states, fused_rows) = self.fuse(rows, &images, text.as_ref(), &text_of, results)?;
        let fused_row = |row: &usize| fused_rows.iter().position(|fused| fused == row);
        Ok((images.iter().map(|row| (*row, fused_row(row))).collect(), states))
    }

    /// Captions the rows of `requests`, with at most `batch_size` slots of the decoder in use.
    fn caption(
        &mut self,
        requests: &[GenerationRequest<'_>],
        states: &[FusedStates],
        batch_size: usize,
        results: &mut [Result<RowOutput, RowError>],
    ) -> Result<(), OnnxError> {
        let (Some(captioner), Some(tokenizer)) = (&mut self.captioner, &self.tokenizer) else { return Ok(()) };
        for (row, sequence) in captioner.generate(requests, states, tokenizer, batch_size)? {
            match sequence {
                Err(error) => results[row] = Err(error),
                Ok(sequence) if !sequence.finite => results[row] = Err(not_finite(Stage::Generate, "the decoder")),
                Ok(sequence) => {
                    let caption = caption(sequence, tokenizer)?;
                    update(&mut results[row], |output| output.caption = Some(caption));
                }
            }
        }
        Ok(())
    }

    /// Fuses the images of the rows `images` with the texts of these rows. Returns the states, and the row of each of them.
    fn fuse(
        &mut self,
        rows: &[RowInput],
        images: &[usize],
        text: Option<&TextFeatures>,
        text_of: &[Option<usize>],
        results: &mut [Result<RowOutput, RowError>],
    ) -> Result<(FusedStates, Vec<usize>), OnnxError> {
        let Some(fusion) = &mut self.fusion else { return Ok((FusedStates::new(), Vec::new())) };
        let fusable = images.iter().filter(|row| !fusion.needs_text || text_of[**row].is_some());
        let (fused_rows, features): (Vec<_>, Vec<_>) =
            fusable.filter_map(|&row| Some((row, rows[row].image.as_deref()?))).unzip();
        if fused_rows.is_empty() {
            return Ok((FusedStates::new(), Vec::new()));
        }
        let texts: Vec<_> = fused_rows.iter().map(|&row| text_of[row]).collect();
        let Fused { embeddings, matches, states } = fusion.fuse(&features, &texts, text)?;
        for (&row, embedding) in fused_rows.iter().zip(embeddings) {
            if is_finite(&embedding) {
                update(&mut results[row], |output| output.fused_embedding = Some(embedding));
            } else if text_of[row].is_some() {
                results[row] = Err(not_finite(Stage::Encode, "the fusion graph"));
            }
            // a model without a null token returns NaN for a row without text, which then has no fused embedding
        }
        for (&row, &probability) in fused_rows.iter().zip(&matches).filter(|(row, _)| text_of[**row].is_some()) {
            if probability.is_finite() {
                update(&mut results[row], |output| output.image_text_match = Some(probability));
            } else {
                results[row] = Err(not_finite(Stage::Encode, "the fusion graph"));
            }
        }
        Ok((states, fused_rows))
    }

    /// Encodes the texts that have tokens; returns for each text its row among the encoded ones. A row whose text cannot be
    /// tokenized fails.
    fn encode_texts(
        &mut self,
        texts: &[Option<&str>],
        results: &mut [Result<RowOutput, RowError>],
    ) -> Result<(Option<TextFeatures>, Vec<Option<usize>>), OnnxError> {
        let mut rows = vec![None; texts.len()];
        let fuses_tokens = self.fusion.as_ref().is_some_and(|fusion| fusion.needs_text);
        let Some(tokenizer) = self.tokenizer.as_ref().filter(|_| self.text.is_some() || fuses_tokens) else {
            return Ok((None, rows));
        };
        let mut encoded: Vec<Tokens> = Vec::new();
        for ((row, text), result) in rows.iter_mut().zip(texts).zip(results) {
            match text.map(|text| tokenizer.encode(text)) {
                None | Some(Ok(None)) => {}
                Some(Ok(Some(tokens))) => {
                    *row = Some(encoded.len());
                    encoded.push(tokens);
                }
                Some(Err(error)) => {
                    let what = format!("the tokenizer failed: {error}");
                    *result = Err(RowError::new(Stage::Encode, ErrorKind::InvalidText, what));
                }
            }
        }
        if encoded.is_empty() {
            return Ok((None, rows));
        }
        let tokens = tokenizer.pad(&encoded);
        let features = match &mut self.text {
            Some(encoder) => encoder.encode(tokens)?,
            None => TextFeatures::of_tokens(tokens),
        };
        Ok((Some(features), rows))
    }

    fn add_text_outputs(
        &self,
        text: &TextFeatures,
        text_of: &[Option<usize>],
        results: &mut [Result<RowOutput, RowError>],
    ) {
        for (result, row) in results.iter_mut().zip(text_of) {
            let Some(embedding) = row.and_then(|row| text.embeddings.get(row)) else { continue };
            if !is_finite(embedding) {
                *result = Err(not_finite(Stage::Encode, "the text encoder"));
            }
            update(result, |output| {
                let image = output.image_embedding.as_ref().filter(|_| self.compares);
                output.image_text_similarity = image.map(|image| cosine(image, embedding));
                output.text_embedding = Some(embedding.clone());
            });
        }
    }

    /// Compares every caption of `results` with its image, if that is asked for and the model can do it.
    pub(super) fn compare_captions(
        &mut self,
        results: &mut [Result<RowOutput, RowError>],
        batch_size: usize,
    ) -> Result<(), OnnxError> {
        if !self.caption_similarity || !self.compares {
            return Ok(());
        }
        results.chunks_mut(batch_size.max(1)).try_for_each(|results| self.compare_batch(results))
    }

    fn compare_batch(&mut self, results: &mut [Result<RowOutput, RowError>]) -> Result<(), OnnxError> {
        let caption = |result: &Result<RowOutput, RowError>| Some(result.as_ref().ok()?.caption.as_ref()?.text.clone());
        let captions: Vec<_> = results.iter().map(caption).collect();
        let texts: Vec<_> = captions.iter().map(Option::as_deref).collect();
        let (text, text_of) = self.encode_texts(&texts, results)?;
        for (result, text_row) in results.iter_mut().zip(text_of) {
            let Some(embedding) = text_row.and_then(|row| text.as_ref()?.embeddings.get(row)) else { continue };
            if !is_finite(embedding) {
                *result = Err(not_finite(Stage::Encode, "the text encoder, given the caption,"));
            }
            update(result, |output| {
                let similarity = output.image_embedding.as_ref().map(|image| cosine(image, embedding));
                if let Some(caption) = &mut output.caption {
                    caption.similarity = similarity;
                }
            });
        }
        Ok(())
    }
}

fn image_output(image: Option<&ImageFeatures>) -> Result<RowOutput, RowError> {
    match image {
        Some(image) if !image.finite => Err(not_finite(Stage::Encode, "the image encoder")),
        Some(image) => Ok(RowOutput { image_embedding: image.embedding.clone(), ..RowOutput::default() }),
        None => Ok(RowOutput::default()),
    }
}

fn update(result: &mut Result<RowOutput, RowError>, change: impl FnOnce(&mut RowOutput)) {
    if let Ok(output) = result {
        change(output);
    }
}

fn not_finite(stage: Stage, who: &str) -> RowError {
    RowError::new(stage, ErrorKind::NonFiniteOutput, format!("{who} gave NaN or infinity for this row"))
}

fn caption(sequence: Sequence, tokenizer: &TextTokenizer) -> Result<Caption, OnnxError> {
    let text = tokenizer.decode(&sequence.tokens).map_err(|error| OnnxError::of_tokenizer(&error))?;
    let (logprob, tokens) = (sequence.logprob as f32, i32::try_from(sequence.tokens.len()).unwrap_or(i32::MAX));
    let (token_ids, finish) = (sequence.tokens, sequence.finish);
    Ok(Caption { text, logprob, token_ids, tokens, finish, similarity: None })
}
