//! Growing caches as static ones. In: a graph that appends to its caches by `Concat`. Out: the graph that writes into them.

use super::outcome::NotStatic;
use super::ports::{StepPort, StepPorts, declared, is_compared};
use super::step::{LENGTHS, StaticCache};
use crate::onnx::edit::graph_index::{GraphIndex, integer};
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto};

/// The axis of tokens of `[batch, heads, tokens, width]`.
const TOKENS_AXIS: i64 = 2;

/// The caches of `graph` that grow.
///
/// # Errors
/// When there is none, or its shape is another one.
pub(super) fn growing(graph: &GraphProto, ports: &StepPorts) -> Result<Vec<StaticCache>, NotStatic> {
    if let Some(name) = ports.of(&StepPort::Replaced).next() {
        return Err(NotStatic::because(format!("its state {name:?} does not grow by a token a step")));
    }
    let mut caches = Vec::new();
    for (name, kind) in &ports.inputs {
        let StepPort::Growing(output) = kind else { continue };
        let port = declared(graph, name)?;
        let sizes = (port.rank(), port.fixed(1), port.fixed(2), port.fixed(3));
        let (Some(4), Some(heads), None, Some(width)) = sizes else {
            let what =
                format!("expected a cache {name:?} of shape [batch, heads, any, width], found {}", port.describe());
            return Err(NotStatic::because(what));
        };
        if !is_compared(port.dtype) {
            return Err(NotStatic::because(format!(
                "its cache {name:?} is {}; expected float32 or float16",
                port.dtype
            )));
        }
        caches.push(StaticCache { input: name.clone(), output: output.clone(), dtype: port.dtype, heads, width });
    }
    if caches.is_empty() {
        return Err(NotStatic::because("it keeps no cache: each step processes all tokens so far"));
    }
    Ok(caches)
}

/// `graph`, which writes into its `caches` at the rows' lengths instead of appending to them.
///
/// # Errors
/// When a cache is not appended to as expected.
pub(super) fn written_in_place(mut graph: GraphProto, caches: &[StaticCache]) -> Result<GraphProto, NotStatic> {
    let mut writes = Vec::new();
    {
        let index = GraphIndex::new(&graph, None);
        for cache in caches {
            let appended = index.producer(&cache.output).filter(|node| appends(node, &cache.input));
            let Some(node) = appended else {
                let found = index.producer(&cache.output).map_or("an input", NodeProto::op_type);
                let what = format!(
                    "expected {:?} to be {:?} and one token, joined by Concat; found {found}",
                    cache.output, cache.input
                );
                return Err(NotStatic::because(what));
            };
            writes.push(node.output.clone());
        }
    }
    for node in graph.node.iter_mut().filter(|node| writes.contains(&node.output)) {
        let inputs = vec![node.input[0].clone(), node.input[1].clone(), LENGTHS.to_owned()];
        let written = NodeProto::of("TensorScatter", inputs, &node.output[0]);
        *node = written.with(AttributeProto::int("axis", TOKENS_AXIS));
    }
    Ok(graph)
}

/// Whether `node` appends to `past` on the axis of tokens.
fn appends(node: &NodeProto, past: &str) -> bool {
    let axis = integer(node, "axis");
    node.op_type() == "Concat" && node.input.len() == 2 && node.input[0] == past && matches!(axis, Some(2 | -2))
}
