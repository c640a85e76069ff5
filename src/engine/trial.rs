//! Inputs to try a decoder's graph with before it is run. In: the model directory's bindings. Out: small inputs of several
//! sizes, in which every axis that varies has another size each time. They are small, since a model may have no more positions.

use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, OnnxError, Port, Trial, Value};

/// How large the inputs of a trial are.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    rows: usize,
    /// Tokens of the steps before.
    past: usize,
    /// States that are attended to.
    attended: usize,
    /// Tokens of this step.
    tokens: usize,
}

const TRIALS: [Sizes; 4] = [
    Sizes { rows: 2, past: 3, attended: 5, tokens: 1 },
    Sizes { rows: 3, past: 4, attended: 8, tokens: 1 },
    Sizes { rows: 4, past: 6, attended: 11, tokens: 2 },
    Sizes { rows: 1, past: 5, attended: 13, tokens: 1 },
];

/// Inputs for the graph of `role`; none if the declarations say too little.
///
/// # Errors
/// When memory ran out.
pub(super) fn trials(directory: &ModelDirectory, role: Role) -> Result<Vec<Trial>, OnnxError> {
    let Some(graph) = directory.graph(role) else { return Ok(Vec::new()) };
    let mut trials = Vec::new();
    for sizes in TRIALS {
        // nothing goes before the first step, which takes several tokens instead
        let first = Sizes { past: 0, tokens: sizes.past, ..sizes };
        let sizes = if role == Role::Prefill { first } else { sizes };
        let mut trial = Trial::new();
        for (input, producer) in directory.bindings().of(role) {
            let value = graph.header.input(input).map(|port| input_of(port, producer, sizes));
            match value.transpose()?.flatten() {
                Some(value) => trial.push((input.clone(), value)),
                None => return Ok(Vec::new()),
            }
        }
        trials.push(trial);
    }
    Ok(trials)
}

/// The input `port`, fed by `producer`; `None` if its shape is not known.
fn input_of(port: &Port, producer: &Producer, sizes: Sizes) -> Result<Option<Value>, OnnxError> {
    let Sizes { rows, past, attended, tokens } = sizes;
    let tokens = match producer {
        Producer::Step | Producer::Positions => port.fixed(1).unwrap_or(tokens),
        _ => tokens,
    };
    // all but the batch axis, which comes first
    let shape_with = |varying: usize| {
        let inner = (1..port.rank()?).map(|axis| port.fixed(axis).unwrap_or(varying));
        Some(std::iter::once(rows).chain(inner).collect::<Vec<_>>())
    };
    let shape = match producer {
        Producer::HasPast => return Value::from_bool(true).map(Some),
        Producer::Step | Producer::Positions => Some(vec![rows, tokens]),
        Producer::StepMask => Some(vec![rows, past + tokens]),
        Producer::StepOutput(..) => shape_with(tokens),
        Producer::State(_) => shape_with(past),
        Producer::Output(..) | Producer::Ones(..) | Producer::Kept(_) => shape_with(attended),
        _ => None,
    };
    let known = |shape: Vec<usize>| match port.dtype {
        DataType::I64 if *producer == Producer::Step => Value::zeros(DataType::I64, &shape),
        dtype => Value::ones(dtype, &shape),
    };
    shape.map(known).transpose()
}
