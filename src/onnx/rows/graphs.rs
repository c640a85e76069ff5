//! Graphs that gather rows of tensors. In: of how many tensors, and of which type. Out: an encoded model.

use bytes::Bytes;
use prost::Message;

use crate::onnx::port::DataType;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};

/// The name of the output.
pub(crate) const STACKED: &str = "stacked";

/// An `OperatorSetIdProto`: version 18 of ONNX's own operators.
pub(crate) const OPSET_18: &[u8] = &[0x10, 18];

/// What a graph that gathers rows of tensors does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowGraph {
    pub(crate) dtype: DataType,
    /// The number of tensors.
    pub(crate) parts: usize,
    /// Whether it pads or crops axes.
    pub(crate) aligns: bool,
}

/// The names of the inputs for the tensor at `index`: the tensor, its rows, and by how much each axis is padded at either end.
pub(crate) fn names(index: usize) -> [String; 3] {
    ["tensor", "rows", "pads"].map(|what| format!("{what} {index}"))
}

impl RowGraph {
    /// `Concat(Pad(Gather(tensor, rows), pads), ...)` on axis 0.
    pub(crate) fn encode(self) -> Vec<u8> {
        let any_shape = |name: &str, dtype| ValueInfoProto::tensor(name, dtype, None);
        let mut graph = GraphProto { name: Some("rows".to_owned()), ..GraphProto::default() };
        let mut stacked = Vec::with_capacity(self.parts);
        for index in 0..self.parts {
            let [tensor, rows, pads] = names(index);
            graph.input.extend([any_shape(&tensor, self.dtype), any_shape(&rows, DataType::I64)]);
            let mut last = format!("gathered {index}");
            graph.node.push(NodeProto::of("Gather", vec![tensor, rows], &last));
            if self.aligns {
                graph.input.push(any_shape(&pads, DataType::I64));
                let aligned = format!("aligned {index}");
                graph.node.push(NodeProto::of("Pad", vec![last, pads], &aligned));
                last = aligned;
            }
            stacked.push(last);
        }
        graph.output.push(any_shape(STACKED, self.dtype));
        if let (Some(last), 1) = (graph.node.last_mut(), self.parts) {
            last.output = vec![STACKED.to_owned()];
        } else {
            let axis = AttributeProto::int("axis", 0);
            graph.node.push(NodeProto { attribute: vec![axis], ..NodeProto::of("Concat", stacked, STACKED) });
        }
        let opset_import = vec![Bytes::from_static(OPSET_18)];
        ModelProto { ir_version: Some(8), graph: Some(graph), opset_import, ..ModelProto::default() }.encode_to_vec()
    }
}
