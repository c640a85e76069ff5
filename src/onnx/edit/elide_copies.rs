//! Removes copies. In: a graph. Out: an equivalent graph without the nodes whose output is a copy of their input.
//!
//! The caches of transformers are exported with `Concat` nodes that have a single input. ONNX Runtime removes `Identity` nodes but runs
//! these, and so would copy all keys and values of cross-attention in every step.

use std::collections::{HashMap, HashSet};

use super::extract::{replace_inputs, uses};
use crate::onnx::proto::{GraphProto, NodeProto, ValueInfoProto};

/// `graph` without copies, and how many nodes were removed.
pub(crate) fn elide_copies(mut graph: GraphProto) -> (GraphProto, usize) {
    let count = |graph: &GraphProto| graph.node.iter().filter(|node| copied(node).is_some()).count();
    let before = count(&graph);
    let declared: HashSet<&str> = graph.output.iter().map(ValueInfoProto::name).collect();
    // a value that a graph inside a node uses must keep its name
    let inside = |node| uses(node).into_iter().skip(own(node).count());
    let captured: HashSet<&str> = graph.node.iter().flat_map(inside).collect();
    let (mut computed, mut instead) = (HashSet::new(), HashMap::new());
    let mut renamed: HashMap<String, String> = HashMap::new();
    for node in &graph.node {
        let Some((from, to)) = copied(node) else {
            computed.extend(node.output.iter().map(String::as_str));
            continue;
        };
        let from = instead.get(from).map_or(from, String::as_str).to_owned();
        if !declared.contains(to) {
            instead.insert(to.to_owned(), from);
        } else if computed.contains(from.as_str())
            && !declared.contains(from.as_str())
            && !captured.contains(from.as_str())
        {
            renamed.entry(from).or_insert_with(|| to.to_owned());
        }
    }
    let given: HashSet<String> = renamed.values().cloned().collect();
    graph.node.retain(|node| copied(node).is_none_or(|(_, to)| !given.contains(to)));
    for output in graph.node.iter_mut().flat_map(|node| &mut node.output) {
        if let Some(name) = renamed.get(output) {
            output.clone_from(name);
        }
    }
    for from in instead.values_mut() {
        if let Some(name) = renamed.get(from) {
            from.clone_from(name);
        }
    }
    instead.extend(renamed);
    let graph = replace_inputs(graph, &instead);
    let elided = before - count(&graph);
    (graph, elided)
}

/// The inputs of `node` itself, without those of the graphs inside it.
fn own(node: &NodeProto) -> impl Iterator<Item = &String> {
    node.input.iter().filter(|name| !name.is_empty())
}

/// The input and the output of `node`, if it copies one to the other.
fn copied(node: &NodeProto) -> Option<(&str, &str)> {
    match (node.op_type(), node.input.as_slice(), node.output.as_slice()) {
        ("Concat", [from], [to]) => Some((from, to)),
        _ => None,
    }
}
