//! Graphs that gather vectors (along the last axis) of tensors, and that find rows which are not finite. In: the types of the tensors. Out:
//! an encoded model.

use bytes::Bytes;
use prost::Message;

use super::graphs::OPSET_18;
use crate::onnx::port::DataType;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

/// A graph for vectors or for a check of rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum VectorGraph {
    /// Gathers vectors of tensors of these types, as `to`.
    Vectors { from: Vec<DataType>, to: DataType },
    /// Whether rows of this type are finite.
    Finite(DataType),
}

/// The output.
pub(crate) const OUTPUT: &str = "result";
/// The input for the two sizes that tensors are reshaped to.
pub(crate) const SHAPE: &str = "shape";
/// The input for the numbers of vectors.
pub(crate) const INDEX: &str = "index";

/// The input for a tensor.
pub(crate) fn tensor_name(number: usize) -> String {
    format!("tensor {number}")
}

impl VectorGraph {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let graph = match self {
            Self::Vectors { from, to } => vectors(from, *to),
            Self::Finite(dtype) => finite(*dtype),
        };
        let opset_import = vec![Bytes::from_static(OPSET_18)];
        ModelProto { ir_version: Some(8), graph: Some(graph), opset_import, ..ModelProto::default() }.encode_to_vec()
    }
}

/// `Gather(Concat(Cast(Reshape(tensor, [-1, width])), ...), index)`
fn vectors(from: &[DataType], to: DataType) -> GraphProto {
    let mut graph = GraphProto { name: Some("vectors".to_owned()), ..GraphProto::default() };
    graph.input.extend([any_shape(INDEX, DataType::I64), any_shape(SHAPE, DataType::I64)]);
    let mut flat = Vec::with_capacity(from.len());
    for (number, &dtype) in from.iter().enumerate() {
        let tensor = tensor_name(number);
        graph.input.push(any_shape(&tensor, dtype));
        let mut last = format!("flat {number}");
        graph.node.push(NodeProto::of("Reshape", vec![tensor, SHAPE.to_owned()], &last));
        if dtype != to {
            let cast = format!("cast {number}");
            graph.node.push(cast_node(last, &cast, to));
            last = cast;
        }
        flat.push(last);
    }
    let table = "table".to_owned();
    let attribute = vec![AttributeProto::int("axis", 0)];
    graph.node.push(NodeProto { attribute, ..NodeProto::of("Concat", flat, &table) });
    graph.node.push(NodeProto::of("Gather", vec![table, INDEX.to_owned()], OUTPUT));
    graph.output.push(any_shape(OUTPUT, to));
    graph
}

/// `Cast(ReduceSum(x - x))`, which is 0 for rows of finite values and NaN for others.
fn finite(dtype: DataType) -> GraphProto {
    let mut graph = GraphProto { name: Some("finite".to_owned()), ..GraphProto::default() };
    let tensor = tensor_name(0);
    graph.input.extend([any_shape(&tensor, dtype), any_shape(SHAPE, DataType::I64)]);
    let axes = TensorProto {
        name: Some("axes".to_owned()),
        dims: vec![1],
        data_type: DataType::I64.to_onnx(),
        raw_data: Some(Bytes::copy_from_slice(&1_i64.to_le_bytes())),
        ..TensorProto::default()
    };
    graph.initializer.push(axes);
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    graph.node.push(NodeProto::of("Reshape", names(&[&tensor, SHAPE]), "flat"));
    graph.node.push(NodeProto::of("Sub", names(&["flat", "flat"]), "difference"));
    let attribute = vec![AttributeProto::int("keepdims", 0)];
    graph.node.push(NodeProto { attribute, ..NodeProto::of("ReduceSum", names(&["difference", "axes"]), "sum") });
    graph.node.push(cast_node("sum".to_owned(), OUTPUT, DataType::F32));
    graph.output.push(any_shape(OUTPUT, DataType::F32));
    graph
}

fn cast_node(input: String, output: &str, to: DataType) -> NodeProto {
    NodeProto {
        attribute: vec![AttributeProto::int("to", to.to_onnx().map_or(0, i64::from))],
        ..NodeProto::of("Cast", vec![input], output)
    }
}

fn any_shape(name: &str, dtype: DataType) -> ValueInfoProto {
    ValueInfoProto::tensor(name, dtype, None)
}
