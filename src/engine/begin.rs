//! Where captions begin: what a decoder attends to and which tokens it goes on from, for the images of a batch. In: encoded
//! images, fused states, the job's prompt. Out: captions, by [`super::generate`].
//!
//! Images whose prompts differ in length begin apart from each other, so that no prompt is padded.

use std::collections::VecDeque;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::batch::{refused, untokenized};
use super::context::Context;
use super::decoder::Decoder;
use super::embed::SharedGraph;
use super::fuse::FusedStates;
use super::generate::{Begun, Sequence, Start, Writing, generate};
use super::prompt::{Expanded, Prompt};
use super::prompt_form::PromptForm;
use super::settings::{GenerationSettings, Strategy};
use super::tokens::TextTokenizer;
use super::vision::{ImageFeatures, stack_states};
use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, Graph, GraphOptions, Input, OnnxError, OnnxErrorKind, Value};

/// The decoder with everything that comes before its first step.
#[derive(Debug)]
pub(super) struct Writer {
    decoder: Decoder,
    encoder: Option<PromptEncoder>,
    /// Choose tokens while no graph runs.
    workers: ThreadPool,
    pub(super) settings: GenerationSettings,
}

/// An image that gets a caption.
#[derive(Debug)]
pub(super) struct Uncaptioned<'a> {
    pub(super) image: &'a ImageFeatures,
    pub(super) prompt: Prompt,
    /// The hash of its row's key.
    pub(super) key: u64,
    /// Which run of the fusion graph gave its fused states, and its row in these.
    pub(super) fused: (usize, usize),
}

/// The graph that reads the prompt with the image in it.
#[derive(Debug)]
struct PromptEncoder {
    graph: Graph,
    /// Name, element type, and whether it is a mask.
    inputs: Vec<(String, DataType, bool)>,
}

impl Writer {
    /// `None` without a decoder; `text` is the opened text graph.
    pub(super) fn open(
        directory: &ModelDirectory,
        settings: GenerationSettings,
        options: GraphOptions,
        text: Option<&SharedGraph>,
    ) -> Result<Option<Self>, OnnxError> {
        let Some(decoder) = Decoder::open(directory, options, text)? else { return Ok(None) };
        let encoder = PromptEncoder::open(directory, options)?;
        let workers = ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|index| format!("choose-{index}"))
            .build()
            .map_err(|error| refused(format!("the threads that choose tokens did not start: {error}")))?;
        Ok(Some(Self { decoder, encoder, workers, settings }))
    }

    /// Whether captions depend on what the graph of `role` gives.
    pub(super) fn attends_to(&self, role: Role) -> bool {
        let holds_image = match &self.settings.prompt {
            Prompt::Tokens(_) | Prompt::Rows { form: PromptForm::Plain { .. }, .. } => false,
            Prompt::Image(_) | Prompt::Rows { .. } => true,
        };
        (role == Role::Vision && holds_image) || self.decoder.contexts.iter().any(|context| context.role == role)
    }

    /// The prompt of a row; an error says what is wrong with the row's own.
    pub(super) fn prompt(&self, own: Option<&str>, tokenizer: &TextTokenizer) -> Result<Prompt, String> {
        match &self.settings.prompt {
            Prompt::Rows { form, .. } => form.fill(tokenizer, own.unwrap_or_default()),
            prompt => Ok(prompt.clone()),
        }
    }

    /// Whether slots of captions that are finished are taken by the next rows.
    pub(super) fn refills(&self) -> bool {
        self.decoder.joins
    }

    /// One caption for each of `rows`, `batch_size` rows at once in the decoder, several for a caption that is searched for with
    /// beams; `fused` holds the fusion graph's outputs by name for each run of it.
    pub(super) fn write(
        &mut self,
        rows: &[Uncaptioned<'_>],
        fused: &[FusedStates],
        tokenizer: &TextTokenizer,
        batch_size: usize,
    ) -> Result<Vec<Sequence>, OnnxError> {
        let mut expanded = Vec::with_capacity(rows.len());
        for row in rows {
            let features = row.image.hidden.as_ref().and_then(|(_, shape)| shape.first().copied()).unwrap_or(0);
            expanded.push(row.prompt.expand(tokenizer, features, row.image.grid).map_err(|error| untokenized(&error))?);
        }
        // what begins at once has prompts of one length and, if the decoder attends to such, fused states of one run
        let by_run = self.attends_to(Role::Fusion);
        let kind = |row: usize| (expanded[row].ids.len(), if by_run { rows[row].fused.0 } else { 0 });
        let mut waiting: Vec<usize> = (0..rows.len()).collect();
        waiting.sort_by_key(|&row| kind(row));
        let mut waiting = VecDeque::from(waiting);
        let Self { decoder, encoder, workers, settings } = self;
        let slots = match settings.strategy {
            Strategy::Beam(beams) => (batch_size / beams.num_beams.max(1)).max(1),
            Strategy::Greedy | Strategy::Sample(_) => batch_size,
        };
        let more = |decoder: &mut Decoder, most: usize| {
            let Some(&first) = waiting.front() else { return Ok(None) };
            let alike = waiting.iter().take(most).take_while(|&&row| kind(row) == kind(first)).count();
            let next: Vec<_> = waiting.drain(..alike).map(|row| (row, &rows[row], &expanded[row])).collect();
            start(decoder, encoder.as_mut(), &next, fused).map(Some)
        };
        let mut captions = generate(decoder, slots, more, Writing { settings, tokenizer, workers })?;
        captions.sort_by_key(|(row, _)| *row);
        Ok(captions.into_iter().map(|(_, sequence)| sequence).collect())
    }
}

/// What the captions of `rows` begin with; their prompts are of one length, their fused states of one run.
fn start(
    decoder: &mut Decoder,
    encoder: Option<&mut PromptEncoder>,
    rows: &[(usize, &Uncaptioned<'_>, &Expanded)],
    fused: &[FusedStates],
) -> Result<Start, OnnxError> {
    let images: Vec<_> = rows.iter().map(|(_, row, _)| row.image).collect();
    let begun = |&(row, uncaptioned, expanded): &(usize, &Uncaptioned<'_>, &Expanded)| Begun {
        row,
        key: uncaptioned.key,
        prefix: uncaptioned.prompt.prefix(expanded),
    };
    let begun = rows.iter().map(begun).collect();
    if rows.iter().all(|(.., expanded)| expanded.features.is_empty()) {
        let places: Vec<_> = rows.iter().map(|(_, row, _)| row.fused.1).collect();
        let fused = rows.first().and_then(|(_, row, _)| fused.get(row.fused.0)).map_or(&[][..], Vec::as_slice);
        return Ok(Start { rows: begun, contexts: contexts(decoder, &images, fused, &places)?, embedded: None });
    }
    let prompts: Vec<_> = rows.iter().map(|(.., expanded)| *expanded).collect();
    let embedded = embed(decoder, &prompts, &images)?;
    Ok(match encoder {
        None => Start { rows: begun, contexts: Vec::new(), embedded: Some(embedded) },
        Some(encoder) => Start { rows: begun, contexts: encoder.encode(embedded, decoder)?, embedded: None },
    })
}

impl PromptEncoder {
    fn open(directory: &ModelDirectory, options: GraphOptions) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(Role::Encoder) else { return Ok(None) };
        let inputs = directory.bindings().of(Role::Encoder).iter().filter_map(|(name, producer)| {
            Some((name.clone(), file.header.input(name)?.dtype, *producer == Producer::PromptMask))
        });
        Ok(Some(Self { graph: file.source.open(options)?, inputs: inputs.collect() }))
    }

    /// The states of `embedded`, `[rows, prompt, width]`, in the order of the decoder's contexts.
    fn encode(&mut self, embedded: Value, decoder: &Decoder) -> Result<Vec<Value>, OnnxError> {
        let shape = embedded.shape();
        let (rows, mut embedded) = (shape.first().copied().unwrap_or(0), Some(embedded));
        let mut feeds = Vec::with_capacity(self.inputs.len());
        for (name, dtype, is_mask) in &self.inputs {
            let value = match embedded.take_if(|_| !is_mask) {
                Some(embedded) => embedded.into_float(*dtype)?,
                None => Value::ones(*dtype, shape.get(..2).unwrap_or_default())?,
            };
            feeds.push((name.as_str(), Input::Owned(value)));
        }
        let outputs = self.graph.run(&feeds)?;
        let take = |context: &Context| outputs.get(&context.output, rows)?.to_float(context.dtype);
        decoder.contexts.iter().map(take).collect()
    }
}

/// The prompts of `images` as vectors, `[images, prompt, width]` f32, with the images' features in their places.
fn embed(decoder: &Decoder, prompts: &[&Expanded], images: &[&ImageFeatures]) -> Result<Value, OnnxError> {
    let embedder =
        decoder.embedder.as_ref().ok_or_else(|| refused("nothing embeds the tokens of the prompt".into()))?;
    // a place that a feature takes may hold a token that has no vector
    let known = |id: &i64| if *id == Prompt::NO_TOKEN { 0 } else { *id };
    let tokens: Vec<Vec<i64>> = prompts.iter().map(|prompt| prompt.ids.iter().map(known).collect()).collect();
    let vectors = embedder.embed(&tokens, None)?;
    let shape = vectors.shape();
    let (length, width) = (shape.get(1).copied().unwrap_or(0), shape.get(2).copied().unwrap_or(0));
    let mut data = vectors.to_f32()?.into_owned();
    for ((row, prompt), image) in data.chunks_exact_mut((length * width).max(1)).zip(prompts).zip(images) {
        let Some((features, inner)) = &image.hidden else { continue };
        if inner.first() != Some(&prompt.features.len()) {
            let found = prompt.features.len();
            return Err(refused(format!("the prompt has {found} places for image features of shape {inner:?}")));
        }
        if inner.get(1) != Some(&width) {
            let what = format!("image features of shape {inner:?} do not fit among token vectors of width {width}");
            return Err(OnnxError::new(OnnxErrorKind::Run, "vision", what));
        }
        for (&place, feature) in prompt.features.iter().zip(features.chunks_exact(width)) {
            row[place * width..(place + 1) * width].copy_from_slice(feature);
        }
    }
    Value::from_f32(DataType::F32, &shape, data)
}

/// What the decoder attends to, in the order of its inputs; `fused_rows` are those of `images` in `fused`.
fn contexts(
    decoder: &mut Decoder,
    images: &[&ImageFeatures],
    fused: &[(String, Value)],
    fused_rows: &[usize],
) -> Result<Vec<Value>, OnnxError> {
    let Decoder { contexts, mover, .. } = decoder;
    let mut values = Vec::with_capacity(contexts.len());
    for context in contexts {
        values.push(match context.role {
            Role::Fusion => match fused.iter().find(|(name, _)| *name == context.output) {
                Some((_, states)) if states.dtype() == context.dtype => mover.gather(states, fused_rows)?,
                Some((_, states)) => mover.gather(&states.to_float(context.dtype)?, fused_rows)?,
                None => return Err(refused(format!("the fusion graph gave no output {:?}", context.output))),
            },
            _ => stack_states(images, context.dtype)?,
        });
    }
    Ok(values)
}
