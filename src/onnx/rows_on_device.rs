//! Rows of tensors in the memory of a device. In: tensors, and which rows of each. Out: these rows as one tensor, in that memory, or
//! fetched from it. ONNX Runtime moves them, with graphs that are made here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use prost::Message;

use super::device::Device;
use super::error::OnnxError;
use super::graph::{Graph, GraphOptions, Input};
use super::messages::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorTypeProto, TypeProto, ValueInfoProto};
use super::port::DataType;
use super::rows::no_row;
use super::source::EditedGraph;
use super::value::Value;

/// The output of the graphs.
const STACKED: &str = "stacked";

/// `AttributeProto.AttributeType.INT`
const INT: i32 = 2;
/// An `OperatorSetIdProto`: version 18 of ONNX's own operators.
const OPSET_18: &[u8] = &[0x10, 18];

/// A graph, by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    device: Device,
    dtype: DataType,
    /// How many tensors it takes rows of.
    parts: usize,
    /// Whether it makes an axis longer or shorter.
    aligns: bool,
}

/// As [`Value::stack`], for tensors of which one at least is in the memory of `device`, where the result is.
pub(super) fn stack(
    device: Device,
    parts: &[(&Value, &[usize])],
    aligned: Option<(usize, usize)>,
) -> Result<Value, OnnxError> {
    run(device, parts, aligned, &[])
}

/// A copy of `value` in the host's memory.
pub(super) fn fetch(device: Device, value: &Value) -> Result<Value, OnnxError> {
    let rows: Vec<_> = (0..value.shape().first().copied().unwrap_or(0)).collect();
    run(device, &[(value, &rows)], None, &[STACKED])
}

fn run(
    device: Device,
    parts: &[(&Value, &[usize])],
    aligned: Option<(usize, usize)>,
    read: &[&str],
) -> Result<Value, OnnxError> {
    let shapes: Vec<_> = parts.iter().map(|(value, _)| value.shape()).collect();
    let missing =
        |shape: &[usize]| aligned.and_then(|(axis, size)| Some((axis, size as i64 - *shape.get(axis)? as i64)));
    let aligns = shapes.iter().any(|shape| missing(shape).is_some_and(|(_, size)| size != 0));
    let names: Vec<_> = (0..parts.len()).map(names).collect();
    let mut feeds = Vec::with_capacity(3 * parts.len());
    for (((value, rows), shape), [tensor_name, rows_name, pads_name]) in parts.iter().zip(&shapes).zip(&names) {
        let held = shape.first().copied().unwrap_or(0);
        if let Some(row) = rows.iter().find(|row| **row >= held) {
            return Err(no_row(*row, held));
        }
        let rows = Value::from_i64(&[rows.len()], rows.iter().map(|&row| row as i64).collect())?;
        feeds.extend([(tensor_name.as_str(), Input::Shared(value)), (rows_name.as_str(), Input::Owned(rows))]);
        if aligns {
            // elements put before the first of each axis, then those behind the last; fewer than none are taken away
            let mut pads = vec![0; 2 * shape.len()];
            if let Some((axis, size)) = missing(shape) {
                pads[axis] = size;
            }
            feeds.push((pads_name.as_str(), Input::Owned(Value::from_i64(&[pads.len()], pads)?)));
        }
    }
    let dtype = parts.first().map_or(DataType::F32, |(value, _)| value.dtype());
    let graph = graph(Kind { device, dtype, parts: parts.len(), aligns })?;
    // a run leaves nothing behind that a panic could have spoilt
    let mut graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
    graph.run_on_device(&feeds, read)?.remove(STACKED)
}

/// The graph of `kind`, opened when it is first asked for.
fn graph(kind: Kind) -> Result<Arc<Mutex<Graph>>, OnnxError> {
    static OPENED: LazyLock<Mutex<HashMap<Kind, Arc<Mutex<Graph>>>>> = LazyLock::new(Mutex::default);
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(graph) = opened.get(&kind) {
        return Ok(graph.clone());
    }
    let edited = EditedGraph { bytes: kind.model().encode_to_vec(), folder: PathBuf::new() };
    let options = GraphOptions { device: kind.device, threads: 1, varies: true };
    let graph = Arc::new(Mutex::new(Graph::open_edited(Path::new("rows of tensors"), &edited, options)?));
    opened.insert(kind, graph.clone());
    Ok(graph)
}

impl Kind {
    /// `Concat(Pad(Gather(tensor, rows), pads), ...)` on axis 0.
    fn model(self) -> ModelProto {
        let mut graph = GraphProto { name: Some("rows".to_owned()), ..GraphProto::default() };
        let mut picked = Vec::with_capacity(self.parts);
        for place in 0..self.parts {
            let [tensor, rows, pads] = names(place);
            graph.input.extend([declare(&tensor, self.dtype), declare(&rows, DataType::I64)]);
            let mut last = format!("picked {place}");
            graph.node.push(node("Gather", vec![tensor, rows], &last));
            if self.aligns {
                graph.input.push(declare(&pads, DataType::I64));
                let aligned = format!("aligned {place}");
                graph.node.push(node("Pad", vec![last, pads], &aligned));
                last = aligned;
            }
            picked.push(last);
        }
        let mut concat = node("Concat", picked, STACKED);
        let axis = AttributeProto {
            name: Some("axis".to_owned()),
            i: Some(0),
            r#type: Some(INT),
            ..AttributeProto::default()
        };
        concat.attribute.push(axis);
        graph.node.push(concat);
        graph.output.push(declare(STACKED, self.dtype));
        let opset_import = vec![Bytes::from_static(OPSET_18)];
        ModelProto { ir_version: Some(8), graph: Some(graph), opset_import, ..ModelProto::default() }
    }
}

/// What a graph takes of its part at `place`: the tensor, the rows of it, and how much longer each axis is made at either end.
fn names(place: usize) -> [String; 3] {
    ["tensor", "rows", "pads"].map(|what| format!("{what} {place}"))
}

fn node(op_type: &str, input: Vec<String>, output: &str) -> NodeProto {
    NodeProto { op_type: Some(op_type.to_owned()), input, output: vec![output.to_owned()], ..NodeProto::default() }
}

/// An input or output of any shape.
fn declare(name: &str, dtype: DataType) -> ValueInfoProto {
    let tensor_type = Some(TensorTypeProto { elem_type: dtype.to_onnx(), shape: None });
    let r#type = Some(TypeProto { tensor_type, ..TypeProto::default() });
    ValueInfoProto { name: Some(name.to_owned()), r#type, ..ValueInfoProto::default() }
}
