//! One batch of rows through the whole model. In: rows with encoded images and texts. Out: for each row its embeddings
//! and caption, or the error of that row alone. Which graph feeds which is the model directory's business; how captions
//! begin is [`super::begin`]'s.

use std::sync::Arc;

use super::begin::{Uncaptioned, Writer};
use super::embedding::cosine;
use super::finite::is_finite;
use super::fuse::{Fused, FusedStates, Fusion};
use super::generate::{Caption, Sequence};
use super::settings::GenerationSettings;
use super::text::{TextEncoder, TextFeatures};
use super::tokens::{TextTokenizer, Tokens};
use super::vision::{ImageEncoder, ImageFeatures};
use crate::model::{ModelDirectory, ModelError, Problem, Role};
use crate::onnx::{Device, GraphOptions, OnnxError, OnnxErrorKind};
use crate::preprocess::PixelValues;
use crate::row_error::{ErrorKind, RowError, Stage};

/// What an engine is asked for. Graphs that nothing asked for are not opened.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Where graphs run.
    pub device: Device,
    /// Threads that a graph uses; 0 leaves it to ONNX Runtime (every core).
    pub threads: usize,
    /// Whether rows have images; without, only the text graph is opened.
    pub images: bool,
    /// How captions are written; `None` writes none.
    pub generation: Option<GenerationSettings>,
    /// Whether a caption is compared with its image.
    pub caption_similarity: bool,
    /// Whether fused embeddings, or how well image and text match, are wanted.
    pub wants_fused: bool,
}

impl Default for EngineOptions {
    /// Image and text embeddings, no captions.
    fn default() -> Self {
        let (device, generation) = (Device::Cpu, None);
        Self { device, threads: 0, images: true, generation, caption_similarity: false, wants_fused: false }
    }
}

/// One row: its encoded image, its text, or both.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowInput {
    /// From [`Engine::encode_images`].
    pub image: Option<Arc<ImageFeatures>>,
    /// A text without any token counts as none.
    pub text: Option<String>,
    /// What its caption goes on from, where the job's prompt is a template.
    pub prompt: Option<String>,
    /// A hash of the row's key, on which the draws of sampling depend.
    pub key: u64,
}

/// What the model says about one row. Every embedding is L2-normalised.
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
    /// The probability that image and text match, if the model says so.
    pub image_text_match: Option<f32>,
    /// The generated caption, if the row has an image and captions are written.
    pub caption: Option<Caption>,
}

/// A loaded model.
#[derive(Debug)]
pub struct Engine {
    tokenizer: Option<TextTokenizer>,
    vision: Option<ImageEncoder>,
    text: Option<TextEncoder>,
    fusion: Option<Fusion>,
    writer: Option<Writer>,
    compares: bool,
    caption_similarity: bool,
}

impl Engine {
    /// Opens the graphs that `options` ask for.
    ///
    /// # Errors
    /// When ONNX Runtime is missing or refuses a graph, the tokenizer cannot be read, or captions are asked of a model
    /// that has no decoder.
    pub fn load(directory: &ModelDirectory, options: EngineOptions) -> Result<Self, ModelError> {
        let graph = GraphOptions { device: options.device, threads: options.threads, varies: true };
        let EngineOptions { images, generation, caption_similarity, wants_fused, .. } = options;
        if generation.is_some() && !directory.can_caption() {
            let what = format!("captions are asked for, but there is no {}.onnx", Role::Decoder.stem());
            return Err(ModelError::one(
                directory.path(),
                Problem::new(".", what).with_hint("generation.enabled = false"),
            ));
        }
        let text = TextEncoder::open(directory, graph)?;
        let writer = match generation.filter(|_| images) {
            Some(settings) => Writer::open(directory, settings, graph, text.as_ref().map(|text| &text.graph))?,
            None => None,
        };
        let attends = |role| writer.as_ref().is_some_and(|writer| writer.attends_to(role));
        let fuses = images && (wants_fused || attends(Role::Fusion));
        let fusion = if fuses { Fusion::open(directory, graph)? } else { None };
        let pictures = GraphOptions { varies: false, ..graph };
        let keeps_states = fusion.is_some() || attends(Role::Vision);
        let vision = if images { ImageEncoder::open(directory, pictures, keeps_states)? } else { None };
        let tokenizer = TextTokenizer::load(directory)?;
        let compares = directory.compares_images_with_texts();
        Ok(Self { tokenizer, vision, text, fusion, writer, compares, caption_similarity })
    }

    /// Whether a caption depends on its row's key, so that rows equal otherwise get captions of their own.
    pub fn draws_by_key(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| !writer.settings.is_deterministic())
    }

    /// Encodes `images`, those of one size together, as many in a run of the vision graph as it is fast with.
    ///
    /// # Errors
    /// When an image has another size than the graph takes, there is no vision graph, or the run fails.
    pub fn encode_images(&mut self, images: &[&PixelValues]) -> Result<Vec<Arc<ImageFeatures>>, OnnxError> {
        match &mut self.vision {
            Some(vision) => vision.encode(images),
            None => Err(refused("images were given to a model without a vision graph".into())),
        }
    }

    /// Whether captions of [`Self::run`] that are finished make room for the next rows.
    pub fn refills(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::refills)
    }

    /// Runs `rows`, at most `batch_size` at once, beams counted, but one caption at least. The results are in the order of
    /// `rows`; a row whose values are not finite fails alone.
    ///
    /// # Errors
    /// When a run fails as a whole.
    pub fn run(&mut self, rows: &[RowInput], batch_size: usize) -> Result<Vec<Result<RowOutput, RowError>>, OnnxError> {
        let batch_size = batch_size.max(1);
        let mut results: Vec<_> = rows.iter().map(|row| image_output(row.image.as_deref())).collect();
        let (mut uncaptioned, mut states) = (Vec::new(), Vec::new());
        for (first, batch) in (0..).step_by(batch_size).zip(rows.chunks(batch_size)) {
            let (images, fused) = self.embed(batch, &mut results[first..first + batch.len()])?;
            let run = states.len();
            uncaptioned.extend(images.into_iter().enumerate().map(|(place, row)| (first + row, (run, place))));
            states.push(fused);
        }
        self.caption(rows, &uncaptioned, &states, batch_size, &mut results)?;
        self.compare_captions(&mut results, batch_size)?;
        Ok(results)
    }

    /// The vectors of one batch. Returns which rows have images that can be captioned, and their fused states.
    fn embed(
        &mut self,
        rows: &[RowInput],
        results: &mut [Result<RowOutput, RowError>],
    ) -> Result<(Vec<usize>, FusedStates), OnnxError> {
        let texts: Vec<_> = rows.iter().map(|row| row.text.as_deref()).collect();
        let (text, text_of) = self.encode_texts(&texts, results)?;
        if let Some(text) = &text {
            self.place_texts(text, &text_of, results);
        }
        let images: Vec<(usize, &ImageFeatures)> = rows
            .iter()
            .enumerate()
            .filter(|(row, _)| results[*row].is_ok())
            .filter_map(|(row, input)| Some((row, input.image.as_deref()?)))
            .collect();
        let fused = self.fuse(&images, text.as_ref(), &text_of, results)?;
        Ok((images.into_iter().map(|(row, _)| row).collect(), fused.states))
    }

    /// Captions the rows of `uncaptioned`, which says where each has its fused states, at most `slots` at once.
    fn caption(
        &mut self,
        rows: &[RowInput],
        uncaptioned: &[(usize, (usize, usize))],
        states: &[FusedStates],
        slots: usize,
        results: &mut [Result<RowOutput, RowError>],
    ) -> Result<(), OnnxError> {
        let (Some(writer), Some(tokenizer)) = (&mut self.writer, &self.tokenizer) else { return Ok(()) };
        let (mut places, mut begun) = (Vec::with_capacity(uncaptioned.len()), Vec::with_capacity(uncaptioned.len()));
        for &(row, fused) in uncaptioned {
            let Some(image) = rows[row].image.as_deref() else { continue };
            match writer.prompt(rows[row].prompt.as_deref(), tokenizer) {
                Ok(prompt) => {
                    places.push(row);
                    begun.push(Uncaptioned { image, prompt, key: rows[row].key, fused });
                }
                Err(why) => results[row] = Err(RowError::new(Stage::Generate, ErrorKind::InvalidPrompt, why)),
            }
        }
        let sequences = writer.write(&begun, states, tokenizer, slots)?;
        self.place_captions(&places, sequences, results)
    }

    /// Fuses `images` with the texts of their rows.
    fn fuse(
        &mut self,
        images: &[(usize, &ImageFeatures)],
        text: Option<&TextFeatures>,
        text_of: &[Option<usize>],
        results: &mut [Result<RowOutput, RowError>],
    ) -> Result<Fused, OnnxError> {
        let Some(fusion) = &mut self.fusion else { return Ok(Fused::default()) };
        let fusable = images.iter().filter(|(row, _)| !fusion.needs_text || text_of[*row].is_some());
        let (rows, features): (Vec<_>, Vec<_>) = fusable.copied().unzip();
        if rows.is_empty() {
            return Ok(Fused::default());
        }
        let texts: Vec<_> = rows.iter().map(|&row| text_of[row]).collect();
        let mut fused = fusion.fuse(&features, &texts, text)?;
        for (&row, embedding) in rows.iter().zip(std::mem::take(&mut fused.embeddings)) {
            if is_finite(&embedding) {
                update(&mut results[row], |output| output.fused_embedding = Some(embedding));
            } else if text_of[row].is_some() {
                results[row] = Err(not_finite(Stage::Encode, "the fusion graph"));
            }
            // without text, a model that has no null token gives no fused embedding
        }
        for (&row, &probability) in rows.iter().zip(&fused.matches).filter(|(row, _)| text_of[**row].is_some()) {
            if probability.is_finite() {
                update(&mut results[row], |output| output.image_text_match = Some(probability));
            } else {
                results[row] = Err(not_finite(Stage::Encode, "the fusion graph"));
            }
        }
        Ok(fused)
    }

    /// Encodes the texts that have tokens; says for each text its row among the encoded ones. A row whose text the tokenizer
    /// does not take fails.
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

    fn place_texts(&self, text: &TextFeatures, text_of: &[Option<usize>], results: &mut [Result<RowOutput, RowError>]) {
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

    fn place_captions(
        &self,
        rows: &[usize],
        sequences: Vec<Sequence>,
        results: &mut [Result<RowOutput, RowError>],
    ) -> Result<(), OnnxError> {
        let Some(tokenizer) = &self.tokenizer else { return Ok(()) };
        let mut captions = Vec::with_capacity(rows.len());
        for (&row, sequence) in rows.iter().zip(sequences) {
            if !sequence.finite {
                results[row] = Err(not_finite(Stage::Generate, "the decoder"));
            }
            let text = tokenizer.decode(&sequence.tokens).map_err(|error| untokenized(&error))?;
            let (logprob, tokens) = (sequence.logprob as f32, i32::try_from(sequence.tokens.len()).unwrap_or(i32::MAX));
            let (token_ids, finish) = (sequence.tokens, sequence.finish);
            captions.push(Caption { text, logprob, token_ids, tokens, finish, similarity: None });
        }
        for (&row, caption) in rows.iter().zip(captions) {
            update(&mut results[row], |output| output.caption = Some(caption));
        }
        Ok(())
    }

    /// Compares every caption of `results` with its image, if that was asked for and the model can.
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
            let Some(embedding) = text_row.and_then(|place| text.as_ref()?.embeddings.get(place)) else { continue };
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

pub(super) fn untokenized(error: &tokenizers::Error) -> OnnxError {
    refused(format!("the tokenizer failed: {error}"))
}

pub(super) fn refused(what: String) -> OnnxError {
    OnnxError { kind: OnnxErrorKind::Run, graph: None, what, hint: None }
}
