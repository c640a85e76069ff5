//! Splits a decoder's graph into one that is run once for each batch and one that is run in each step. In: the graph, and which of its
//! inputs are the same in all steps. Out: the two graphs.
//!
//! GPT-2 as optimum exports it computes the keys and values of cross-attention from the encoder's output in every step. Moving them out
//! of the steps is loop-invariant code motion (Aho, Lam, Sethi, Ullman, *Compilers*, 9.5.1) and changes no value.

use std::collections::{HashMap, HashSet};

use super::extract::{extract, uses};
use super::file::OnnxFile;
use crate::onnx::error::OnnxError;
use crate::onnx::port::{DataType, Port};
use crate::onnx::proto::{GraphProto, TensorProto, ValueInfoProto};
use crate::onnx::runtime::session::{EditedGraph, GraphOptions, Outputs, Session, SessionInput};
use crate::onnx::runtime::tensor::Tensor;

/// The graph that is run once for each batch.
#[derive(Debug)]
pub struct HoistedGraph {
    /// Computes the values that are the same in all steps.
    pub session: Session,
    /// Those of its outputs that are inputs of the graph for the steps: states, `[batch, ...]` float, and sizes, int64, which are the
    /// same for every row.
    pub outputs: Vec<String>,
}

/// How often a value changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Changes {
    Never,
    /// With each batch.
    Batch,
    /// In each step.
    Step,
}

/// Splits `graph`, which was made from that of `file`, and whose inputs `invariant`, `[batch, ...]`, are the same in all steps.
/// `encode` encodes a part of `graph`. Returns the graph that is run once for each batch, and the rest; `None` if no matrix product depends
/// on those inputs alone.
///
/// # Errors
/// When ONNX Runtime refuses the first of the two graphs.
pub(crate) fn hoist(
    file: &OnnxFile,
    graph: &GraphProto,
    invariant: &[&str],
    options: GraphOptions,
    encode: fn(&OnnxFile, GraphProto) -> Result<EditedGraph, OnnxError>,
) -> Result<Option<(HoistedGraph, GraphProto)>, OnnxError> {
    let frontier: Vec<_> = frontier(graph, invariant).iter().map(|name| ValueInfoProto::named(name)).collect();
    if frontier.is_empty() {
        return Ok(None);
    }
    let edited = encode(file, extract(graph, frontier, Vec::new()))?;
    let mut session = Session::open_edited(file.path(), &edited, options)?;
    // which values have a row for each row of the batch shows only with batches of several sizes
    if session.inputs().iter().any(|port| port.fixed(0).is_some()) {
        return Ok(None);
    }
    let given = reusable(&mut session)?;
    if given.is_empty() {
        return Ok(None);
    }
    let outputs = given.iter().map(|value| value.name().to_owned()).collect();
    Ok(Some((HoistedGraph { session, outputs }, extract(graph, graph.output.clone(), given))))
}

/// The values that depend on `invariant` inputs and weights only, are computed through a matrix product, and are used together with
/// values that change in each step; in the order in which they are computed.
pub(super) fn frontier(graph: &GraphProto, invariant: &[&str]) -> Vec<String> {
    const MULTIPLIES: [&str; 6] = ["MatMul", "Gemm", "Conv", "MatMulInteger", "MatMulNBits", "DynamicQuantizeMatMul"];
    let mut changes: HashMap<&str, Changes> = HashMap::new();
    for input in &graph.input {
        let kind = if invariant.contains(&input.name()) { Changes::Batch } else { Changes::Step };
        changes.insert(input.name(), kind);
    }
    changes.extend(graph.initializer.iter().map(|tensor: &TensorProto| (tensor.name(), Changes::Never)));
    let (mut multiplied, mut used, mut computed) = (HashSet::new(), HashSet::new(), Vec::new());
    for node in &graph.node {
        let uses = uses(node);
        let kind = uses.iter().filter_map(|name| changes.get(name)).max().copied().unwrap_or(Changes::Never);
        let heavy = MULTIPLIES.contains(&node.op_type()) || uses.iter().any(|name| multiplied.contains(name));
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            changes.insert(output, kind);
            if kind == Changes::Batch && heavy {
                multiplied.insert(output.as_str());
                computed.push(output);
            }
        }
        if kind == Changes::Step {
            used.extend(uses);
        }
    }
    let declared: HashSet<&str> = graph.output.iter().map(ValueInfoProto::name).collect();
    let moved = |name: &&&String| used.contains(name.as_str()) && !declared.contains(name.as_str());
    computed.iter().filter(moved).copied().cloned().collect()
}

/// The outputs of `session` that stay valid when rows leave the batch, as inputs of another graph: floats whose first axis is the batch,
/// and sizes that do not depend on the batch. No file declares the axes of an inner value, so runs with two and with three rows
/// are compared.
fn reusable(session: &mut Session) -> Result<Vec<ValueInfoProto>, OnnxError> {
    let (two, three) = (probe(session, 2)?, probe(session, 3)?);
    let mut given = Vec::new();
    for port in session.outputs() {
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

/// Runs `graph` on `rows` rows of ones. An axis of undeclared size gets size 1.
fn probe(graph: &mut Session, rows: usize) -> Result<Outputs, OnnxError> {
    let inputs: Vec<Port> = graph.inputs().to_vec();
    let ones = |port: &Port| {
        let inner = (1..port.rank().unwrap_or(1)).map(|axis| port.fixed(axis).unwrap_or(1));
        let shape: Vec<usize> = std::iter::once(rows).chain(inner).collect();
        Tensor::ones(port.dtype, &shape)
    };
    let feeds = inputs.iter().map(|port| Ok((port.name.as_str(), SessionInput::Owned(ones(port)?))));
    graph.run(&feeds.collect::<Result<Vec<_>, OnnxError>>()?)
}
