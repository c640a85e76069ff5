//! Takes the branch with a cache out of a merged decoder. In: a graph whose nodes are inside an `If` on whether there is a cache. Out: the
//! graph of that branch, which shares the weights of the whole graph.

use std::collections::{HashMap, HashSet};

use super::outcome::NotStatic;
use crate::onnx::edit::extract::extract;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};

/// `graph` with the nodes of its branch for `condition` = true instead of the `If` on that input; `None` if no node depends on it.
///
/// # Errors
/// When there is such an `If` without the branch, or several.
pub(super) fn with_cache(graph: &GraphProto, condition: &str) -> Result<Option<GraphProto>, NotStatic> {
    let is_if = |node: &&NodeProto| node.op_type() == "If" && node.input.first().is_some_and(|name| name == condition);
    let mut found = graph.node.iter().filter(is_if);
    let (Some(node), None) = (found.next(), found.next()) else {
        return if graph.node.iter().any(|node| is_if(&node)) {
            Err(NotStatic::because(format!("it has several branches on {condition}")))
        } else {
            Ok(None)
        };
    };
    let taken = node.attribute.iter().find(|attribute| attribute.name() == "then_branch");
    let Some(branch) = taken.and_then(|attribute: &AttributeProto| attribute.g.as_ref()) else {
        return Err(NotStatic::because(format!("its branch on {condition} has no graph")));
    };
    let outputs = node.output.iter().zip(branch.output.iter().map(ValueInfoProto::name));
    let computed: HashSet<&str> = branch.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let (mut named, mut copies) = (HashMap::new(), Vec::new());
    for (outer, inner) in outputs {
        if computed.contains(inner) && !named.contains_key(inner) {
            named.insert(inner, outer.as_str());
        } else {
            let from = named.get(inner).copied().unwrap_or(inner);
            copies.push(NodeProto::of("Identity", vec![from.to_owned()], outer));
        }
    }
    let rename = |name: &mut String| {
        if let Some(outer) = named.get(name.as_str()) {
            (*outer).clone_into(name);
        }
    };
    let inlined = branch.node.iter().cloned().map(|mut inner| {
        inner.input.iter_mut().chain(&mut inner.output).for_each(rename);
        inner
    });
    let mut whole = graph.clone();
    let at = graph.node.iter().position(|other| std::ptr::eq(other, node)).unwrap_or(0);
    whole.node.splice(at..=at, inlined.chain(copies));
    whole.initializer.extend(branch.initializer.iter().cloned());
    whole.sparse_initializer.extend(branch.sparse_initializer.iter().cloned());
    let outputs = whole.output.clone();
    Ok(Some(extract(&whole, outputs, Vec::new())))
}
