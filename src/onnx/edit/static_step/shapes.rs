//! Sizes of a step of one token. In: a graph, and what its sizes are in probe runs. Out: the graph whose shapes follow from the number of
//! rows without computing it.

use std::collections::{HashMap, HashSet};

use super::attention::changing;
use super::counted::Seen;
use super::values::integers;
use crate::onnx::edit::constants::numbers;
use crate::onnx::edit::extract::{extract, replace_inputs};
use crate::onnx::edit::graph_index::{GraphIndex, integers as node_integers};
use crate::onnx::edit::known_values::{KnownValues, Size};
use crate::onnx::proto::{GraphProto, NodeProto};

/// An element of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Constant(i64),
    Rows,
    Other,
}

/// `graph` whose reshapes and expansions to a shape that has the number of rows do without that number: there is one dynamic axis.
///
/// Left alone is what follows from inputs that are the same in all steps, `invariant`: it is computed once, and its first axis may be another.
pub(super) fn without_rows(mut graph: GraphProto, seen: &HashMap<String, Vec<Seen>>, invariant: &[&str]) -> GraphProto {
    let (mut constants, mut count) = (Vec::new(), 0);
    let changing: HashSet<String> = changing(&graph, invariant).into_iter().map(str::to_owned).collect();
    for node in &mut graph.node {
        let of = if node.op_type() == "Expand" { &node.output } else { &node.input };
        if !of.first().is_some_and(|name| changing.contains(name)) {
            continue;
        }
        let Some(shape) = node.input.get(1).and_then(|name| seen.get(name)) else { continue };
        let Some(elements) = elements(shape) else { continue };
        let target = match node.op_type() {
            "Reshape" => reshaped(&elements),
            // what has one row is broadcast where it is used
            "Expand" => elements.iter().map(|element| expanded(*element)).collect(),
            _ => None,
        };
        if let Some(target) = target {
            let name = format!("static.shape.{count}");
            count += 1;
            constants.push(integers(&name, &[target.len()], &target));
            node.input[1] = name;
        }
    }
    graph.initializer.extend(constants);
    let outputs = graph.output.clone();
    extract(&graph, outputs, Vec::new())
}

/// `graph` in which heads that are transposed to stand before the one token are reshaped: the order of the elements is the same.
pub(super) fn without_transposes(mut graph: GraphProto) -> GraphProto {
    let single: Vec<String> = {
        let index = GraphIndex::new(&graph, None);
        let known = KnownValues::of(&index, None, &HashMap::new());
        let single = |node: &&NodeProto| {
            let one_token = |from: &String| matches!(known.shape(from), Some([_, Size::Number(1), _, _]));
            let moved = node.op_type() == "Transpose" && node_integers(node, "perm") == [0, 2, 1, 3];
            moved && node.input.first().is_some_and(one_token)
        };
        graph.node.iter().filter(single).filter_map(|node| node.output.first().cloned()).collect()
    };
    let name = "static.heads.first";
    for node in graph.node.iter_mut().filter(|node| node.output.first().is_some_and(|output| single.contains(output))) {
        *node = NodeProto::of("Reshape", vec![node.input[0].clone(), name.to_owned()], &node.output[0]);
    }
    if !single.is_empty() {
        graph.initializer.push(integers(name, &[4], &[0, -1, 1, 0]));
    }
    graph
}

/// `graph` in which `Concat` leaves out what is empty in all probe runs: `empty` are such values.
pub(super) fn without_empty(mut graph: GraphProto, empty: &[String]) -> GraphProto {
    let mut instead = HashMap::new();
    for node in graph.node.iter_mut().filter(|node| node.op_type() == "Concat" && node.input.len() > 1) {
        let kept: Vec<String> = node.input.iter().filter(|name| !empty.contains(name)).cloned().collect();
        if let ([only], [output]) = (kept.as_slice(), node.output.as_slice()) {
            instead.insert(output.clone(), only.clone());
        } else if !kept.is_empty() {
            node.input = kept;
        }
    }
    if instead.is_empty() { graph } else { replace_inputs(graph, &instead) }
}

/// The slices of `graph` whose start and end are equal constants.
pub(super) fn empty_slices(graph: &GraphProto) -> Vec<String> {
    let index = GraphIndex::new(graph, None);
    let number = |node: &NodeProto, place: usize| match numbers(index.constant(node.input.get(place)?)?)?.as_slice() {
        [number] => Some(*number),
        _ => None,
    };
    let is_empty = |node: &&NodeProto| {
        node.op_type() == "Slice" && number(node, 1).is_some_and(|start| number(node, 2) == Some(start))
    };
    graph.node.iter().filter(is_empty).filter_map(|node| node.output.first().cloned()).collect()
}

fn elements(seen: &[Seen]) -> Option<Vec<Element>> {
    let first = seen.first()?;
    if first.shape.len() != 1 || seen.iter().any(|other| other.shape != first.shape) {
        return None;
    }
    let element = |place: usize| {
        let all = || seen.iter().map(move |seen| (seen.elements[place], seen.rows as i64));
        if all().all(|(element, _)| element == first.elements[place]) {
            Element::Constant(first.elements[place])
        } else if all().all(|(element, rows)| element == rows) {
            Element::Rows
        } else {
            Element::Other
        }
    };
    Some((0..first.elements.len()).map(element).collect())
}

fn reshaped(elements: &[Element]) -> Option<Vec<i64>> {
    let free = elements.iter().filter(|element| !matches!(element, Element::Constant(size) if *size >= 0)).count();
    let size = |(place, element): (usize, &Element)| match element {
        Element::Constant(size) => Some(*size),
        Element::Rows | Element::Other if free == 1 => Some(-1),
        // as the first axis of what is reshaped
        Element::Rows if place == 0 => Some(0),
        Element::Other if free == 2 && elements[0] == Element::Rows => Some(-1),
        Element::Rows | Element::Other => None,
    };
    elements.iter().enumerate().map(size).collect()
}

fn expanded(element: Element) -> Option<i64> {
    match element {
        Element::Constant(size) => Some(size),
        Element::Rows => Some(1),
        Element::Other => None,
    }
}
