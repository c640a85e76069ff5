//! Finds the attentions of a graph and of the branches inside its nodes, for tests.

use super::matching::find;
use super::site::Attentions;
use crate::onnx::edit::graph_index::GraphIndex;
use crate::onnx::edit::known_values::KnownValues;
use crate::onnx::proto::GraphProto;

/// Finds the attentions of `graph` and of the branches inside its nodes: one result for each of these graphs, that of `graph` first.
pub(crate) fn find_everywhere(graph: &GraphProto) -> Vec<Attentions> {
    let mut found = Vec::new();
    everywhere(graph, None, None, &mut found);
    found
}

fn everywhere(
    graph: &GraphProto,
    outer: Option<&GraphIndex<'_>>,
    outer_known: Option<&KnownValues>,
    found: &mut Vec<Attentions>,
) {
    let index = GraphIndex::new(graph, outer);
    let (attentions, known) = find(&index, outer_known);
    found.push(attentions);
    for branch in graph.node.iter().flat_map(|node| &node.attribute).flat_map(|a| a.g.iter().chain(&a.graphs)) {
        everywhere(branch, Some(&index), Some(&known), found);
    }
}
