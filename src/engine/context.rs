//! What a decoder attends to, called contexts: values `[rows, ...]` that stay the same over all steps of a batch. In: the model
//! directory's bindings, and the contexts that are given. Out: what is computed from them once, and not in every step.

use super::trial::trials;
use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, Graph, GraphOptions, Input, OnnxError, Outputs, Value, open_subgraph};

/// A context that is given, and what gives it.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) dtype: DataType,
    pub(super) role: Role,
    pub(super) output: String,
}

/// What feeds an input that stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invariant {
    /// The context at that place: those that are given first, then those that are computed.
    Context(usize),
    /// Ones for the states of that context.
    Ones(usize),
}

/// An input of a graph that stays the same.
#[derive(Debug, Clone)]
pub(super) struct InvariantInput {
    pub(super) name: String,
    pub(super) dtype: DataType,
    pub(super) value: Invariant,
}

/// A graph that is run once for each batch.
#[derive(Debug)]
pub(super) struct Once {
    graph: Graph,
    inputs: Vec<InvariantInput>,
    /// The outputs that are wanted.
    pub(super) values: Vec<String>,
}

impl Invariant {
    /// What `producer` stands for as an input of `dtype`, if that stays the same; added to the given contexts where it is new.
    pub(super) fn of(producer: &Producer, dtype: DataType, contexts: &mut Vec<Context>) -> Option<Self> {
        match producer {
            Producer::Output(role, output) => Some(Self::Context(place(contexts, dtype, *role, output))),
            Producer::Ones(role, output) => {
                let known = contexts.iter().position(|known| known.role == *role && known.output == *output);
                Some(Self::Ones(known.unwrap_or_else(|| place(contexts, DataType::F32, *role, output))))
            }
            _ => None,
        }
    }

    pub(super) fn value(self, contexts: &[Value], dtype: DataType, rows: usize) -> Result<Input<'_>, OnnxError> {
        match self {
            Self::Context(place) => Ok(Input::Shared(&contexts[place])),
            Self::Ones(place) => {
                let states = contexts[place].shape().get(1).copied().unwrap_or(0);
                Value::ones(dtype, &[rows, states]).map(Input::Owned)
            }
        }
    }
}

impl Once {
    /// The outputs `values` of `graph`, among whose inputs are those of `inputs` that it takes.
    pub(super) fn new(graph: Graph, mut inputs: Vec<InvariantInput>, values: Vec<String>) -> Self {
        inputs.retain(|input| graph.inputs().iter().any(|port| port.name == input.name));
        Self { graph, inputs, values }
    }

    /// The part of the prefill graph that gives the states that are kept, where that is all that the decoder needs of it and
    /// they follow from contexts alone, as the keys and values of cross-attention do. It saves the weights of the rest. Adds
    /// what it takes to the given contexts.
    pub(super) fn kept_states(
        directory: &ModelDirectory,
        options: GraphOptions,
        contexts: &mut Vec<Context>,
    ) -> Result<Option<Self>, OnnxError> {
        let (Some(file), Some(values)) = (directory.graph(Role::Prefill), directory.kept_states()) else {
            return Ok(None);
        };
        let invariant = |(name, producer): &(String, Producer)| {
            let dtype = file.header.input(name)?.dtype;
            Some(InvariantInput { name: name.clone(), dtype, value: Invariant::of(producer, dtype, contexts)? })
        };
        let inputs: Vec<_> = directory.bindings().of(Role::Prefill).iter().filter_map(invariant).collect();
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        let values = values.to_vec();
        let part = open_subgraph(&file.source, &values, &names, trials(directory, Role::Prefill)?, options)?;
        Ok(part.map(|graph| Self::new(graph, inputs, values)))
    }

    /// The outputs for `contexts`, `[rows, ...]`, where the graph runs.
    pub(super) fn run(&mut self, contexts: &[Value], rows: usize) -> Result<Outputs, OnnxError> {
        let mut feeds = Vec::with_capacity(self.inputs.len());
        for InvariantInput { name, dtype, value } in &self.inputs {
            feeds.push((name.as_str(), value.value(contexts, *dtype, rows)?));
        }
        self.graph.run_on_device(&feeds, &[])
    }
}

fn place(contexts: &mut Vec<Context>, dtype: DataType, role: Role, output: &str) -> usize {
    let known =
        contexts.iter().position(|known| (known.dtype, known.role, known.output.as_str()) == (dtype, role, output));
    known.unwrap_or_else(|| {
        contexts.push(Context { dtype, role, output: output.to_owned() });
        contexts.len() - 1
    })
}
