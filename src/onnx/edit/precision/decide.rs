//! Which nodes are computed in float32. In: the nodes of a model. Out: the names of the first outputs of those nodes, and which values
//! may be out of the range of float16.
//!
//! Float32 stay:
//! - operators that are not there in the other type ([`operators::stays`]);
//! - what is computed from integers and small constants only: positions, angles, masks. Integers beyond 2,048 are not exact in
//!   float16, and masks are filled with numbers that it does not have;
//! - reductions and what is made of them up to the values that they normalise: `Pow`, `ReduceMean`, `Add`, `Sqrt` and `Div` of a layer
//!   normalization or of the norm of a vector;
//! - softmax, and the scale and masks between it and the product of queries and keys;
//! - a node with a number that becomes zero or infinite.

use std::collections::{HashMap, HashSet};

use super::half::HalfPrecision;
use super::operators;
use super::types::Types;
use super::weights;
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// A constant of at most as many bytes is no weight.
pub(super) const SMALL: usize = 1024;
/// Nodes between a softmax and the product before it.
const MOST_SCORES: usize = 12;

/// What is decided.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// The first outputs of the nodes that are computed in float32.
    pub(super) single: HashSet<String>,
    /// Values in float32 that may hold numbers that the other type does not have.
    pub(super) wide: HashSet<String>,
}

/// The small float32 initializers of a model, by name.
pub(super) type Constants = HashMap<String, TensorProto>;

/// The nodes of `graph`, each before those of the graphs inside it.
pub(super) fn nodes_of(graph: &GraphProto) -> Vec<&NodeProto> {
    let mut nodes = Vec::new();
    collect(graph, &mut nodes);
    nodes
}

fn collect<'a>(graph: &'a GraphProto, nodes: &mut Vec<&'a NodeProto>) {
    for node in &graph.node {
        nodes.push(node);
        node.attribute
            .iter()
            .flat_map(|held| held.g.iter().chain(&held.graphs))
            .for_each(|graph| collect(graph, nodes));
    }
}

/// The name of `node`: that of its first output. `None` if it has none.
pub(super) fn key(node: &NodeProto) -> Option<&str> {
    node.output.iter().find(|output| !output.is_empty()).map(String::as_str)
}

struct Deciding<'a> {
    nodes: &'a [&'a NodeProto],
    types: &'a Types,
    constants: &'a Constants,
    half: HalfPrecision,
    producers: HashMap<&'a str, &'a NodeProto>,
    /// How often a value is used.
    uses: HashMap<&'a str, usize>,
    decision: Decision,
}

/// Decides for the model of `graph`, whose operators are of version `opset`.
pub(super) fn decide(
    graph: &GraphProto,
    types: &Types,
    constants: &Constants,
    half: HalfPrecision,
    opset: i64,
) -> Decision {
    let nodes = nodes_of(graph);
    let mut uses: HashMap<&str, usize> = HashMap::new();
    let inner = |node: &&&NodeProto| operators::is_control(node);
    let outputs = nodes.iter().filter(inner).flat_map(|node| &node.attribute);
    let outputs =
        outputs.flat_map(|held| held.g.iter().chain(&held.graphs)).chain([graph]).flat_map(|graph| &graph.output);
    for name in nodes.iter().flat_map(|node| &node.input).map(String::as_str).chain(outputs.map(ValueInfoProto::name)) {
        *uses.entry(name).or_default() += 1;
    }
    let producers = nodes.iter().flat_map(|node| node.output.iter().map(|output| (output.as_str(), *node))).collect();
    let mut deciding =
        Deciding { nodes: &nodes, types, constants, half, producers, uses, decision: Decision::default() };
    deciding.each(opset);
    deciding.attention();
    deciding.squares();
    deciding.decision
}

impl<'a> Deciding<'a> {
    /// Goes through the nodes once, in their order.
    fn each(&mut self, opset: i64) {
        let (mut counted, mut statistics): (HashSet<&str>, HashSet<&str>) = (HashSet::new(), HashSet::new());
        for node in self.nodes.iter().copied().filter(|node| !operators::is_control(node)) {
            let floats = self.floats(node);
            let gives_float = node.output.iter().any(|output| self.types.is_float(output));
            if floats.is_empty() && !gives_float {
                continue;
            }
            let constant = |name: &&str| self.constants.contains_key(*name);
            let only = |kind: &HashSet<&str>| floats.iter().all(|name| kind.contains(name) || constant(name));
            let starts = gives_float && floats.is_empty() && self.starts(node);
            let is_counted = starts || (!floats.is_empty() && only(&counted));
            let some = floats.iter().any(|name| statistics.contains(name));
            let is_statistic =
                operators::is_reduction(node) || (some && only(&statistics) && operators::keeps_statistic(node));
            let is_extreme = floats.iter().any(|name| self.is_extreme(name));
            let single = is_counted
                || is_statistic
                || is_extreme
                || (some && operators::uses_statistic(node))
                || operators::stays(node, self.half, opset);
            if !single {
                continue;
            }
            let is_wide = self.is_wide(node, &floats);
            for output in node.output.iter().filter(|output| !output.is_empty()) {
                if is_counted {
                    counted.insert(output);
                }
                if is_statistic {
                    statistics.insert(output);
                }
                if is_wide {
                    self.decision.wide.insert(output.clone());
                }
            }
            self.keep(node);
        }
    }

    /// The float32 values that `node` is fed with.
    fn floats(&self, node: &'a NodeProto) -> Vec<&'a str> {
        node.input.iter().map(String::as_str).filter(|name| self.types.is_float(name)).collect()
    }

    /// Whether `node` makes float32 numbers of integers or of nothing.
    fn starts(&self, node: &NodeProto) -> bool {
        match node.op_type() {
            "ConstantOfShape" | "Range" => true,
            "Cast" | "CastLike" => node.input.first().is_some_and(|name| self.types.is_integer(name)),
            _ => false,
        }
    }

    /// Whether `value` is one number that becomes zero or infinite.
    fn is_extreme(&self, value: &str) -> bool {
        let number = self.constants.get(value).and_then(one_number);
        number.is_some_and(|number| self.half.overflows(number) || self.half.vanishes(number))
    }

    /// Whether `node`, which is computed in float32, gives numbers that are out of range. Those come from constants.
    fn is_wide(&self, node: &NodeProto, floats: &[&str]) -> bool {
        let fill = node.attribute.iter().filter(|held| held.name() == "value").find_map(|held| held.t.as_ref());
        let wide = |name: &&str| {
            self.decision.wide.contains(*name) || self.constants.get(*name).is_some_and(|tensor| self.overflows(tensor))
        };
        let stays_small = matches!(node.op_type(), "Softmax" | "LogSoftmax" | "Cos" | "Sin");
        !stays_small && (floats.iter().any(wide) || fill.is_some_and(|tensor| self.overflows(tensor)))
    }

    fn overflows(&self, tensor: &TensorProto) -> bool {
        elements(tensor).is_some_and(|all| weights::numbers(all).any(|number| self.half.overflows(number)))
    }

    /// Keeps in float32 what stands between a softmax and the product of queries and keys.
    fn attention(&mut self) {
        for softmax in self.nodes.iter().copied().filter(|node| matches!(node.op_type(), "Softmax" | "LogSoftmax")) {
            let mut values = self.floats(softmax);
            let mut most = MOST_SCORES;
            while let Some(value) = values.pop() {
                let Some(node) = self.producers.get(value).copied() else { continue };
                let once = self.uses.get(value) == Some(&1);
                let is_single = key(node).is_some_and(|key| self.decision.single.contains(key));
                if is_single || !once || !operators::is_score(node) || most == 0 {
                    continue;
                }
                most -= 1;
                let floats = self.floats(node);
                if self.is_wide(node, &floats) {
                    self.decision.wide.extend(node.output.first().cloned());
                }
                self.keep(node);
                values.extend(floats);
            }
        }
    }

    /// Keeps in float32 the squares that a reduction adds.
    fn squares(&mut self) {
        for reduction in self.nodes.iter().copied().filter(|node| operators::is_reduction(node)) {
            let squares = self.floats(reduction).into_iter().filter_map(|value| self.producers.get(value).copied());
            let squares: Vec<_> = squares.filter(|node| operators::is_square(node)).collect();
            for node in squares {
                self.keep(node);
            }
        }
    }

    fn keep(&mut self, node: &NodeProto) {
        self.decision.single.extend(key(node).map(str::to_owned));
    }
}

/// The elements of `tensor`, float32, if they are in the graph.
pub(super) fn elements(tensor: &TensorProto) -> Option<&[u8]> {
    tensor.raw_data.as_ref().or(tensor.float_data.as_ref()).map(AsRef::as_ref)
}

fn one_number(tensor: &TensorProto) -> Option<f32> {
    let mut numbers = elements(tensor).map(weights::numbers)?;
    numbers.next().filter(|_| numbers.next().is_none())
}
