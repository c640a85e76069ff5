//! What is known about operators. In: a node. Out: whether it stays in float32.

use super::half::HalfPrecision;
use crate::onnx::edit::graph_index::attribute;
use crate::onnx::proto::NodeProto;

/// Operators that stay in float32, because ONNX or ONNX Runtime's kernels do not have them in float16, or because numbers of 11 bits
/// are not enough for what they compute.
///
/// The first lines are `DEFAULT_OP_BLOCK_LIST` of onnxconverter-common 1.16
/// (<https://github.com/microsoft/onnxconverter-common/blob/master/onnxconverter_common/float16.py>), without operators of
/// `ai.onnx.ml`, which all stay in float32; the others follow ONNX's type constraints and
/// <https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md>.
const FLOAT32: [&str; 34] = [
    "RandomUniformLike",
    "NonMaxSuppression",
    "TopK",
    "RoiAlign",
    "Resize",
    "Range",
    "CumSum",
    "Min",
    "Max",
    "Upsample",
    // the kind of the numbers is an attribute
    "RandomUniform",
    "RandomNormal",
    "RandomNormalLike",
    "Bernoulli",
    "Multinomial",
    "EyeLike",
    // no float16 in ONNX or on a GPU
    "IsInf",
    "Det",
    "GridSample",
    "AffineGrid",
    "CenterCropPad",
    "DFT",
    "STFT",
    "MelWeightMatrix",
    "BlackmanWindow",
    "HammingWindow",
    "HannWindow",
    "Col2Im",
    "MaxRoiPool",
    "MaxUnpool",
    // angles of rotary embeddings, and probabilities
    "Cos",
    "Sin",
    "Softmax",
    "LogSoftmax",
];

/// Operators that may be computed in bfloat16, and the version of ONNX's operators from which on both ONNX allows it and ONNX Runtime
/// has a kernel for GPUs; everything else stays in float32.
const BFLOAT16: [(&str, i64); 32] = [
    ("Add", 13),
    ("Cast", 13),
    ("Concat", 13),
    ("Div", 13),
    ("Erf", 13),
    ("Exp", 13),
    ("Expand", 13),
    ("Flatten", 13),
    ("Gather", 13),
    ("GatherElements", 13),
    ("Gelu", 20),
    ("Gemm", 13),
    ("Identity", 13),
    ("LayerNormalization", 17),
    ("MatMul", 13),
    ("Mul", 13),
    ("Neg", 13),
    ("Pow", 15),
    ("RMSNormalization", 23),
    ("Reshape", 13),
    ("Shape", 13),
    ("Sigmoid", 13),
    ("Slice", 13),
    ("Split", 13),
    ("Sqrt", 13),
    ("Squeeze", 13),
    ("Sub", 13),
    ("Sum", 13),
    ("Tanh", 13),
    ("Transpose", 13),
    ("Unsqueeze", 13),
    ("Where", 16),
];

/// Operators of quantised graphs.
const QUANTISED: [&str; 12] = [
    "DequantizeLinear",
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
    "MatMulNBits",
    "MatMulBnb4",
    "GatherBlockQuantized",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
];

/// Whether the node is ONNX's own.
pub(super) fn is_standard(node: &NodeProto) -> bool {
    matches!(node.domain(), "" | "ai.onnx")
}

/// Whether the node holds graphs, whose values it passes on.
pub(super) fn is_control(node: &NodeProto) -> bool {
    is_standard(node) && matches!(node.op_type(), "If" | "Loop" | "Scan")
}

/// Whether the node is of a quantised graph.
pub(super) fn is_quantised(node: &NodeProto) -> bool {
    QUANTISED.contains(&node.op_type())
}

/// Whether the node passes on values in containers, whose element types are not followed.
pub(super) fn has_containers(node: &NodeProto) -> bool {
    let op_type = node.op_type();
    is_standard(node)
        && (op_type.contains("Sequence") || op_type.starts_with("Optional") || matches!(op_type, "ZipMap" | "CastMap"))
}

/// Whether the node stays in float32 whatever it is fed with. `opset` is the version of ONNX's operators.
pub(super) fn stays(node: &NodeProto, half: HalfPrecision, opset: i64) -> bool {
    if is_control(node) {
        return false;
    }
    let op_type = node.op_type();
    let known = match (half, node.domain()) {
        (HalfPrecision::F16, "com.microsoft") => true,
        (HalfPrecision::F16, "" | "ai.onnx") => !FLOAT32.contains(&op_type),
        (HalfPrecision::Bf16, "" | "ai.onnx") => {
            BFLOAT16.iter().any(|(name, since)| *name == op_type && opset >= *since)
        }
        _ => false,
    };
    !known || attribute(node, "dtype").is_some()
}

/// Whether the output of this number is float32 whatever the inputs are: the statistics of a normalization.
pub(super) fn is_statistic_output(node: &NodeProto, number: usize) -> bool {
    match node.op_type() {
        "LayerNormalization" | "SimplifiedLayerNormalization" => number > 0,
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => matches!(number, 1 | 2),
        _ => false,
    }
}

/// Whether the input of this number is float32 whatever the others are.
pub(super) fn is_float32_input(node: &NodeProto, number: usize) -> bool {
    matches!(node.op_type(), "GroupNorm" | "SkipGroupNorm") && matches!(number, 1 | 2)
}

/// Whether the node averages or sums: what it computes is a statistic, in which small differences count.
pub(super) fn is_reduction(node: &NodeProto) -> bool {
    is_standard(node) && node.op_type().starts_with("Reduce") && !matches!(node.op_type(), "ReduceMax" | "ReduceMin")
}

/// Whether the node makes of a statistic another one.
pub(super) fn keeps_statistic(node: &NodeProto) -> bool {
    let op_type = node.op_type();
    uses_statistic(node)
        || is_layout(node)
        || matches!(op_type, "Sqrt" | "Reciprocal" | "Clip" | "Max" | "Min" | "Abs" | "Neg" | "Exp" | "Log")
}

/// Whether the node applies a statistic to values, as a normalization does.
pub(super) fn uses_statistic(node: &NodeProto) -> bool {
    is_standard(node) && matches!(node.op_type(), "Add" | "Sub" | "Mul" | "Div" | "Pow")
}

/// Whether the node squares values for a reduction.
pub(super) fn is_square(node: &NodeProto) -> bool {
    is_standard(node) && matches!(node.op_type(), "Pow" | "Mul" | "Abs")
}

/// Whether the node may stand between the product of queries and keys and its softmax.
pub(super) fn is_score(node: &NodeProto) -> bool {
    is_standard(node)
        && (is_layout(node)
            || matches!(node.op_type(), "Add" | "Sub" | "Mul" | "Div" | "Where" | "Max" | "Min" | "Clip"))
}

/// Whether the node only gives values another shape.
fn is_layout(node: &NodeProto) -> bool {
    is_standard(node) && matches!(node.op_type(), "Reshape" | "Unsqueeze" | "Squeeze" | "Expand" | "Identity")
}
