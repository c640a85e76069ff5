//! Where captions begin: what a decoder attends to and which tokens it goes on from, for the images of a batch. In: encoded
//! images, fused states, the job's prompt. Out: captions, by [`super::generate`].
//!
//! Images whose prompts differ in length are written apart from each other, so that nothing is padded and a caption never
//! depends on the images beside its own.

use std::collections::BTreeMap;

use super::batch::{refused, untokenized};
use super::context::Context;
use super::decoder::Decoder;
use super::embed::SharedGraph;
use super::generate::{Sequence, Start, generate};
use super::prompt::{Expanded, Prompt};
use super::prompt_form::PromptForm;
use super::settings::GenerationSettings;
use super::tokens::TextTokenizer;
use super::vision::{ImageFeatures, stack_states};
use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, Graph, GraphOptions, Input, OnnxError, OnnxErrorKind, Value};

/// The decoder with everything that comes before its first step.
#[derive(Debug)]
pub(super) struct Writer {
    decoder: Decoder,
    encoder: Option<PromptEncoder>,
    pub(super) settings: GenerationSettings,
}

/// An image that gets a caption.
#[derive(Debug)]
pub(super) struct Uncaptioned<'a> {
    pub(super) image: &'a ImageFeatures,
    pub(super) prompt: Prompt,
    /// The hash of its row's key.
    pub(super) key: u64,
    /// Its row in the fused states.
    pub(super) fused: usize,
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
        Ok(Some(Self { decoder, encoder, settings }))
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

    /// One caption for each of `rows`; `fused` holds the fusion graph's outputs by name.
    pub(super) fn write(
        &mut self,
        rows: &[Uncaptioned<'_>],
        fused: &[(String, Value)],
        tokenizer: &TextTokenizer,
    ) -> Result<Vec<Sequence>, OnnxError> {
        let mut groups: BTreeMap<usize, Vec<(usize, Expanded)>> = BTreeMap::new();
        for (place, row) in rows.iter().enumerate() {
            let features = row.image.hidden.as_ref().and_then(|(_, shape)| shape.first().copied()).unwrap_or(0);
            let expanded =
                row.prompt.expand(tokenizer, features, row.image.grid).map_err(|error| untokenized(&error))?;
            groups.entry(expanded.ids.len()).or_default().push((place, expanded));
        }
        let mut sequences: Vec<_> = rows.iter().map(|_| None).collect();
        for group in groups.into_values() {
            let places: Vec<_> = group.iter().map(|(place, _)| *place).collect();
            let images: Vec<_> = places.iter().map(|&place| rows[place].image).collect();
            let keys: Vec<_> = places.iter().map(|&place| rows[place].key).collect();
            let prefixes = group.iter().map(|(place, expanded)| rows[*place].prompt.prefix(expanded)).collect();
            let start = if group.iter().all(|(_, expanded)| expanded.features.is_empty()) {
                let fused_rows: Vec<_> = places.iter().map(|&place| rows[place].fused).collect();
                let contexts = contexts(&self.decoder, &images, fused, &fused_rows)?;
                Start { contexts, prefixes, embedded: None }
            } else {
                let embedded = embed(&self.decoder, &group, &images)?;
                match &mut self.encoder {
                    None => Start { contexts: Vec::new(), prefixes, embedded: Some(embedded) },
                    Some(encoder) => {
                        Start { contexts: encoder.encode(embedded, &self.decoder)?, prefixes, embedded: None }
                    }
                }
            };
            let written = generate(&mut self.decoder, start, &keys, &self.settings, tokenizer)?;
            for (place, sequence) in places.into_iter().zip(written) {
                sequences[place] = Some(sequence);
            }
        }
        Ok(sequences.into_iter().flatten().collect())
    }
}

impl PromptEncoder {
    fn open(directory: &ModelDirectory, options: GraphOptions) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(Role::Encoder) else { return Ok(None) };
        let inputs = directory.bindings().of(Role::Encoder).iter().filter_map(|(name, producer)| {
            Some((name.clone(), file.header.input(name)?.dtype, *producer == Producer::PromptMask))
        });
        Ok(Some(Self { graph: Graph::open(&file.source, options)?, inputs: inputs.collect() }))
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
        let outputs = self.graph.run(feeds)?;
        let take = |context: &Context| outputs.get(&context.output, rows)?.to_float(context.dtype);
        decoder.contexts.iter().map(take).collect()
    }
}

/// The prompts of `images` as vectors, `[images, prompt, width]` f32, with the images' features in their places.
fn embed(decoder: &Decoder, prompts: &[(usize, Expanded)], images: &[&ImageFeatures]) -> Result<Value, OnnxError> {
    let embedder =
        decoder.embedder.as_ref().ok_or_else(|| refused("nothing embeds the tokens of the prompt".into()))?;
    // a place that a feature takes may hold a token that has no vector
    let known = |id: &i64| if *id == Prompt::NO_TOKEN { 0 } else { *id };
    let tokens: Vec<Vec<i64>> = prompts.iter().map(|(_, prompt)| prompt.ids.iter().map(known).collect()).collect();
    let vectors = embedder.embed(&tokens)?;
    let shape = vectors.shape();
    let (length, width) = (shape.get(1).copied().unwrap_or(0), shape.get(2).copied().unwrap_or(0));
    let mut data = vectors.to_f32()?.into_owned();
    for ((row, (_, prompt)), image) in data.chunks_exact_mut((length * width).max(1)).zip(prompts).zip(images) {
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
    decoder: &Decoder,
    images: &[&ImageFeatures],
    fused: &[(String, Value)],
    fused_rows: &[usize],
) -> Result<Vec<Value>, OnnxError> {
    let mut values = Vec::with_capacity(decoder.contexts.len());
    for context in &decoder.contexts {
        values.push(match context.role {
            Role::Fusion => match fused.iter().find(|(name, _)| *name == context.output) {
                Some((_, states)) => states.gather(fused_rows)?.into_float(context.dtype)?,
                None => return Err(refused(format!("the fusion graph gave no output {:?}", context.output))),
            },
            _ => stack_states(images, context.dtype)?,
        });
    }
    Ok(values)
}
