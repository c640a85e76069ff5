//! What a graph says about its values without being run. In: a graph. Out: for each value its shape and, for small vectors, its elements;
//! sizes that are not known have names, so that equal ones are recognised.
//!
//! What is not known is left unknown; what is said here holds for every input that the graph accepts.

use std::collections::HashMap;

use super::elements::{choose, square_root};
use super::known::{BOOL, INT64, Known, KnownElement, KnownValues, MOST_AXES, Size, integers_of, place};
use super::shapes::{gathered, shape_of, squeezed, unsqueezed};
use crate::onnx::edit::constants::{is_integer, numbers};
use crate::onnx::edit::graph_index::{GraphIndex, attribute, integer, integers};
use crate::onnx::proto::{DimensionProto, NodeProto, TensorProto, TensorTypeProto, ValueInfoProto};

impl KnownValues {
    /// What is known about the values of `index`'s graph; `outer` is what is known about the values of the graph around it. A value that
    /// `same_shape` names has the shape of the value that it maps to.
    pub(crate) fn of(index: &GraphIndex<'_>, outer: Option<&Self>, same_shape: &HashMap<String, String>) -> Self {
        let mut known = outer.cloned().unwrap_or_default();
        let mut params = HashMap::new();
        for input in &index.graph.input {
            if index.constant(input.name()).is_none() {
                let value = known.declared(input, &mut params);
                known.values.insert(input.name().to_owned(), value);
            }
        }
        for tensor in &index.graph.initializer {
            known.values.insert(tensor.name().to_owned(), constant(tensor));
        }
        for node in &index.graph.node {
            let Some(output) = node.output.first() else { continue };
            let values = match index.constant(output) {
                Some(tensor) => vec![constant(tensor)],
                None => known.outputs(node),
            };
            let values = values.into_iter().map(|value| match &value.shape {
                Some(shape) if shape.len() > MOST_AXES => Known { shape: None, ..value },
                _ => value,
            });
            known.values.extend(node.output.iter().zip(values).map(|(name, value)| (name.clone(), value)));
            if let Some(shape) = same_shape.get(output).and_then(|other| known.shape(other)).map(<[Size]>::to_vec) {
                known.values.entry(output.clone()).or_default().shape = Some(shape);
            }
        }
        known
    }

    fn declared(&mut self, input: &ValueInfoProto, params: &mut HashMap<String, Size>) -> Known {
        let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
        let mut size = |dim: &DimensionProto| match (dim.dim_value, dim.dim_param()) {
            (Some(number), _) if number >= 0 => Size::Number(number),
            (_, "") => self.fresh(),
            (_, name) => *params.entry(name.to_owned()).or_insert_with(|| self.fresh()),
        };
        let shape =
            tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| shape.dim.iter().map(&mut size).collect());
        Known { shape, elements: None, data_type: tensor.map_or(0, TensorTypeProto::elem_type) }
    }

    fn outputs(&mut self, node: &NodeProto) -> Vec<Known> {
        let inputs: Vec<Known> =
            node.input.iter().map(|name| self.values.get(name).cloned().unwrap_or_default()).collect();
        if !matches!(node.domain(), "" | "ai.onnx") {
            return Vec::new();
        }
        if node.op_type() == "Split" {
            return self.split(node, &inputs);
        }
        let input = |number: usize| inputs.get(number).cloned().unwrap_or_default();
        let known = self.elementwise(node, &input).or_else(|| self.structural(node, &input, &inputs));
        vec![known.unwrap_or_default()]
    }

    /// The output of an operator that treats each element alike.
    fn elementwise(&mut self, node: &NodeProto, input: &impl Fn(usize) -> Known) -> Option<Known> {
        let shape = |number: usize| input(number).shape;
        Some(match node.op_type() {
            "Cast" => {
                let data_type = integer(node, "to").and_then(|to| i32::try_from(to).ok()).unwrap_or(0);
                let whole = data_type != 0 && is_integer(data_type);
                let cast = |element| match element {
                    KnownElement::Number(number) if whole => KnownElement::Number(number.trunc()),
                    element => element,
                };
                let elements = input(0).elements.map(|all| all.into_iter().map(cast).collect());
                Known { elements, data_type, ..input(0) }
            }
            "Identity" => input(0),
            "Sqrt" => {
                Known { elements: input(0).elements.map(|all| all.into_iter().map(square_root).collect()), ..input(0) }
            }
            "Softmax" | "LogSoftmax" | "LayerNormalization" | "Dropout" | "Erf" | "Sigmoid" | "Tanh" | "Neg"
            | "Relu" | "Gelu" | "Cos" | "Sin" | "Exp" | "Log" | "Abs" | "Clip" | "Trilu" | "ScatterND"
            | "Reciprocal" | "CumSum" => Known { elements: None, ..input(0) },
            "Not" | "IsNaN" => Known { elements: None, data_type: BOOL, ..input(0) },
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Equal" => {
                let elements = self.arithmetic(node.op_type(), &input(0), &input(1));
                let shape = self.broadcast(shape(0), shape(1));
                let data_type = if node.op_type() == "Equal" { BOOL } else { input(0).data_type };
                Known { shape, elements, data_type }
            }
            "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" => {
                Known { shape: self.broadcast(shape(0), shape(1)), elements: None, data_type: BOOL }
            }
            "Where" => {
                let values = self.broadcast(shape(1), shape(2));
                let shape = self.broadcast(shape(0), values);
                Known { shape, elements: choose(&input(0), &input(1), &input(2)), data_type: input(1).data_type }
            }
            _ => return None,
        })
    }

    /// The output of an operator that moves, joins, repeats or multiplies.
    fn structural(&mut self, node: &NodeProto, input: &impl Fn(usize) -> Known, inputs: &[Known]) -> Option<Known> {
        let shape = |number: usize| input(number).shape;
        Some(match node.op_type() {
            "MatMul" => Known { shape: self.product(shape(0), shape(1)), elements: None, ..input(0) },
            "Gemm" => {
                let axis = usize::from(integer(node, "transB") != Some(1));
                let columns = shape(1).and_then(|shape| shape.get(axis).copied());
                let rows =
                    shape(0).and_then(|shape| shape.get(usize::from(integer(node, "transA") == Some(1))).copied());
                Known {
                    shape: rows.zip(columns).map(|(rows, columns)| vec![rows, columns]),
                    elements: None,
                    ..input(0)
                }
            }
            "Transpose" => {
                let axes = integers(node, "perm");
                let at = |shape: &Vec<Size>, &axis: &i64| {
                    usize::try_from(axis).ok().and_then(|axis| shape.get(axis).copied())
                };
                let shape = shape(0).and_then(|shape| match axes {
                    [] => Some(shape.into_iter().rev().collect()),
                    _ => axes.iter().map(|axis| at(&shape, axis)).collect(),
                });
                Known { shape, elements: None, ..input(0) }
            }
            "Shape" => match shape(0) {
                Some(shape) => shape_of(node, &shape),
                None => Known { shape: Some(vec![self.fresh()]), elements: None, data_type: INT64 },
            },
            "Reshape" => Known { shape: self.reshaped(shape(0), &input(1)), ..input(0) },
            "Expand" => {
                let target = self.target(&input(1));
                Known { shape: self.broadcast(shape(0), target), elements: None, ..input(0) }
            }
            "ConstantOfShape" => {
                let shape = self.target(&input(0));
                let fill = attribute(node, "value").and_then(|attribute| attribute.t.as_ref());
                let value = fill.map_or(Some(0.0), |tensor| numbers(tensor)?.first().copied());
                let count = shape.as_ref().and_then(|shape| match shape.as_slice() {
                    [] => Some(1),
                    [size] => size.number().filter(|&size| size <= 64),
                    _ => None,
                });
                let elements = value.zip(count).map(|(value, count)| vec![KnownElement::Number(value); count]);
                Known { shape, elements, data_type: fill.map_or(1, TensorProto::data_type) }
            }
            "Range" => Known { shape: Some(vec![self.fresh()]), elements: None, data_type: input(0).data_type },
            "Concat" => self.concatenated(node, inputs),
            "Gather" => gathered(node, &input(0), &input(1)),
            "Slice" => self.sliced(inputs),
            "Unsqueeze" | "Squeeze" => {
                let axes =
                    if node.input.len() > 1 { integers_of(&input(1)) } else { Some(integers(node, "axes").to_vec()) };
                let shape = shape(0).zip(axes).and_then(|(shape, axes)| match node.op_type() {
                    "Unsqueeze" => unsqueezed(shape, &axes),
                    _ => squeezed(shape, &axes),
                });
                Known { shape, ..input(0) }
            }
            "Conv" => {
                let shape = shape(0).zip(shape(1)).map(|(data, weight)| {
                    let spatial = (2..data.len()).map(|_| self.fresh()).collect::<Vec<_>>();
                    data.first().into_iter().chain(weight.first()).copied().chain(spatial).collect()
                });
                Known { shape, elements: None, ..input(0) }
            }
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL2" => {
                let axes =
                    if node.input.len() > 1 { integers_of(&input(1)) } else { Some(integers(node, "axes").to_vec()) };
                let shape = shape(0).zip(axes).filter(|_| integer(node, "keepdims") != Some(0)).map(|(shape, axes)| {
                    let reduced = |axis| axes.is_empty() || axes.iter().any(|&at| place(at, shape.len()) == Some(axis));
                    (0..shape.len()).map(|axis| if reduced(axis) { Size::Number(1) } else { shape[axis] }).collect()
                });
                Known { shape, elements: None, ..input(0) }
            }
            "Flatten" | "Tile" => {
                let rank = if node.op_type() == "Flatten" { Some(2) } else { shape(0).map(|shape| shape.len()) };
                let shape = rank.map(|rank| (0..rank).map(|_| self.fresh()).collect());
                Known { shape, elements: None, ..input(0) }
            }
            _ => return None,
        })
    }
}

fn constant(tensor: &TensorProto) -> Known {
    let elements = (tensor.dims.len() <= 1).then(|| numbers(tensor)).flatten();
    Known {
        shape: Some(tensor.dims.iter().map(|&size| Size::Number(size)).collect()),
        elements: elements.map(|all| all.into_iter().map(KnownElement::Number).collect()),
        data_type: tensor.data_type(),
    }
}
