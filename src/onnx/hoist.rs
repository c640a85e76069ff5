//! What stays the same over all steps of a decoder is computed once: its graph is split into one that is run for each batch
//! and one that is run for each step. In: the decoder's graph and which of its inputs stay the same. Out: the two graphs.
//!
//! Decoders exported by optimum (GPT-2) compute the keys and values of cross-attention from the image's states in every
//! step; this is loop-invariant code motion (Aho, Lam, Sethi, Ullman, *Compilers*, 9.5.1) and changes no value.

use std::collections::{HashMap, HashSet};

use super::cut::{cut, uses};
use super::error::OnnxError;
use super::graph::{Graph, GraphOptions, Input, Outputs};
use super::messages::{GraphProto, TensorProto, ValueInfoProto};
use super::port::{DataType, Port};
use super::source::ModelFile;
use super::value::Value;

/// What is run once for each batch.
#[derive(Debug)]
pub struct Once {
    /// Computes what stays the same; its inputs are among those that do.
    pub graph: Graph,
    /// The outputs that the graph of the steps takes: states, `[batch, ...]` float, and sizes, int64, which are the same for
    /// every row. It gives others too.
    pub values: Vec<String>,
}

/// What a value depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Depends {
    Weights,
    Invariant,
    Step,
}

/// Splits `graph`, a part of `file`, whose inputs `invariant`, `[batch, ...]`, stay the same over all steps. Returns what is
/// computed once, and the rest; `None` if nothing of weight depends on those inputs alone.
///
/// # Errors
/// When ONNX Runtime refuses the first of the two graphs.
pub(super) fn hoist(
    file: &ModelFile,
    graph: &GraphProto,
    invariant: &[&str],
    options: GraphOptions,
) -> Result<Option<(Once, GraphProto)>, OnnxError> {
    let frontier: Vec<_> = frontier(graph, invariant).iter().map(|name| ValueInfoProto::named(name)).collect();
    if frontier.is_empty() {
        return Ok(None);
    }
    let edited = file.encode(cut(graph, frontier, Vec::new()))?;
    let mut once = Graph::open_edited(file.path(), &edited, options)?;
    let given = reusable(&mut once)?;
    if given.is_empty() {
        return Ok(None);
    }
    let values = given.iter().map(|value| value.name().to_owned()).collect();
    Ok(Some((Once { graph: once, values }, cut(graph, graph.output.clone(), given))))
}

/// The values that depend on `invariant` inputs and weights only and are used together with others, if some matrix is
/// multiplied on the way to them; in the order in which they are computed.
fn frontier(graph: &GraphProto, invariant: &[&str]) -> Vec<String> {
    const MULTIPLIES: [&str; 6] = ["MatMul", "Gemm", "Conv", "MatMulInteger", "MatMulNBits", "DynamicQuantizeMatMul"];
    let mut depends: HashMap<&str, Depends> = HashMap::new();
    for input in &graph.input {
        let kind = if invariant.contains(&input.name()) { Depends::Invariant } else { Depends::Step };
        depends.insert(input.name(), kind);
    }
    depends.extend(graph.initializer.iter().map(|tensor: &TensorProto| (tensor.name(), Depends::Weights)));
    let (mut multiplied, mut used, mut computed) = (HashSet::new(), HashSet::new(), Vec::new());
    for node in &graph.node {
        let uses = uses(node);
        let kind = uses.iter().filter_map(|name| depends.get(name)).max().copied().unwrap_or(Depends::Weights);
        let heavy = MULTIPLIES.contains(&node.op_type()) || uses.iter().any(|name| multiplied.contains(name));
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            depends.insert(output, kind);
            if kind == Depends::Invariant && heavy {
                multiplied.insert(output.as_str());
                computed.push(output);
            }
        }
        if kind == Depends::Step {
            used.extend(uses);
        }
    }
    let declared: HashSet<&str> = graph.output.iter().map(ValueInfoProto::name).collect();
    let kept = |name: &&&String| used.contains(name.as_str()) && !declared.contains(name.as_str());
    computed.iter().filter(kept).copied().cloned().collect()
}

/// The outputs of `once` that stay right when rows leave the batch, as inputs of another graph: floats with the batch as
/// their first axis, and sizes that do not depend on the batch. What the axes of an inner value stand for is declared
/// nowhere, so batches of two and of three rows tell.
fn reusable(once: &mut Graph) -> Result<Vec<ValueInfoProto>, OnnxError> {
    let (two, three) = (probe(once, 2)?, probe(once, 3)?);
    let mut given = Vec::new();
    for port in once.outputs() {
        let (two, three) = (two.any(&port.name)?, three.any(&port.name)?);
        let (a, b) = (two.shape(), three.shape());
        let by_row = || (a.first(), b.first()) == (Some(&2), Some(&3)) && a.get(1..) == b.get(1..);
        let fits = match port.dtype {
            DataType::I64 => a == b && two.to_i64()? == three.to_i64()?,
            dtype => dtype.is_float() && by_row(),
        };
        given.extend(fits.then(|| ValueInfoProto::tensor(&port.name, port.dtype, Some(a.len()))));
    }
    Ok(given)
}

/// A run over `rows` rows of ones, 1 long wherever nothing fixes the size.
fn probe(graph: &mut Graph, rows: usize) -> Result<Outputs, OnnxError> {
    let inputs: Vec<Port> = graph.inputs().to_vec();
    let ones = |port: &Port| {
        let inner = (1..port.rank().unwrap_or(1)).map(|axis| port.fixed(axis).unwrap_or(1));
        let shape: Vec<usize> = std::iter::once(rows).chain(inner).collect();
        Value::ones(port.dtype, &shape)
    };
    let feeds = inputs.iter().map(|port| Ok((port.name.as_str(), Input::Owned(ones(port)?))));
    graph.run(&feeds.collect::<Result<Vec<_>, OnnxError>>()?)
}
