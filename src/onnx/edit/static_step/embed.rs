//! Token embeddings in front of a step. In: a step that takes embeddings, and the file of the graph that embeds tokens. Out: a step that
//! takes tokens.

use super::opset::{raise, version};
use super::outcome::NotStatic;
use super::ports::{EmbedGraph, declared};
use super::step::TOKENS;
use crate::onnx::edit::extract::extract;
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::edit::header::port;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};

/// What the names of the graph in front begin with.
const PREFIX: &str = "static.embed/";

/// `step`, of opset 24 and made from `file`, with `embed`, whose file is `embeds`, in front of its input `taken`.
///
/// # Errors
/// When the weights of both cannot be those of one graph, or the graph in front takes more than tokens.
pub(super) fn in_front(
    mut step: GraphProto,
    file: &OnnxFile,
    taken: &str,
    embed: &EmbedGraph,
    embeds: &OnnxFile,
) -> Result<GraphProto, NotStatic> {
    let location = embed.source.path.file_name().and_then(|name| name.to_str());
    let (Some(location), true) = (location, embed.source.path.parent() == file.path().parent()) else {
        return Err(NotStatic::because("the graph that embeds tokens is in another folder"));
    };
    let wanted = embeds.graph.output.iter().find(|output| output.name() == embed.output);
    let output = wanted.ok_or_else(|| NotStatic::because(format!("no graph gives {:?}", embed.output)))?;
    let mut front = extract(&embeds.graph, vec![output.clone()], Vec::new());
    let weight = |name: &str| front.initializer.iter().any(|tensor| tensor.name() == name);
    if let Some(other) = front.input.iter().map(ValueInfoProto::name).find(|name| *name != embed.input && !weight(name))
    {
        return Err(NotStatic::because(format!("the graph that embeds tokens takes {other:?} as well")));
    }
    let opset = version(embeds.imports()).unwrap_or_default();
    if embeds.has_functions() || front.node.iter().any(has_branches) {
        return Err(NotStatic::because("the graph that embeds tokens has functions or branches"));
    }
    front = raise(front, opset)?;
    embeds.refer(&mut front, location);
    let rename = |name: &mut String| {
        if *name == embed.input {
            TOKENS.clone_into(name);
        } else if !name.is_empty() {
            name.insert_str(0, PREFIX);
        }
    };
    for node in &mut front.node {
        node.input.iter_mut().chain(&mut node.output).for_each(rename);
    }
    for tensor in &mut front.initializer {
        tensor.name.iter_mut().for_each(rename);
    }
    let mut embedded = format!("{PREFIX}{}", embed.output);
    let to = declared(&step, taken)?.dtype;
    if port(output).dtype != to {
        let cast = format!("{embedded} (cast)");
        let to = to.to_onnx().ok_or_else(|| NotStatic::because(format!("its input {taken:?} is {to}")))?;
        let node = NodeProto::of("Cast", vec![embedded], &cast).with(AttributeProto::int("to", i64::from(to)));
        front.node.push(node);
        embedded = cast;
    }
    for input in step.node.iter_mut().flat_map(|node| &mut node.input).filter(|input| *input == taken) {
        input.clone_from(&embedded);
    }
    step.node.splice(0..0, front.node);
    step.initializer.extend(front.initializer);
    step.input.retain(|input| input.name() != taken);
    Ok(step)
}

/// Whether `node` has graphs inside it.
pub(super) fn has_branches(node: &NodeProto) -> bool {
    node.attribute.iter().any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty())
}
