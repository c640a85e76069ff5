//! Replaces a sum and its layer normalization by one operator. In: a graph. Out: an equal graph with
//! `com.microsoft.SkipLayerNormalization`, which also adds the bias of the preceding product.
//!
//! ONNX Runtime does this itself only where the sum is used nowhere else, or where it knows all shapes.

use std::collections::{HashMap, HashSet};

use super::new_nodes::{float_attribute, microsoft};
use crate::onnx::edit::graph_index::{GraphIndex, attribute, integer};
use crate::onnx::edit::known_values::{KnownValues, Size};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};

/// The graph of `index`, whose values `known` describes, with sums and layer normalizations as one operator; and how many there are.
pub(crate) fn skip_layer_norms(index: &GraphIndex<'_>, known: &KnownValues) -> (GraphProto, usize) {
    let mut instead: HashMap<usize, NodeProto> = HashMap::new();
    let mut removed = HashSet::new();
    for (number, node) in index.graph.node.iter().enumerate() {
        let replaced = (node.op_type() == "LayerNormalization").then(|| skip_layer_norm(index, known, node)).flatten();
        if let Some((position, skip)) = replaced.filter(|(position, _)| !instead.contains_key(position)) {
            instead.insert(position, skip);
            removed.insert(number);
        }
    }
    let count = instead.len();
    let mut graph = index.graph.clone();
    graph.node = std::mem::take(&mut graph.node)
        .into_iter()
        .enumerate()
        .filter(|(number, _)| !removed.contains(number))
        .map(|(number, node)| instead.remove(&number).unwrap_or(node))
        .collect();
    (graph, count)
}

/// The operator that computes the layer normalization `node` and the sum before it, and the number of that sum's node.
fn skip_layer_norm(index: &GraphIndex<'_>, known: &KnownValues, node: &NodeProto) -> Option<(usize, NodeProto)> {
    let [input, weight, rest @ ..] = node.input.as_slice() else { return None };
    let [output] = node.output.as_slice() else { return None };
    let sum = same_type(index, known, input);
    let position = index.position(sum)?;
    let add = index.producer_of(sum, "Add")?;
    let [one, other] = add.input.as_slice() else { return None };
    let (shape, data_type) = (known.shape(sum)?, known.data_type(sum)?);
    let [.., width] = shape else { return None };
    let axis = integer(node, "axis").unwrap_or(-1);
    if shape.len() != 3 || (axis != -1 && axis != 2) {
        return None;
    }
    let whole = |name: &str| known.shape(name) == Some(shape) && known.data_type(name) == Some(data_type);
    let vector = |tensor: &TensorProto| {
        let [size] = tensor.dims.as_slice() else { return false };
        *width == Size::Number(*size) && tensor.data_type() == data_type
    };
    let constant = |name: &String| index.constant(name).filter(|tensor| vector(tensor)).map(TensorProto::name);
    let weight = own(index, constant(weight)?)?;
    let shift = match rest {
        [shift, ..] if !shift.is_empty() => own(index, constant(shift)?)?,
        _ => "",
    };
    // the bias of a product that is used nowhere else is added by the operator
    let product = |name: &str| -> Option<(String, String)> {
        let add = index.producer_of(name, "Add").filter(|_| index.consumers(name).count() == 1)?;
        let [a, b] = add.input.as_slice() else { return None };
        let (from, bias) = match (constant(a), constant(b)) {
            (Some(bias), None) => (b, bias),
            (None, Some(bias)) => (a, bias),
            _ => return None,
        };
        let bias = own(index, bias)?;
        (whole(from) && !index.is_output(name)).then(|| (from.clone(), bias.to_owned()))
    };
    if !whole(one) || !whole(other) {
        return None;
    }
    let (input, skip, bias) = match (product(other), product(one)) {
        (Some((skip, bias)), _) => (one.clone(), skip, bias),
        (None, Some((skip, bias))) => (other.clone(), skip, bias),
        (None, None) => (one.clone(), other.clone(), String::new()),
    };
    let names = [input.as_str(), &skip, weight, shift, &bias];
    let used = if bias.is_empty() { if shift.is_empty() { 3 } else { 4 } } else { 5 };
    let epsilon = attribute(node, "epsilon").and_then(|epsilon| epsilon.f).unwrap_or(1e-5);
    let outputs = [output.as_str(), "", "", sum];
    let operator =
        microsoft("SkipLayerNormalization", &names[..used], &outputs, vec![float_attribute("epsilon", epsilon)]);
    Some((position, operator))
}

/// `value` before casts to the element type that it has anyway.
fn same_type<'a>(index: &GraphIndex<'a>, known: &KnownValues, value: &'a str) -> &'a str {
    let from = index.producer_of(value, "Cast").and_then(|node| node.input.first());
    let same = from.filter(|from| known.data_type(from).is_some() && known.data_type(from) == known.data_type(value));
    same.map_or(value, String::as_str)
}

/// `name`, if it is an initializer of the graph itself: a constant node may come after the sum.
fn own<'a>(index: &GraphIndex<'a>, name: &'a str) -> Option<&'a str> {
    index.graph.initializer.iter().any(|tensor| tensor.name() == name).then_some(name)
}
