//! Inputs for the probe runs of a decoder's graph, which show when it is opened which of its sizes are constant. In: the
//! model directory's bindings. Out: inputs of several sizes; every dynamic axis has another size in each of them. Sizes are
//! small, since a model may have few positions.

use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{OnnxError, Port, ProbeInputs, Tensor};

/// The sizes of one set of inputs.
#[derive(Debug, Clone, Copy)]
struct ProbeSizes {
    rows: usize,
    /// Tokens in the cache.
    past: usize,
    /// Encoder states that are attended to.
    attended: usize,
    /// Tokens of this step.
    tokens: usize,
}

const SIZES: [ProbeSizes; 4] = [
    ProbeSizes { rows: 2, past: 3, attended: 5, tokens: 1 },
    ProbeSizes { rows: 3, past: 4, attended: 8, tokens: 1 },
    ProbeSizes { rows: 4, past: 6, attended: 11, tokens: 2 },
    ProbeSizes { rows: 1, past: 5, attended: 13, tokens: 1 },
];

/// Inputs for the graph of `role`, a prefill or decoder graph; none if it does not declare the shape of an input, or takes one batch only.
///
/// # Errors
/// When memory ran out.
pub(crate) fn probe_inputs(directory: &ModelDirectory, role: Role) -> Result<Vec<ProbeInputs>, OnnxError> {
    let Some(graph) = directory.graph(role).filter(|_| directory.decoder_batch().is_none()) else {
        return Ok(Vec::new());
    };
    let mut probes = Vec::new();
    for sizes in SIZES {
        // a prefill has no cache, and several tokens
        let prefill = ProbeSizes { past: 0, tokens: sizes.past, ..sizes };
        let sizes = if role == Role::Prefill { prefill } else { sizes };
        let mut probe = ProbeInputs::new();
        for (input, producer) in directory.bindings().of(role) {
            let value = graph.header.input(input).map(|port| input_of(port, producer, sizes));
            match value.transpose()?.flatten() {
                Some(value) => probe.push((input.clone(), value)),
                None => return Ok(Vec::new()),
            }
        }
        probes.push(probe);
    }
    Ok(probes)
}

/// A value for the input `port`, which `producer` feeds; `None` if its shape is not known.
fn input_of(port: &Port, producer: &Producer, sizes: ProbeSizes) -> Result<Option<Tensor>, OnnxError> {
    let ProbeSizes { rows, past, attended, tokens } = sizes;
    let tokens = match producer {
        Producer::Step | Producer::Positions => port.fixed(1).unwrap_or(tokens),
        _ => tokens,
    };
    // the batch axis comes first
    let shape_with = |dynamic: usize| {
        let inner = (1..port.rank()?).map(|axis| port.fixed(axis).unwrap_or(dynamic));
        Some(std::iter::once(rows).chain(inner).collect::<Vec<_>>())
    };
    let shape = match producer {
        Producer::HasPast => return Tensor::from_integers(port.dtype, &[1], vec![1]).map(Some),
        Producer::LogitsToKeep => {
            return Tensor::from_integers(port.dtype, &vec![1; port.rank().unwrap_or(0)], vec![1]).map(Some);
        }
        Producer::CachePosition => {
            let positions = (past..past + tokens).map(|position| position as i64).collect();
            return Tensor::from_integers(port.dtype, &[tokens], positions).map(Some);
        }
        Producer::Step | Producer::Positions => Some(vec![rows, tokens]),
        Producer::StepMask => Some(vec![rows, past + tokens]),
        Producer::StepOutput(..) => shape_with(tokens),
        Producer::Cache(_) => shape_with(past),
        Producer::Output(..) | Producer::Ones(..) | Producer::StaticCache(_) => shape_with(attended),
        _ => None,
    };
    let known = |shape: Vec<usize>| match port.dtype {
        dtype if *producer == Producer::Step && dtype.is_integer() => {
            Tensor::from_integers(dtype, &shape, vec![0; shape.iter().product()])
        }
        dtype if dtype.is_integer() => Tensor::from_integers(dtype, &shape, vec![1; shape.iter().product()]),
        dtype => Tensor::ones(dtype, &shape),
    };
    shape.map(known).transpose()
}
