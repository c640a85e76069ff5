//! Raises a graph to opset 24, which has the operators of static caches. In: a graph, and its opset. Out: an equal graph of nodes as opset
//! 24 defines them; or the operator that cannot be converted.

use bytes::Bytes;
use prost::Message;

use super::outcome::NotStatic;
use super::values::integers;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto};

/// The opset of `TensorScatter`, and of `Attention` with a length for each row.
pub(super) const STATIC_OPSET: i64 = 24;

/// The lowest opset that is converted.
const LOWEST: i64 = 11;

/// Operators whose nodes of opset 13 mean the same in opset 24. Those that are newer than 13 are here as well.
const UNCHANGED: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Attention",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "Cos",
    "CumSum",
    "DequantizeLinear",
    "Div",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "MatMul",
    "MatMulInteger",
    "Max",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "Not",
    "OneHot",
    "Or",
    "PRelu",
    "Pow",
    "QLinearMatMul",
    "QuantizeLinear",
    "RMSNormalization",
    "Range",
    "Reciprocal",
    "Relu",
    "Reshape",
    "RotaryEmbedding",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Size",
    "Slice",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Sum",
    "Tanh",
    "TensorScatter",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Where",
    "Xor",
];

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, Eq, Message)]
struct OperatorSet {
    #[prost(string, optional, tag = "1")]
    domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    version: Option<i64>,
}

/// The version of ONNX's own operators among `imports`.
pub(in crate::onnx::edit) fn version(imports: &[Bytes]) -> Option<i64> {
    let sets = imports.iter().filter_map(|set| OperatorSet::decode(set.clone()).ok());
    sets.filter(|set| matches!(set.domain(), "" | "ai.onnx")).find_map(|set| set.version)
}

/// `imports` with opset 24 of ONNX's own operators, and ONNX Runtime's operators.
pub(super) fn raised_imports(imports: &[Bytes]) -> Vec<Bytes> {
    const CONTRIB: &str = "com.microsoft";
    let set = |domain: &str, version| {
        let set = OperatorSet { domain: Some(domain.to_owned()), version: Some(version) };
        Bytes::from(set.encode_to_vec())
    };
    let others = imports.iter().filter(|import| {
        OperatorSet::decode((*import).clone()).is_ok_and(|set| !matches!(set.domain(), "" | "ai.onnx" | CONTRIB))
    });
    [set("", STATIC_OPSET), set(CONTRIB, 1)].into_iter().chain(others.cloned()).collect()
}

/// Converts the nodes of `graph` from opset `from`.
///
/// # Errors
/// The operator that cannot be converted.
pub(super) fn raise(mut graph: GraphProto, from: i64) -> Result<GraphProto, NotStatic> {
    if !(LOWEST..=STATIC_OPSET).contains(&from) {
        return Err(NotStatic::because(format!("expected opset {LOWEST} to {STATIC_OPSET}, found {from}")));
    }
    let mut given = Vec::new();
    for (index, node) in graph.node.iter_mut().enumerate() {
        if !matches!(node.domain(), "" | "ai.onnx") {
            continue;
        }
        let fail = || Err(NotStatic::because(format!("{} of opset {from} is not converted", node.op_type())));
        let op = node.op_type().to_owned();
        // where the axes became an input
        let axes_since = match op.as_str() {
            "Squeeze" | "Unsqueeze" | "ReduceSum" => 13,
            _ if op.starts_with("Reduce") => 18,
            _ => 0,
        };
        match op.as_str() {
            _ if axes_since > 0 => {
                if from < axes_since
                    && let Some(axes) = taken(node, "axes")
                {
                    let name = format!("static.axes.{index}");
                    given.push(integers(&name, &[axes.ints.len()], &axes.ints));
                    node.input.truncate(1);
                    node.input.push(name);
                }
            }
            "Split" => {
                if let Some(sizes) = taken(node, "split") {
                    let name = format!("static.split.{index}");
                    given.push(integers(&name, &[sizes.ints.len()], &sizes.ints));
                    node.input.truncate(1);
                    node.input.push(name);
                }
                if from < 18 && node.input.len() < 2 {
                    node.attribute.push(AttributeProto::int("num_outputs", node.output.len() as i64));
                }
            }
            "Softmax" | "LogSoftmax" => {
                let axis = node.attribute.iter().find(|attribute| attribute.name() == "axis").and_then(|axis| axis.i);
                if from < 13 && axis != Some(-1) {
                    return fail();
                }
            }
            "BatchNormalization" | "Dropout" | "Pad" if from >= 14 => {}
            op if UNCHANGED.contains(&op) => {}
            _ => return fail(),
        }
    }
    graph.initializer.extend(given);
    Ok(graph)
}

/// Removes the attribute `name` of `node`.
fn taken(node: &mut NodeProto, name: &str) -> Option<AttributeProto> {
    let at = node.attribute.iter().position(|attribute| attribute.name() == name)?;
    Some(node.attribute.remove(at))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::raise;
    use crate::onnx::edit::constants::numbers;
    use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto};

    fn graph(node: NodeProto) -> GraphProto {
        GraphProto { node: vec![node], ..GraphProto::default() }
    }

    #[test]
    fn attributes_become_inputs() {
        let mean = NodeProto::of("ReduceMean", vec!["x".to_owned()], "y").with(AttributeProto::ints("axes", &[-1]));
        let raised = raise(graph(mean.clone()), 17).unwrap();
        assert_eq!((raised.node[0].input.len(), raised.node[0].attribute.len()), (2, 0));
        assert_eq!(numbers(&raised.initializer[0]), Some(vec![-1.0]));
        let split = NodeProto {
            output: ["a", "b"].map(str::to_owned).to_vec(),
            ..NodeProto::of("Split", vec!["x".to_owned()], "")
        };
        let raised = raise(graph(split.clone()), 13).unwrap();
        assert_eq!((raised.node[0].attribute[0].name(), raised.node[0].attribute[0].i), ("num_outputs", Some(2)));
        let old = raise(graph(split.with(AttributeProto::ints("split", &[3, 1]))), 11).unwrap();
        assert_eq!(numbers(&old.initializer[0]), Some(vec![3.0, 1.0]));
        assert!(old.node[0].attribute.is_empty());
    }

    #[test]
    fn what_is_not_converted_is_named() {
        let softmax = graph(NodeProto::of("Softmax", vec!["x".to_owned()], "y"));
        assert_eq!(raise(softmax.clone(), 11).unwrap_err().reason, "Softmax of opset 11 is not converted");
        assert!(raise(softmax.clone(), 13).is_ok());
        assert_eq!(raise(softmax, 9).unwrap_err().reason, "expected opset 11 to 24, found 9");
        let unknown = graph(NodeProto::of("Swish2", vec!["x".to_owned()], "y"));
        assert_eq!(raise(unknown, 17).unwrap_err().reason, "Swish2 of opset 17 is not converted");
    }
}
