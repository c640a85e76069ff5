//! Converts a graph file. In: a file whose graph computes in float32, and the path of a new one. Out: the new file. The same input
//! gives the same bytes.

use std::path::Path;

use serde::Serialize;

use super::decide::nodes_of;
use super::flat::flat;
use super::half::HalfPrecision;
use super::operators;
use super::rewrite::rewrite;
use super::types::{FLOAT, Types};
use super::write::{MOST_INSIDE, Writing, write};
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::edit::header::port;
use crate::onnx::edit::static_step::opset_version;
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::port::{DataType, GraphSource};
use crate::onnx::proto::GraphProto;

/// The first version of ONNX's operators that is converted, and that has bfloat16.
const LOWEST: i64 = 11;
const LOWEST_BFLOAT16: i64 = 13;

/// What was made of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ConvertedGraph {
    /// Nodes that calculate with floats.
    pub nodes: usize,
    /// Those of them that are still computed in float32.
    pub in_float32: usize,
    /// The bytes of the new graph and its weights.
    pub bytes: u64,
}

/// Converts the graph file at `source` to `half`, and writes it to `target`, which must not exist.
///
/// # Errors
/// [`OnnxErrorKind::Load`] if the file is no float32 graph, if a weight has no finite value in `half`, or once `stop` says so.
pub fn convert(
    source: &Path,
    target: &Path,
    half: HalfPrecision,
    stop: &dyn Fn() -> bool,
) -> Result<ConvertedGraph, OnnxError> {
    convert_within(source, target, half, MOST_INSIDE, stop)
}

/// Converts as [`convert`] does, with at most `most_inside` bytes of weights in the graph file.
pub(super) fn convert_within(
    source: &Path,
    target: &Path,
    half: HalfPrecision,
    most_inside: u64,
    stop: &dyn Fn() -> bool,
) -> Result<ConvertedGraph, OnnxError> {
    let fail = |what: String| OnnxError::new(OnnxErrorKind::Load, source.display().to_string(), what);
    let file = OnnxFile::read(&GraphSource::file(source))?;
    let mut model = flat(file.model(file.graph.clone()))
        .map_err(|what| fail(what).with_hint("export it again without functions"))?;
    let graph = model.graph.take().unwrap_or_default();
    refuse_others(&graph).map_err(|(what, hint)| fail(what).with_hint(hint))?;
    let opset = opset_version(&model.opset_import).unwrap_or(0);
    let lowest = if half == HalfPrecision::Bf16 { LOWEST_BFLOAT16 } else { LOWEST };
    if opset < lowest {
        let what = format!("expected operators of version {lowest} or newer for {}, found {opset}", half.onnx_name());
        return Err(fail(what).with_hint("export the model again with a newer opset"));
    }
    let rewritten = rewrite(graph, half, opset);
    model.graph = Some(rewritten.graph);
    let how = Writing { original: &file, rounded: &rewritten.rounded, half, most_inside, stop };
    let bytes = write(model, target, &how).map_err(|error| {
        let out_of_range = half == HalfPrecision::F16 && error.what.contains("do not fit");
        if out_of_range { error.with_hint("bfloat16 has the range of float32: --precision bf16") } else { error }
    })?;
    let (nodes, in_float32) = rewritten.nodes;
    Ok(ConvertedGraph { nodes, in_float32, bytes })
}

/// Refuses a graph that is not float32.
fn refuse_others(graph: &GraphProto) -> Result<(), (String, &'static str)> {
    let nodes = nodes_of(graph);
    if let Some(node) = nodes.iter().find(|node| operators::is_quantised(node)) {
        return Err((
            format!("expected a float32 graph, found a quantised one (operator {})", node.op_type()),
            "convert the float32 model that it was made from",
        ));
    }
    let halves = |data_type: DataType| matches!(data_type, DataType::F16 | DataType::Other("bfloat16"));
    if let Some(port) = graph.input.iter().chain(&graph.output).map(port).find(|port| halves(port.dtype)) {
        return Err((
            format!("expected a float32 graph, found {:?} as {}", port.name, port.dtype),
            "it is converted already; convert the float32 model that it was made from",
        ));
    }
    if let Some(node) = nodes.iter().find(|node| operators::has_containers(node)) {
        return Err((
            format!("expected operators on tensors only, found {}", node.op_type()),
            "export the model without sequences of tensors",
        ));
    }
    let types = Types::of(graph);
    let floats =
        nodes.iter().flat_map(|node| node.input.iter().chain(&node.output)).any(|name| types.get(name) == FLOAT);
    if floats {
        Ok(())
    } else {
        Err(("expected a float32 graph, found one without floats".to_owned(), "name the float32 model"))
    }
}
