//! Extracts subgraphs. In: a graph and the wanted outputs. Out: the nodes and weights that compute them, and nothing else.

use std::collections::{HashMap, HashSet};

use crate::onnx::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// The subgraph of `graph` that computes `outputs`, with the values `given` as inputs instead of computed values.
pub(crate) fn extract(graph: &GraphProto, outputs: Vec<ValueInfoProto>, given: Vec<ValueInfoProto>) -> GraphProto {
    let fed: HashSet<&str> = given.iter().map(ValueInfoProto::name).collect();
    let mut needed: HashSet<&str> = outputs.iter().map(ValueInfoProto::name).collect();
    let mut nodes = Vec::new();
    // nodes are in topological order
    for node in graph.node.iter().rev() {
        if node.output.iter().any(|name| needed.contains(name.as_str()) && !fed.contains(name.as_str())) {
            needed.extend(uses(node));
            nodes.push(node.clone());
        }
    }
    nodes.reverse();
    for output in nodes.iter_mut().flat_map(|node| &mut node.output) {
        if fed.contains(output.as_str()) {
            // the node is needed for another output; this output must not have the name of an input
            output.push_str(" (computed)");
        }
    }
    let weights = |tensor: &&TensorProto| needed.contains(tensor.name());
    let inputs = graph.input.iter().filter(|input| needed.contains(input.name()) && !fed.contains(input.name()));
    let mut subgraph = GraphProto {
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
    subgraph.sparse_initializer = sparse.cloned().collect();
    subgraph.input.extend(given.into_iter().filter(|value| needed.contains(value.name())));
    subgraph.output = outputs;
    subgraph
}

/// `graph` with the inputs of its nodes replaced as `instead` maps them. Graphs inside nodes keep their inputs, which are then still
/// computed.
pub(crate) fn replace_inputs(mut graph: GraphProto, instead: &HashMap<String, String>) -> GraphProto {
    for input in graph.node.iter_mut().flat_map(|node| &mut node.input) {
        if let Some(other) = instead.get(input.as_str()) {
            input.clone_from(other);
        }
    }
    let outputs = graph.output.clone();
    extract(&graph, outputs, Vec::new())
}

/// The names of the values that `node` and the graphs inside it use, values computed inside those graphs included.
pub(crate) fn uses(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> = node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            names.extend(graph.node.iter().flat_map(uses));
            names.extend(graph.output.iter().map(ValueInfoProto::name));
        }
    }
    names
}
