//! What a graph declares: inputs, outputs, and the files that hold its weights. In: a [`GraphSource`]. Out: a [`GraphHeader`].
//! No weights are read and no ONNX Runtime is needed, so planning and `inspect` stay fast.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::extract::uses;
use super::file::OnnxFile;
use crate::onnx::error::OnnxError;
use crate::onnx::port::{DataType, Dim, GraphSource, Port};
use crate::onnx::proto::{AttributeProto, DimensionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// The declarations of one graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GraphHeader {
    /// The inputs, without initializers that are listed among them.
    pub inputs: Vec<Port>,
    /// The outputs.
    pub outputs: Vec<Port>,
    /// The files beside the graph that hold weights, as its tensors name them: relative to its folder, and unchecked.
    /// [`GraphSource::external_file`] says where they are.
    pub external_files: BTreeSet<String>,
    /// The inputs that are used by `Shape` and `Concat` nodes only. They may be empty: the graph appends to them, as to a cache.
    pub appended: BTreeSet<String>,
    /// The numbers of rows of the weights that the graph takes rows of (`Gather`, `Slice`), such as token and position embeddings:
    /// the size of axis 0, or of axis 1 for a weight of shape `[1, size, ...]`.
    pub table_sizes: BTreeSet<usize>,
}

impl GraphHeader {
    /// Reads the declarations of `source`.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Load`](crate::onnx::OnnxErrorKind::Load) if the file cannot be read, is no ONNX graph or has no such output.
    pub fn read(source: &GraphSource) -> Result<Self, OnnxError> {
        let file = OnnxFile::read(source)?;
        let graph = &file.graph;
        let initializers: BTreeSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
        Ok(Self {
            inputs: graph.input.iter().filter(|input| !initializers.contains(input.name())).map(port).collect(),
            outputs: graph.output.iter().map(port).collect(),
            external_files: file.locations(),
            appended: appended(graph),
            table_sizes: table_sizes(graph),
        })
    }

    /// The input called `name`.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// The output called `name`.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|port| port.name == name)
    }
}

fn appended(graph: &GraphProto) -> BTreeSet<String> {
    let appends = |node: &&NodeProto| matches!(node.op_type(), "Concat" | "Shape");
    let (appended, other): (Vec<_>, Vec<_>) = graph.node.iter().partition(appends);
    let appended: HashSet<&str> = appended.into_iter().flat_map(uses).collect();
    let mut other: HashSet<&str> = other.into_iter().flat_map(uses).collect();
    other.extend(graph.output.iter().map(ValueInfoProto::name));
    let names = graph.input.iter().map(ValueInfoProto::name);
    names.filter(|name| appended.contains(name) && !other.contains(name)).map(str::to_owned).collect()
}

fn table_sizes(graph: &GraphProto) -> BTreeSet<usize> {
    const TAKE_ROWS: [&str; 3] = ["Gather", "GatherBlockQuantized", "Slice"];
    let (mut nodes, mut weights) = (Vec::new(), HashMap::new());
    of_all_graphs(graph, &mut nodes, &mut weights);
    let tables = nodes.iter().filter(|node| TAKE_ROWS.contains(&node.op_type())).filter_map(|node| node.input.first());
    let size = |tensor: &&TensorProto| match tensor.dims.as_slice() {
        [1, size, _, ..] | [size, _, ..] => usize::try_from(*size).ok(),
        _ => None,
    };
    tables.filter_map(|name| weights.get(name.as_str()).and_then(size)).collect()
}

/// Collects the nodes and the named weights, constants included, of `graph` and the graphs inside it.
fn of_all_graphs<'a>(
    graph: &'a GraphProto,
    nodes: &mut Vec<&'a NodeProto>,
    weights: &mut HashMap<&'a str, &'a TensorProto>,
) {
    weights.extend(graph.initializer.iter().map(|tensor| (tensor.name(), tensor)));
    for node in &graph.node {
        nodes.push(node);
        for AttributeProto { t, g, graphs, .. } in &node.attribute {
            if let ("Constant", Some(tensor), Some(output)) = (node.op_type(), t, node.output.first()) {
                weights.insert(output, tensor);
            }
            g.iter().chain(graphs).for_each(|graph| of_all_graphs(graph, nodes, weights));
        }
    }
}

/// What `value` declares.
pub(super) fn port(value: &ValueInfoProto) -> Port {
    let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let dtype = tensor.map_or(DataType::Other("not a tensor"), |tensor| DataType::from_onnx(tensor.elem_type()));
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| shape.dim.iter().map(dim).collect());
    Port { name: value.name().to_owned(), dtype, shape }
}

fn dim(dim: &DimensionProto) -> Dim {
    // a negative number, as some exporters write, means any size
    let size = dim.dim_value.and_then(|size| usize::try_from(size).ok());
    size.map_or_else(|| Dim::Any(dim.dim_param().to_owned()), Dim::Fixed)
}
