//! Makes the input of a prefill. In: several requests with tokenized prompts, encoded images, fused states. Out: their prompts and the
//! encoder outputs; if prompts hold the image, their embeddings with the image features in them.

use super::sequence::{GenerationRequest, SequenceRequest};
use crate::engine::decoder::encoder_outputs::EncoderOutput;
use crate::engine::decoder::run::Decoder;
use crate::engine::encode::fusion::FusedStates;
use crate::engine::encode::image_states::{DeviceVectors, ImageStates};
use crate::engine::encode::vision::states_of;
use crate::engine::prompt::expand::{Prompt, TokenizedPrompt};
use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, FixedBatch, GraphOptions, OnnxError, OnnxErrorKind, Session, SessionInput, Tensor};

/// A request with its prompt as tokens.
#[derive(Debug)]
pub(crate) struct PromptedRequest<'a> {
    pub(crate) request: GenerationRequest<'a>,
    pub(crate) prompt: TokenizedPrompt,
}

/// The input of a prefill, one slot for each request.
#[derive(Debug)]
pub(crate) struct PrefillBatch {
    /// Their prompts have one length.
    pub(crate) sequences: Vec<SequenceRequest>,
    /// `[slots, ...]`, in the order of [`Decoder::encoder_outputs`].
    pub(crate) encoder_outputs: Vec<Tensor>,
    /// The embeddings of prompts that hold the image, `[slots, tokens, width]`.
    pub(crate) embedded: Option<Tensor>,
}

/// Makes the input of a prefill.
#[derive(Debug)]
pub(crate) struct PrefillBuilder<'a> {
    pub(crate) encoder: Option<&'a mut PromptEncoder>,
    /// The states of every run of the fusion graph.
    pub(crate) fused: &'a [FusedStates],
}

/// The graph that encodes prompts that hold the image, for decoders that attend to the result.
#[derive(Debug)]
pub(crate) struct PromptEncoder {
    graph: Session,
    fixed_batch: FixedBatch,
    /// Name, element type, and whether it is a mask.
    inputs: Vec<(String, DataType, bool)>,
}

impl PrefillBuilder<'_> {
    /// The input of `requests`, whose prompts have one length and whose fused states come from one run.
    pub(crate) fn build(
        &mut self,
        requests: &[PromptedRequest<'_>],
        decoder: &mut Decoder,
    ) -> Result<PrefillBatch, OnnxError> {
        let sequence = |PromptedRequest { request, prompt }: &PromptedRequest<'_>| SequenceRequest {
            row: request.row,
            key: request.key,
            prompt: prompt.decoder_tokens(),
        };
        let sequences = requests.iter().map(sequence).collect();
        if requests.iter().all(|request| request.prompt.image_tokens.is_empty()) {
            let encoder_outputs = self.encoder_outputs(requests, decoder)?;
            return Ok(PrefillBatch { sequences, encoder_outputs, embedded: None });
        }
        let dtype = match &self.encoder {
            Some(encoder) => encoder.embedded_type(),
            None => decoder.embedded_type(),
        };
        let embedded = embed(decoder, requests, dtype.unwrap_or(DataType::F32))?;
        Ok(match &mut self.encoder {
            None => PrefillBatch { sequences, encoder_outputs: Vec::new(), embedded: Some(embedded) },
            Some(encoder) => {
                let encoder_outputs = encoder.encode(embedded, decoder)?;
                PrefillBatch { sequences, encoder_outputs, embedded: None }
            }
        })
    }

    /// The image states and fused states that the decoder attends to, in the order of [`Decoder::encoder_outputs`].
    fn encoder_outputs(
        &self,
        requests: &[PromptedRequest<'_>],
        decoder: &mut Decoder,
    ) -> Result<Vec<Tensor>, OnnxError> {
        let images: Vec<_> = requests.iter().map(|request| request.request.image).collect();
        let fused: Vec<_> = requests.iter().filter_map(|request| request.request.fused).collect();
        let states = fused.first().and_then(|first| self.fused.get(first.run));
        let fused_rows: Vec<_> = fused.iter().map(|fused| fused.row).collect();
        let Decoder { encoder_outputs, row_gather, .. } = decoder;
        let mut values = Vec::with_capacity(encoder_outputs.len());
        for EncoderOutput { dtype, role, output } in encoder_outputs.iter() {
            values.push(match role {
                Role::Fusion if fused_rows.len() < requests.len() => {
                    return Err(OnnxError::of_run(
                        "the decoder attends to fused states, and a row without text has none",
                    ));
                }
                Role::Fusion => match states.into_iter().flatten().find(|(name, _)| name == output) {
                    Some((_, states)) if states.dtype() == *dtype => row_gather.gather(states, &fused_rows)?,
                    Some((_, states)) => {
                        let states = row_gather.with_floats(states, *dtype)?;
                        row_gather.gather(&states, &fused_rows)?
                    }
                    None => return Err(OnnxError::of_run(format!("the fusion graph gave no output {output:?}"))),
                },
                _ => ImageStates::stack(&states_of(&images)?, *dtype, row_gather)?,
            });
        }
        Ok(values)
    }
}

impl PromptEncoder {
    pub(crate) fn open(directory: &ModelDirectory, options: GraphOptions) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(Role::Encoder) else { return Ok(None) };
        let inputs = directory.bindings().of(Role::Encoder).iter().filter_map(|(name, producer)| {
            Some((name.clone(), file.header.input(name)?.dtype, *producer == Producer::PromptMask))
        });
        let fixed_batch = FixedBatch::new(directory.fixed_batch(Role::Encoder), options);
        Ok(Some(Self { graph: file.source.open(options)?, fixed_batch, inputs: inputs.collect() }))
    }

    /// The type of the input that takes the embeddings of prompts.
    fn embedded_type(&self) -> Option<DataType> {
        self.inputs.iter().find(|(.., is_mask)| !is_mask).map(|(_, dtype, _)| *dtype)
    }

    /// The states of `embedded`, `[rows, prompt, width]`, in the order of the decoder's encoder outputs.
    fn encode(&mut self, embedded: Tensor, decoder: &mut Decoder) -> Result<Vec<Tensor>, OnnxError> {
        let shape = embedded.shape();
        let (rows, mut embedded) = (shape.first().copied().unwrap_or(0), Some(embedded));
        let mut feeds = Vec::with_capacity(self.inputs.len());
        for (name, dtype, is_mask) in &self.inputs {
            let value = match embedded.take_if(|_| !is_mask) {
                Some(embedded) => embedded.into_float(*dtype)?,
                None => Tensor::ones(*dtype, shape.get(..2).unwrap_or_default())?,
            };
            feeds.push((name.as_str(), SessionInput::Owned(value)));
        }
        let outputs = self.fixed_batch.run(&mut self.graph, &feeds, rows, &[])?;
        let Decoder { encoder_outputs, row_gather, .. } = decoder;
        let mut take =
            |wanted: &EncoderOutput| row_gather.with_floats(outputs.get(&wanted.output, rows)?, wanted.dtype);
        encoder_outputs.iter().map(&mut take).collect()
    }
}

/// The embeddings of the prompts of `requests`, `[requests, prompt, width]` of type `dtype`, with the image features instead of the
/// embeddings of image tokens. On a device, neither of them is copied to the host.
fn embed(decoder: &mut Decoder, requests: &[PromptedRequest<'_>], dtype: DataType) -> Result<Tensor, OnnxError> {
    let Decoder { embedder, row_gather, .. } = decoder;
    let embedder = embedder.as_mut().ok_or_else(|| OnnxError::of_run("no graph embeds the tokens of the prompt"))?;
    // the embedding of an image token is overwritten, and the vocabulary may have no image token
    let known = |id: &i64| if *id == Prompt::NO_TOKEN { 0 } else { *id };
    let tokens: Vec<Vec<i64>> = requests.iter().map(|request| request.prompt.ids.iter().map(known).collect()).collect();
    let embeddings = embedder.embed_on_device(&tokens)?;
    let shape = embeddings.shape();
    let (length, width) = (shape.get(1).copied().unwrap_or(0), shape.get(2).copied().unwrap_or(0));
    let features = requests.iter().map(|request| features_of(request, width)).collect::<Result<Vec<_>, _>>()?;
    if embeddings.device().is_some() {
        let mut vectors = DeviceVectors::default();
        let first = vectors.add_tensor(&embeddings);
        let mut index: Vec<_> = (first..first + requests.len() * length).collect();
        for (row, (PromptedRequest { prompt, .. }, features)) in requests.iter().zip(features).enumerate() {
            for (&token, feature) in prompt.image_tokens.iter().zip(vectors.add(features)?) {
                index[row * length + token] = feature;
            }
        }
        return row_gather.vectors(&vectors.tensors(), index, &shape, dtype);
    }
    let mut data = embeddings.to_f32()?.into_owned();
    let rows = data.chunks_exact_mut((length * width).max(1));
    for (row, (PromptedRequest { prompt, .. }, features)) in rows.zip(requests.iter().zip(features)) {
        let features = features.values().unwrap_or_default();
        for (&index, feature) in prompt.image_tokens.iter().zip(features.chunks_exact(width)) {
            row[index * width..(index + 1) * width].copy_from_slice(feature);
        }
    }
    Tensor::from_f32(DataType::F32, &shape, data)
}

/// The image features of a request, one for each image token of its prompt.
fn features_of<'a>(
    PromptedRequest { request, prompt }: &PromptedRequest<'a>,
    width: usize,
) -> Result<&'a ImageStates, OnnxError> {
    let Some(features) = &request.image.hidden else {
        let what = "the prompt holds the image, but the image was encoded without its features";
        return Err(OnnxError::of_run(what));
    };
    let inner = features.shape();
    if inner.first() != Some(&prompt.image_tokens.len()) {
        let found = prompt.image_tokens.len();
        let what = format!("the prompt has {found} image tokens for image features of shape {inner:?}");
        return Err(OnnxError::of_run(what));
    }
    if inner.get(1) != Some(&width) {
        let what = format!("image features of shape {inner:?} do not fit among token embeddings of width {width}");
        return Err(OnnxError::new(OnnxErrorKind::Run, "vision", what));
    }
    Ok(features)
}
