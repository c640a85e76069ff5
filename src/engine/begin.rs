//! Where captions begin: what a decoder attends to and which tokens it goes on from, for the images of a batch. In: encoded
//! images, fused states, the job's prompt. Out: captions, by [`super::generate`].
//!
//! Images whose prompts differ in length are written apart from each other, so that nothing is padded and a caption never
//! depends on the images beside its own.

use std::collections::BTreeMap;

use super::batch::{refused, untokenized};
use super::decoder::Decoder;
use super::embed::SharedGraph;
use super::generate::{Sequence, Start, generate};
use super::prompt::{Expanded, ImagePrompt, Prompt};
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
        let holds_image = matches!(self.settings.prompt, Prompt::Image(_));
        (role == Role::Vision && holds_image) || self.decoder.contexts.iter().any(|context| context.role == role)
    }

    /// One caption for each image; `fused` holds the fusion graph's outputs by name, and `keys` the hashes of the rows' keys.
    pub(super) fn write(
        &mut self,
        images: &[&ImageFeatures],
        fused: Vec<(String, Value)>,
        keys: &[u64],
        tokenizer: &TextTokenizer,
    ) -> Result<Vec<Sequence>, OnnxError> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        match &self.settings.prompt {
            Prompt::Tokens(prefix) => {
                let prefixes = vec![prefix.clone(); images.len()];
                let contexts = contexts(&self.decoder, images, fused)?;
                let start = Start { contexts, prefixes, embedded: None };
                generate(&mut self.decoder, start, keys, &self.settings, tokenizer)
            }
            Prompt::Image(prompt) => {
                let prompt = prompt.clone();
                self.write_around(&prompt, images, keys, tokenizer)
            }
        }
    }

    fn write_around(
        &mut self,
        prompt: &ImagePrompt,
        images: &[&ImageFeatures],
        keys: &[u64],
        tokenizer: &TextTokenizer,
    ) -> Result<Vec<Sequence>, OnnxError> {
        let mut groups: BTreeMap<usize, Vec<(usize, Expanded)>> = BTreeMap::new();
        for (place, image) in images.iter().enumerate() {
            let features = image.hidden.as_ref().and_then(|(_, shape)| shape.first().copied()).unwrap_or(0);
            let expanded = prompt.expand(tokenizer, features, image.grid).map_err(|error| untokenized(&error))?;
            if expanded.features.len() != features {
                let found = expanded.features.len();
                return Err(refused(format!(
                    "the prompt has room for {found} image features, and the image has {features}"
                )));
            }
            groups.entry(expanded.ids.len()).or_default().push((place, expanded));
        }
        let mut sequences: Vec<_> = images.iter().map(|_| None).collect();
        for group in groups.into_values() {
            let group_images: Vec<_> = group.iter().map(|(place, _)| images[*place]).collect();
            let keys: Vec<_> = group.iter().map(|(place, _)| keys[*place]).collect();
            let prefixes = group.iter().map(|(_, expanded)| prompt.prefix(expanded)).collect();
            let embedded = embed(&self.decoder, &group, &group_images)?;
            let start = match &mut self.encoder {
                None => Start { contexts: Vec::new(), prefixes, embedded: Some(embedded) },
                Some(encoder) => {
                    let states = encoder.encode(embedded, &self.decoder)?;
                    Start { contexts: states, prefixes, embedded: None }
                }
            };
            let written = generate(&mut self.decoder, start, &keys, &self.settings, tokenizer)?;
            for ((place, _), sequence) in group.iter().zip(written) {
                sequences[*place] = Some(sequence);
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
        let take = |context: &super::step::Context| outputs.get(&context.output, rows)?.to_float(context.dtype);
        decoder.contexts.iter().map(take).collect()
    }
}

/// The prompts of `images` as vectors, `[images, prompt, width]` f32, with the images' features in their places.
fn embed(decoder: &Decoder, prompts: &[(usize, Expanded)], images: &[&ImageFeatures]) -> Result<Value, OnnxError> {
    let embedder =
        decoder.embedder.as_ref().ok_or_else(|| refused("nothing embeds the tokens of the prompt".into()))?;
    // a place that a feature takes may hold a token that has no vector
    let known = |id: &i64| if *id == ImagePrompt::NO_TOKEN { 0 } else { *id };
    let tokens: Vec<Vec<i64>> = prompts.iter().map(|(_, prompt)| prompt.ids.iter().map(known).collect()).collect();
    let vectors = embedder.embed(&tokens)?;
    let shape = vectors.shape();
    let (length, width) = (shape.get(1).copied().unwrap_or(0), shape.get(2).copied().unwrap_or(0));
    let mut data = vectors.to_f32()?.into_owned();
    for ((row, (_, prompt)), image) in data.chunks_exact_mut((length * width).max(1)).zip(prompts).zip(images) {
        let Some((features, inner)) = &image.hidden else { continue };
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

/// What the decoder attends to, in the order of its inputs.
fn contexts(
    decoder: &Decoder,
    images: &[&ImageFeatures],
    mut fused: Vec<(String, Value)>,
) -> Result<Vec<Value>, OnnxError> {
    let mut values = Vec::with_capacity(decoder.contexts.len());
    for context in &decoder.contexts {
        values.push(match context.role {
            Role::Fusion => match fused.iter().position(|(name, _)| *name == context.output) {
                Some(place) => fused.swap_remove(place).1.into_float(context.dtype)?,
                None => return Err(refused(format!("the fusion graph gave no output {:?}", context.output))),
            },
            _ => stack_states(images, context.dtype)?,
        });
    }
    Ok(values)
}
