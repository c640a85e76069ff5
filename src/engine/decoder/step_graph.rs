//! One decoder graph: the one for the prefill or the one for later steps. In: the tokens of a step, the cache, and the other
//! inputs that the model directory's bindings name. Out: its outputs. What goes from step to step is decided in [`super::run`];
//! [`super::encoder_outputs`] explains the inputs that are the same in every step.

use super::encoder_outputs::{EncoderOutput, InvariantInput, Precomputed, StepInvariant};
use super::probe_inputs::probe_inputs;
use super::step_ports::step_ports;
use super::token_embedder::TokenEmbedder;
use crate::model::{GraphFile, ModelDirectory, Producer, Role};
use crate::onnx::{
    DataType, DecoderGraph, FixedBatch, GraphOptions, NotStatic, OnnxError, OnnxErrorKind, Outputs, Session,
    SessionInput, StaticGraph, Tensor,
};

/// A graph that takes tokens and returns logits.
#[derive(Debug)]
pub(crate) struct StepGraph {
    graph: Session,
    fixed_batch: FixedBatch,
    inputs: Vec<StepInput>,
    /// Whether its input of tokens has room for one.
    takes_single_tokens: bool,
    /// The part of the graph that is run once for each batch, because it depends on encoder outputs only.
    precomputed: Option<Precomputed>,
    /// The index of the first precomputed value in [`DecoderState::encoder_outputs`](super::cache::DecoderState).
    first_precomputed: usize,
    /// The same as a step of one shape, for a device with memory of its own, or why there is none.
    pub(crate) static_step: Option<Result<StaticGraph, NotStatic>>,
}

#[derive(Debug, Clone)]
struct StepInput {
    name: String,
    dtype: DataType,
    feed: Feed,
    /// How many axes it has.
    rank: usize,
}

/// What feeds an input other than the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feed {
    /// `input_ids`
    Tokens,
    /// `inputs_embeds`
    Embedded,
    /// `use_cache_branch`
    HasPast,
    /// `num_logits_to_keep`
    LogitsToKeep,
    /// `cache_position`
    CachePosition,
    /// `position_ids`
    Positions,
    /// `attention_mask` over all tokens so far; zeros for the padding of shorter sequences.
    Mask,
    /// The same in every step.
    Invariant(StepInvariant),
}

/// The inputs of one run.
#[derive(Debug)]
pub(crate) struct StepInputs<'a> {
    /// The same number for every slot.
    pub(crate) tokens: &'a [Vec<i64>],
    /// How many tokens of each slot are in the cache.
    pub(crate) past: &'a [usize],
    /// The embeddings of the tokens, `[slots, tokens, width]`, if they are known already.
    pub(crate) embedded: Option<Tensor>,
    /// As in [`DecoderState::encoder_outputs`](super::cache::DecoderState).
    pub(crate) encoder_outputs: &'a [Tensor],
    /// Cache entries by input name.
    pub(crate) cache: Vec<(&'a str, SessionInput<'a>)>,
    /// Whether the logits stay in the memory of the graph's device.
    pub(crate) logits_stay: bool,
}

impl StepGraph {
    /// The output that may be read on the host; the others are cache entries and stay on the graph's device.
    pub(crate) const LOGITS: &str = "logits";

    /// Opens the graph of `role`, if there is one; adds the encoder outputs that it attends to. The decoder's graph is opened
    /// last: the indexes of its precomputed values follow those of all encoder outputs.
    pub(crate) fn open(
        directory: &ModelDirectory,
        role: Role,
        options: GraphOptions,
        encoder_outputs: &mut Vec<EncoderOutput>,
    ) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(role) else { return Ok(None) };
        let mut inputs = Vec::new();
        for (input, producer) in directory.bindings().of(role) {
            let Some(port) = file.header.input(input) else { continue };
            let feed = match producer {
                Producer::Step => Feed::Tokens,
                Producer::StepOutput(..) => Feed::Embedded,
                Producer::HasPast => Feed::HasPast,
                Producer::LogitsToKeep => Feed::LogitsToKeep,
                Producer::CachePosition => Feed::CachePosition,
                Producer::Positions => Feed::Positions,
                Producer::StepMask => Feed::Mask,
                other => match StepInvariant::of(other, port.dtype, encoder_outputs) {
                    Some(invariant) => Feed::Invariant(invariant),
                    None => continue,
                },
            };
            inputs.push(StepInput { name: input.clone(), dtype: port.dtype, feed, rank: port.rank().unwrap_or(1) });
        }
        if !inputs.iter().any(|input| matches!(input.feed, Feed::Tokens | Feed::Embedded)) {
            return Err(OnnxError::new(OnnxErrorKind::Load, &file.file, "has no input for the tokens of a step"));
        }
        let is_single = |(input, producer): &(String, Producer)| {
            matches!(producer, Producer::Step | Producer::StepOutput(..))
                && file.header.input(input).and_then(|port| port.fixed(1)) == Some(1)
        };
        let takes_single_tokens = directory.bindings().of(role).iter().any(is_single);
        let fixed_batch = || FixedBatch::new(directory.fixed_batch(role), options);
        if role != Role::Decoder {
            return Ok(Some(Self {
                fixed_batch: fixed_batch(),
                takes_single_tokens,
                graph: file.source.open(options)?,
                inputs,
                precomputed: None,
                first_precomputed: 0,
                static_step: None,
            }));
        }
        let DecoderGraph { hoisted, step, static_step, .. } = open_decoder(directory, file, options)?;
        let invariant = |input: &StepInput| match input.feed {
            Feed::Invariant(source) => Some(InvariantInput { name: input.name.clone(), dtype: input.dtype, source }),
            _ => None,
        };
        let invariant = inputs.iter().filter_map(invariant).collect();
        let precomputed =
            hoisted.map(|hoisted| Precomputed::new(hoisted.session, fixed_batch(), invariant, hoisted.outputs));
        inputs.retain(|input| step.inputs().iter().any(|port| port.name == input.name));
        let first_precomputed = encoder_outputs.len();
        let names = precomputed.iter().flat_map(|precomputed| &precomputed.outputs);
        for (name, index) in names.zip(first_precomputed..) {
            // the static step may take more of them
            if !step.inputs().iter().any(|port| port.name == *name) {
                continue;
            }
            let feed = Feed::Invariant(StepInvariant::Tensor(index));
            inputs.push(StepInput { name: name.clone(), dtype: DataType::F32, feed, rank: 0 });
        }
        let fixed_batch = fixed_batch();
        Ok(Some(Self {
            graph: step,
            fixed_batch,
            inputs,
            takes_single_tokens,
            precomputed,
            first_precomputed,
            static_step,
        }))
    }

    /// Computes what depends on `encoder_outputs`, `[rows, ...]`, only, and appends it to them.
    pub(crate) fn precompute(&mut self, encoder_outputs: &mut Vec<Tensor>, rows: usize) -> Result<(), OnnxError> {
        if let Some(precomputed) = &mut self.precomputed {
            let mut outputs = precomputed.run(encoder_outputs, rows)?;
            for name in &precomputed.outputs {
                encoder_outputs.push(outputs.remove(name)?);
            }
        }
        Ok(())
    }

    /// Whether it can process more than one token with a non-empty cache: a mask, positions or the branch are inputs, and it was not
    /// exported for single tokens.
    pub(crate) fn accepts_several_tokens(&self) -> bool {
        !self.takes_single_tokens && [Feed::HasPast, Feed::Mask, Feed::Positions].into_iter().any(|feed| self.has(feed))
    }

    /// Whether the sequences of a batch can have different lengths: a mask hides the padding of their caches, and positions
    /// are inputs.
    pub(crate) fn accepts_different_lengths(&self) -> bool {
        self.has(Feed::Mask) && self.has(Feed::Positions)
    }

    /// What feeds an input called `name` of the static step, if that is the same in every step. It may take more precomputed values
    /// than this graph does.
    pub(crate) fn invariant(&self, name: &str) -> Option<StepInvariant> {
        let precomputed = self.precomputed.as_ref().into_iter().flat_map(|precomputed| &precomputed.outputs);
        let index = precomputed.zip(self.first_precomputed..).find(|(output, _)| *output == name);
        if let Some((_, index)) = index {
            return Some(StepInvariant::Tensor(index));
        }
        self.inputs.iter().find(|input| input.name == name).and_then(|input| match input.feed {
            Feed::Invariant(invariant) => Some(invariant),
            _ => None,
        })
    }

    /// The type of the embeddings that it takes, if it takes any.
    pub(crate) fn embedded_type(&self) -> Option<DataType> {
        self.inputs.iter().find(|input| input.feed == Feed::Embedded).map(|input| input.dtype)
    }

    fn has(&self, feed: Feed) -> bool {
        self.inputs.iter().any(|input| input.feed == feed)
    }

    /// Runs the graph once.
    pub(crate) fn run(
        &mut self,
        step: StepInputs<'_>,
        mut embedder: Option<&mut TokenEmbedder>,
    ) -> Result<Outputs, OnnxError> {
        let StepInputs { tokens, past, mut embedded, encoder_outputs, cache, logits_stay } = step;
        let (rows, count) = (tokens.len(), tokens.first().map_or(0, Vec::len));
        let longest = past.iter().copied().max().unwrap_or(0);
        let mut feeds = Vec::with_capacity(self.inputs.len() + cache.len());
        for input in &self.inputs {
            let value = match input.feed {
                Feed::Invariant(invariant) => invariant.feed(encoder_outputs, input.dtype, rows)?,
                Feed::Tokens => {
                    SessionInput::Owned(Tensor::from_integers(input.dtype, &[rows, count], tokens.concat())?)
                }
                Feed::Embedded => {
                    let embedded = match (embedded.take(), embedder.as_mut()) {
                        (Some(embedded), _) => embedded,
                        (None, Some(embedder)) => embedder.embed(tokens, Some(input.dtype))?,
                        (None, None) => {
                            let what = format!("no graph embeds the tokens for input {:?}", input.name);
                            return Err(OnnxError::new(OnnxErrorKind::Run, input.name.clone(), what));
                        }
                    };
                    SessionInput::Owned(embedded.into_float(input.dtype)?)
                }
                Feed::HasPast => {
                    SessionInput::Owned(Tensor::from_integers(input.dtype, &[1], vec![i64::from(longest > 0)])?)
                }
                Feed::LogitsToKeep => {
                    SessionInput::Owned(Tensor::from_integers(input.dtype, &vec![1; input.rank], vec![1])?)
                }
                Feed::CachePosition => {
                    let positions = (longest..longest + count).map(|position| position as i64).collect();
                    SessionInput::Owned(Tensor::from_integers(input.dtype, &[count], positions)?)
                }
                Feed::Positions => {
                    let positions = past.iter().flat_map(|&past| past..past + count);
                    let positions = positions.map(|position| position as i64).collect();
                    SessionInput::Owned(Tensor::from_integers(input.dtype, &[rows, count], positions)?)
                }
                Feed::Mask => {
                    let total = longest + count;
                    let own = past.iter().flat_map(|past| (0..total).map(move |index| index + past >= longest));
                    let own = own.map(i64::from).collect();
                    SessionInput::Owned(Tensor::from_integers(input.dtype, &[rows, total], own)?)
                }
            };
            feeds.push((input.name.as_str(), value));
        }
        feeds.extend(cache);
        let read: &[&str] = if logits_stay { &[] } else { &[Self::LOGITS] };
        self.fixed_batch.run(&mut self.graph, &feeds, rows, read)
    }
}

/// Opens the decoder's graph in `file`, edited as it is run for captions. On a device with memory of its own, a step of one shape is made
/// of it.
///
/// # Errors
/// When the file cannot be read, or ONNX Runtime refuses it.
pub fn open_decoder(
    directory: &ModelDirectory,
    file: &GraphFile,
    options: GraphOptions,
) -> Result<DecoderGraph, OnnxError> {
    let probes = probe_inputs(directory, Role::Decoder)?;
    let ports = step_ports(directory).filter(|_| options.device.takes_static_steps());
    DecoderGraph::open_with_static(&file.source, &directory.bindings().invariant(), probes, ports.as_ref(), options)
}
