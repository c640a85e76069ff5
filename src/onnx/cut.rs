//! Parts of graphs. In: a graph and the values that are wanted of it. Out: the nodes and weights that compute them, and
//! nothing else.

use std::collections::{HashMap, HashSet};

use super::messages::{GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// The part of `graph` that computes `outputs`, where the values `given` are fed instead of computed.
pub(super) fn cut(graph: &GraphProto, outputs: Vec<ValueInfoProto>, given: Vec<ValueInfoProto>) -> GraphProto {
    let fed: HashSet<&str> = given.iter().map(ValueInfoProto::name).collect();
    let mut needed: HashSet<&str> = outputs.iter().map(ValueInfoProto::name).collect();
    let mut nodes = Vec::new();
    // a graph's nodes come after those they depend on
    for node in graph.node.iter().rev() {
        if node.output.iter().any(|name| needed.contains(name.as_str()) && !fed.contains(name.as_str())) {
            needed.extend(uses(node));
            nodes.push(node.clone());
        }
    }
    nodes.reverse();
    for output in nodes.iter_mut().flat_map(|node| &mut node.output) {
        if fed.contains(output.as_str()) {
            // computed beside what is wanted, and not used
            output.push_str(" (computed)");
        }
    }
    let weights = |tensor: &&TensorProto| needed.contains(tensor.name());
    let inputs = graph.input.iter().filter(|input| needed.contains(input.name()) && !fed.contains(input.name()));
    let mut part = GraphProto {
        node: nodes,
        name: graph.name.clone(),
        initializer: graph.initializer.iter().filter(weights).cloned().collect(),
        doc_string: graph.doc_string.clone(),
        input: inputs.cloned().collect(),
        quantization_annotation: graph.quantization_annotation.clone(),
        metadata_props: graph.metadata_props.clone(),
        ..GraphProto::default()
    };
    let sparse = graph.sparse_initializer.iter().filter(|tensor| tensor.values.as_ref().is_some_and(|v| weights(&v)));
    part.sparse_initializer = sparse.cloned().collect();
    part.input.extend(given.into_iter().filter(|value| needed.contains(value.name())));
    part.output = outputs;
    part
}

/// `graph` with `instead` of what its nodes take; graphs inside them take what they took, which is still computed then.
pub(super) fn rewire(mut graph: GraphProto, instead: &HashMap<String, String>) -> GraphProto {
    for input in graph.node.iter_mut().flat_map(|node| &mut node.input) {
        if let Some(other) = instead.get(input.as_str()) {
            input.clone_from(other);
        }
    }
    let outputs = graph.output.clone();
    cut(&graph, outputs, Vec::new())
}

/// The values that `node` and the graphs inside it use; among them names that only those graphs know.
pub(super) fn uses(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> = node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            names.extend(graph.node.iter().flat_map(uses));
            names.extend(graph.output.iter().map(ValueInfoProto::name));
        }
    }
    names
}
