//! What the decoder attends to: encoder outputs, `[slots, ...]`, which are the same in every step of a batch, and what is
//! precomputed from them once instead of in every step. In: the model directory's bindings; then the encoder outputs of a batch.
//! Out: the inputs of the decoder's graph that do not change from step to step.
//!
//! # Cross-attention
//! A decoder with cross-attention needs the keys and values of the encoder output in every layer and step. Exports differ in
//! where these are computed. In each of the four cases they are computed once for a batch here:
//!
//! 1. **In a graph for the prefill** (`decoder_model.onnx` beside `decoder_with_past_model.onnx`, as optimum exports `TrOCR` and
//!    BLIP): the prefill returns them as `present.*.encoder.*`, and they are static cache entries of all later steps
//!    ([`CacheKind::Static`](super::cache::CacheKind)). If the decoder can run the rest of the prefill itself, only the
//!    subgraph of the prefill graph that computes them is opened: [`Precomputed::cross_attention`], with the outputs that
//!    [`ModelDirectory::static_cache_outputs`] names.
//! 2. **In a branch of the decoder** (`decoder_model_merged.onnx`): the branch without a cache returns them, the other one
//!    takes them: they are static cache entries that only the first run returns
//!    ([`Prefill::EmptyCache`](super::run::Prefill::EmptyCache)).
//! 3. **In the decoder itself, in every step** (GPT-2 and GIT): the graph takes `encoder_hidden_states` in every step. When it is
//!    opened, everything that depends on invariant inputs and weights only is split off into a graph that is run once for a
//!    batch ([`DecoderGraph`](crate::onnx::DecoderGraph)); its outputs are further invariant inputs of the rest.
//! 4. **In the fusion or vision graph**: outputs of these with the name of a decoder input are fed as they are.

use super::probe_inputs::probe_inputs;
use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{
    DataType, FixedBatch, GraphOptions, OnnxError, Outputs, Session, SessionInput, Tensor, open_subgraph,
};

/// An output of the vision, fusion or encoder graph that the decoder attends to.
#[derive(Debug)]
pub(crate) struct EncoderOutput {
    pub(crate) dtype: DataType,
    pub(crate) role: Role,
    pub(crate) output: String,
}

/// What feeds an input that is the same in every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepInvariant {
    /// The tensor at this index of [`DecoderState::encoder_outputs`](super::cache::DecoderState::encoder_outputs).
    Tensor(usize),
    /// An attention mask of ones for the encoder output at this index.
    Ones(usize),
}

/// An input of a graph that is the same in every step.
#[derive(Debug, Clone)]
pub(crate) struct InvariantInput {
    pub(crate) name: String,
    pub(crate) dtype: DataType,
    pub(crate) source: StepInvariant,
}

/// A graph that is run once for each batch, on encoder outputs only.
#[derive(Debug)]
pub(crate) struct Precomputed {
    graph: Session,
    fixed_batch: FixedBatch,
    inputs: Vec<InvariantInput>,
    /// The names of its outputs that are used.
    pub(crate) outputs: Vec<String>,
}

impl StepInvariant {
    /// How `producer` feeds an input of `dtype`, if that is the same in every step. A new encoder output is added to
    /// `encoder_outputs`.
    pub(crate) fn of(producer: &Producer, dtype: DataType, encoder_outputs: &mut Vec<EncoderOutput>) -> Option<Self> {
        match producer {
            Producer::Output(role, output) => Some(Self::Tensor(index_of(encoder_outputs, dtype, *role, output))),
            Producer::Ones(role, output) => {
                let known = encoder_outputs.iter().position(|known| known.role == *role && known.output == *output);
                Some(Self::Ones(known.unwrap_or_else(|| index_of(encoder_outputs, DataType::F32, *role, output))))
            }
            _ => None,
        }
    }

    /// What to feed an input of `dtype`, for a batch of `rows`.
    pub(crate) fn feed(self, values: &[Tensor], dtype: DataType, rows: usize) -> Result<SessionInput<'_>, OnnxError> {
        match self {
            Self::Tensor(index) => Ok(SessionInput::Shared(&values[index])),
            Self::Ones(index) => {
                let states = values[index].shape().get(1).copied().unwrap_or(0);
                Tensor::ones(dtype, &[rows, states]).map(SessionInput::Owned)
            }
        }
    }
}

impl Precomputed {
    /// `graph`, of which `outputs` are used; of `inputs` it is fed those that it declares.
    pub(crate) fn new(
        graph: Session,
        fixed_batch: FixedBatch,
        mut inputs: Vec<InvariantInput>,
        outputs: Vec<String>,
    ) -> Self {
        inputs.retain(|input| graph.inputs().iter().any(|port| port.name == input.name));
        Self { graph, fixed_batch, inputs, outputs }
    }

    /// The subgraph of the prefill graph that computes the keys and values of cross-attention, if they depend on encoder outputs
    /// only and the decoder can run the rest of the prefill itself. The weights of the rest are not loaded. Adds the encoder outputs
    /// that it takes to `encoder_outputs`.
    pub(crate) fn cross_attention(
        directory: &ModelDirectory,
        options: GraphOptions,
        encoder_outputs: &mut Vec<EncoderOutput>,
    ) -> Result<Option<Self>, OnnxError> {
        let (Some(file), Some(outputs)) = (directory.graph(Role::Prefill), directory.static_cache_outputs()) else {
            return Ok(None);
        };
        let invariant = |(name, producer): &(String, Producer)| {
            let dtype = file.header.input(name)?.dtype;
            let source = StepInvariant::of(producer, dtype, encoder_outputs)?;
            Some(InvariantInput { name: name.clone(), dtype, source })
        };
        let inputs: Vec<_> = directory.bindings().of(Role::Prefill).iter().filter_map(invariant).collect();
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        let outputs = outputs.to_vec();
        let probes = probe_inputs(directory, Role::Prefill)?;
        let subgraph = open_subgraph(&file.source, &outputs, &names, probes, options)?;
        let fixed_batch = FixedBatch::new(directory.fixed_batch(Role::Prefill), options);
        Ok(subgraph.map(|graph| Self::new(graph, fixed_batch, inputs, outputs)))
    }

    /// The outputs for a batch of `rows` with these encoder outputs. They stay in the memory of the graph's device.
    pub(crate) fn run(&mut self, encoder_outputs: &[Tensor], rows: usize) -> Result<Outputs, OnnxError> {
        let mut feeds = Vec::with_capacity(self.inputs.len());
        for InvariantInput { name, dtype, source } in &self.inputs {
            feeds.push((name.as_str(), source.feed(encoder_outputs, *dtype, rows)?));
        }
        self.fixed_batch.run(&mut self.graph, &feeds, rows, &[])
    }
}

/// The index of an encoder output, which is added if it is new.
fn index_of(encoder_outputs: &mut Vec<EncoderOutput>, dtype: DataType, role: Role, output: &str) -> usize {
    let known = encoder_outputs
        .iter()
        .position(|known| (known.dtype, known.role, known.output.as_str()) == (dtype, role, output));
    known.unwrap_or_else(|| {
        encoder_outputs.push(EncoderOutput { dtype, role, output: output.to_owned() });
        encoder_outputs.len() - 1
    })
}
