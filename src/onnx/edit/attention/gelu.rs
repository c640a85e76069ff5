//! Replaces GELU by its approximation with tanh (Hendrycks, Gimpel, arXiv 1606.08415) where a graph computes it step by step. In: a graph.
//! Out: an equal graph with `com.microsoft.FastGelu`, which also adds the bias of the preceding product.
//!
//! ONNX Runtime does this itself for GELU by erf and for `x * sigmoid(1.702 x)`, but not for all exports of this one.

use std::collections::HashMap;

use super::new_nodes::microsoft;
use crate::onnx::edit::graph_index::GraphIndex;
use crate::onnx::edit::known_values::KnownValues;
use crate::onnx::proto::{GraphProto, NodeProto};

/// sqrt(2 / pi)
const FACTOR: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

/// How much a constant that was rounded to float16 differs from the exact one, relative to it.
const ROUNDING: f64 = 1e-3;

/// The graph of `index`, whose values `known` describes, with each such function as one operator; and how many there are.
pub(crate) fn fast_gelus(index: &GraphIndex<'_>, known: &KnownValues) -> (GraphProto, usize) {
    let gelu = Gelu { index, known };
    let tanh = index.graph.node.iter().filter(|node| node.op_type() == "Tanh");
    let mut instead: HashMap<usize, NodeProto> = tanh.filter_map(|node| gelu.replaced(node)).collect();
    let count = instead.len();
    let mut graph = index.graph.clone();
    graph.node = std::mem::take(&mut graph.node)
        .into_iter()
        .enumerate()
        .map(|(number, node)| instead.remove(&number).unwrap_or(node))
        .collect();
    (graph, count)
}

#[derive(Debug)]
struct Gelu<'a> {
    index: &'a GraphIndex<'a>,
    known: &'a KnownValues,
}

impl<'a> Gelu<'a> {
    /// The operator for `x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`, whose tanh is `node`, and the number of the node that it
    /// replaces.
    fn replaced(&self, node: &'a NodeProto) -> Option<(usize, NodeProto)> {
        let inner = self.times(node.input.first()?, FACTOR)?;
        let [one, other] = self.inputs(inner, "Add")?;
        let x = match (self.cube(other), self.cube(one)) {
            (Some(x), _) if x == one => one,
            (_, Some(x)) if x == other => other,
            _ => return None,
        };
        let plus = self.only(node.output.first()?, "Add")?;
        let one = plus.input.iter().any(|input| self.is(input, 1.0));
        let product = self.only(plus.output.first()?, "Mul")?;
        let other = product.input.iter().find(|input| *input != &plus.output[0])?;
        let output = product.output.first().filter(|_| one)?;
        let last = if other == x {
            // x * (1 + tanh) * 0.5
            let half = self.only(output, "Mul")?;
            half.input.iter().any(|input| self.is(input, 0.5)).then(|| half.output.first())??
        } else if self.times(other, 0.5)? == x {
            output
        } else {
            return None;
        };
        // the bias of a product, if there is one: a vector that is an initializer of this graph
        let with_bias = self.inputs(x, "Add").and_then(|[a, b]| {
            let last_axis = |name: &str| self.known.shape(name).and_then(|shape| shape.last().copied());
            let vector = |name: &str| {
                let own = self.index.graph.initializer.iter().any(|tensor| tensor.name() == name);
                own && self.known.rank(name) == Some(1) && last_axis(name) == last_axis(x)
            };
            let whole = |name: &str| self.known.shape(name).is_some() && self.known.shape(name) == self.known.shape(x);
            match (vector(a), vector(b)) {
                (true, false) if whole(b) => Some([b, a]),
                (false, true) if whole(a) => Some([a, b]),
                _ => None,
            }
        });
        let input: &[&str] = match &with_bias {
            Some(input) => input,
            None => &[x],
        };
        Some((self.index.position(last)?, microsoft("FastGelu", input, &[last], Vec::new())))
    }

    /// What `value` is the product of with the number `factor`.
    fn times(&self, value: &str, factor: f64) -> Option<&'a str> {
        let [one, other] = self.inputs(value, "Mul")?;
        if self.is(other, factor) { Some(one) } else { self.is(one, factor).then_some(other) }
    }

    /// `x`, if `value` is `0.044715 x^3`.
    fn cube(&self, value: &str) -> Option<&'a str> {
        let cube = self.times(value, CUBIC)?;
        if let Some([x, power]) = self.inputs(cube, "Pow") {
            return self.is(power, 3.0).then_some(x);
        }
        let [one, other] = self.inputs(cube, "Mul")?;
        let square = |value: &str| self.inputs(value, "Mul").filter(|[a, b]| a == b).map(|[x, _]| x);
        match (square(one), square(other)) {
            (_, Some(x)) if x == one => Some(one),
            (Some(x), _) if x == other => Some(other),
            _ => None,
        }
    }

    /// The two inputs of the node that computes `value`, if it is an `op_type`.
    fn inputs(&self, value: &str, op_type: &str) -> Option<[&'a str; 2]> {
        match self.index.producer_of(value, op_type)?.input.as_slice() {
            [one, other] => Some([one, other]),
            _ => None,
        }
    }

    /// The only node that uses `value`, if it is an `op_type` and `value` is no output of the graph.
    fn only(&self, value: &str, op_type: &str) -> Option<&'a NodeProto> {
        let mut users = self.index.consumers(value);
        let user = users.next().filter(|node| node.op_type() == op_type && !self.index.is_output(value))?;
        users.next().is_none().then_some(user)
    }

    fn is(&self, value: &str, number: f64) -> bool {
        self.known.number(value).is_some_and(|known| (known - number).abs() <= number * ROUNDING)
    }
}
