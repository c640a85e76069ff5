//! The element type of every value of a graph. In: a graph whose names are unique, also in the graphs inside it. Out: types by name.

use std::collections::HashMap;

use super::operators::is_standard;
use crate::onnx::edit::graph_index::{attribute, integer};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto, TensorTypeProto, ValueInfoProto};

/// `TensorProto.DataType`
pub(super) const FLOAT: i32 = 1;
const INT32: i32 = 6;
const INT64: i32 = 7;
const BOOL: i32 = 9;

/// Element types by the name of the value; 0 is unknown.
#[derive(Debug, Default)]
pub(super) struct Types(HashMap<String, i32>);

impl Types {
    /// The types of the values of `graph` and of the graphs inside it.
    pub(super) fn of(graph: &GraphProto) -> Self {
        let mut types = Self::default();
        types.add(graph);
        types
    }

    /// The type of `value`, 0 if it is not known.
    pub(super) fn get(&self, value: &str) -> i32 {
        self.0.get(value).copied().unwrap_or(0)
    }

    /// Whether `value` is float32.
    pub(super) fn is_float(&self, value: &str) -> bool {
        self.get(value) == FLOAT
    }

    /// Whether `value` consists of integers or truth values.
    pub(super) fn is_integer(&self, value: &str) -> bool {
        matches!(self.get(value), 2..=7 | 9 | 12 | 13)
    }

    fn add(&mut self, graph: &GraphProto) {
        for input in &graph.input {
            let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
            self.0.insert(input.name().to_owned(), tensor.map_or(0, TensorTypeProto::elem_type));
        }
        let sparse = graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref());
        for tensor in graph.initializer.iter().chain(sparse) {
            self.0.insert(tensor.name().to_owned(), tensor.data_type());
        }
        for node in &graph.node {
            let inner: Vec<_> = node.attribute.iter().flat_map(|held| held.g.iter().chain(&held.graphs)).collect();
            for graph in &inner {
                self.add(graph);
            }
            for (number, output) in node.output.iter().enumerate().filter(|(_, output)| !output.is_empty()) {
                let data_type = self.output(node, number, inner.first().copied());
                self.0.insert(output.clone(), data_type);
            }
        }
    }

    /// The type of output `number` of `node`; `inner` is the first graph inside it.
    fn output(&self, node: &NodeProto, number: usize, inner: Option<&GraphProto>) -> i32 {
        let input = |number: usize| node.input.get(number).map_or(0, |name| self.get(name));
        let named =
            |name: &str, default: i32| integer(node, name).and_then(|kind| i32::try_from(kind).ok()).unwrap_or(default);
        let first_float = || {
            let mut types = node.input.iter().map(|name| self.get(name));
            types
                .clone()
                .find(|data_type| *data_type == FLOAT)
                .or_else(|| types.find(|data_type| *data_type != 0))
                .unwrap_or(0)
        };
        if !is_standard(node) {
            return match (node.op_type(), number) {
                ("EmbedLayerNormalization", 1) => INT32,
                _ => first_float(),
            };
        }
        match (node.op_type(), number) {
            ("If" | "Scan", _) => {
                inner.and_then(|graph| graph.output.get(number)).map_or(0, |value| self.declared(value))
            }
            // the body's first output is the condition
            ("Loop", _) => inner.and_then(|graph| graph.output.get(number + 1)).map_or(0, |value| self.declared(value)),
            ("Cast", _) => named("to", 0),
            ("Constant", _) => constant(node),
            ("ConstantOfShape", _) => {
                attribute(node, "value").and_then(|value| value.t.as_ref()).map_or(FLOAT, TensorProto::data_type)
            }
            ("Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" | "NonMaxSuppression", _)
            | ("TopK" | "MaxPool", 1)
            | ("Unique", 1..) => INT64,
            (
                "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" | "Xor" | "Not"
                | "IsNaN" | "IsInf",
                _,
            )
            | ("Dropout", 1) => BOOL,
            ("LayerNormalization", 1..) => FLOAT,
            ("Where" | "CastLike", _) => input(1),
            ("OneHot", _) => input(2),
            ("RandomNormal" | "RandomUniform" | "EyeLike", _) => named("dtype", FLOAT),
            ("RandomNormalLike" | "RandomUniformLike" | "Bernoulli", _) => named("dtype", input(0)),
            ("Multinomial", _) => named("dtype", INT32),
            ("HannWindow" | "HammingWindow" | "BlackmanWindow" | "MelWeightMatrix", _) => {
                named("output_datatype", FLOAT)
            }
            _ => input(0),
        }
    }

    fn declared(&self, value: &ValueInfoProto) -> i32 {
        self.get(value.name())
    }
}

/// The type of the constant `node`. Those of float32 have become initializers.
fn constant(node: &NodeProto) -> i32 {
    let Some(held) = node.attribute.first() else { return 0 };
    match held.name() {
        "value" => held.t.as_ref().map_or(0, TensorProto::data_type),
        "value_int" | "value_ints" => INT64,
        _ => 0,
    }
}
