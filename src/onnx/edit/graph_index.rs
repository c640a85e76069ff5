//! Navigation of a graph. In: a graph, and the index of the graph around it, if it is a branch. Out: for a value, the node that computes
//! it, the nodes that use it, and its constant.

use std::collections::{HashMap, HashSet};

use super::extract::uses;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// How many copies of a constant are followed.
const MOST_COPIES: usize = 8;

/// Who computes and who uses each value of a graph.
#[derive(Debug)]
pub(crate) struct GraphIndex<'a> {
    pub(crate) graph: &'a GraphProto,
    outer: Option<&'a Self>,
    producers: HashMap<&'a str, usize>,
    consumers: HashMap<&'a str, Vec<usize>>,
    constants: HashMap<&'a str, &'a TensorProto>,
    outputs: HashSet<&'a str>,
}

impl<'a> GraphIndex<'a> {
    /// The index of `graph`, which is a branch of a node in the graph of `outer`, if there is one.
    pub(crate) fn new(graph: &'a GraphProto, outer: Option<&'a Self>) -> Self {
        let mut producers = HashMap::new();
        let mut consumers: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut constants: HashMap<&str, &TensorProto> =
            graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
        for (number, node) in graph.node.iter().enumerate() {
            producers.extend(node.output.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), number)));
            for name in uses(node) {
                let users = consumers.entry(name).or_default();
                if users.last() != Some(&number) {
                    users.push(number);
                }
            }
            if let ("Constant", Some(tensor), Some(output)) =
                (node.op_type(), attribute(node, "value").and_then(|a| a.t.as_ref()), node.output.first())
            {
                constants.insert(output, tensor);
            }
        }
        let outputs = graph.output.iter().map(ValueInfoProto::name).collect();
        Self { graph, outer, producers, consumers, constants, outputs }
    }

    /// The number of the node of this graph that computes `value`.
    pub(crate) fn position(&self, value: &str) -> Option<usize> {
        self.producers.get(value).copied()
    }

    /// The node of this graph that computes `value`.
    pub(crate) fn producer(&self, value: &str) -> Option<&'a NodeProto> {
        self.producers.get(value).map(|&number| &self.graph.node[number])
    }

    /// The node that computes `value`, if its operator is `op_type`.
    pub(crate) fn producer_of(&self, value: &str, op_type: &str) -> Option<&'a NodeProto> {
        self.producer(value).filter(|node| node.op_type() == op_type)
    }

    /// The nodes that use `value`, also inside their branches, in the graph's order.
    pub(crate) fn consumers(&self, value: &str) -> impl Iterator<Item = &'a NodeProto> {
        let graph = self.graph;
        self.consumers.get(value).into_iter().flatten().map(move |&number| &graph.node[number])
    }

    /// Whether `value` is an output of the graph.
    pub(crate) fn is_output(&self, value: &str) -> bool {
        self.outputs.contains(value)
    }

    /// The tensor of `value`, if it is an initializer or a constant, also of a graph around this one, or a copy (`Identity`) of one.
    pub(crate) fn constant(&self, value: &str) -> Option<&'a TensorProto> {
        let mut value = value;
        // a damaged file may have a circle of copies
        for _ in 0..MOST_COPIES {
            if let Some(tensor) = self.constants.get(value) {
                return Some(tensor);
            }
            match self.producer(value) {
                Some(node) if node.op_type() == "Identity" => value = node.input.first()?,
                Some(_) => return None,
                None => return self.outer?.constant(value),
            }
        }
        None
    }
}

/// The attribute of `node` called `name`.
pub(crate) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name() == name)
}

/// The number of `node`'s attribute called `name`.
pub(crate) fn integer(node: &NodeProto, name: &str) -> Option<i64> {
    attribute(node, name)?.i
}

/// The numbers of `node`'s attribute called `name`; none if there is no such attribute.
pub(crate) fn integers<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    attribute(node, name).map_or(&[], |attribute| &attribute.ints)
}
