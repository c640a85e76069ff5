//! Opens the graph of a decoder, optimised for being run in many steps. In: its file, the inputs that are the same in all steps, and
//! probe inputs of several sizes. Out: the opened graphs. No file is changed.

use super::elide_copies::elide_copies;
use super::extract::extract;
use super::file::OnnxFile;
use super::fold_shapes::{ProbeInputs, Sizes};
use super::graph_index::integers;
use super::hoist::{HoistedGraph, hoist};
use super::static_step::{NotStatic, StaticGraph, StaticStep, StepPorts, encode, static_step};
use crate::onnx::error::OnnxError;
use crate::onnx::port::GraphSource;
use crate::onnx::proto::GraphProto;
use crate::onnx::runtime::session::{GraphOptions, Session};

/// A decoder's graph, opened.
#[derive(Debug)]
pub struct DecoderGraph {
    /// Is run once for each batch, if there is anything to compute once.
    pub hoisted: Option<HoistedGraph>,
    /// Is run in each step. Its inputs are those of the whole graph that are still used, and the outputs of
    /// [`hoisted`](Self::hoisted).
    pub step: Session,
    /// How many sizes are no longer computed in each step, because they are constants or equal to others.
    pub folded_sizes: usize,
    /// How many values are no longer copied in each step.
    pub elided_copies: usize,
    /// The step of one shape, if one was asked for, or why there is none. It takes the outputs of [`hoisted`](Self::hoisted), too.
    pub(crate) static_step: Option<Result<StaticGraph, NotStatic>>,
}

impl DecoderGraph {
    /// Opens the graph of `source`, whose inputs `invariant`, `[batch, ...]`, are the same in all steps; `probes` are inputs for
    /// probe runs.
    ///
    /// # Errors
    /// When the file cannot be read, or ONNX Runtime refuses one of the two graphs.
    pub fn open(
        source: &GraphSource,
        invariant: &[&str],
        probes: Vec<ProbeInputs>,
        options: GraphOptions,
    ) -> Result<Self, OnnxError> {
        Self::open_with_static(source, invariant, probes, None, options)
    }

    /// Opens the graph of `source` as [`open`](Self::open) does, and makes a static step of it if `ports` are given. What is the same in
    /// all steps is then computed for both: [`step`](Self::step) takes of it what it uses.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_with_static(
        source: &GraphSource,
        invariant: &[&str],
        probes: Vec<ProbeInputs>,
        ports: Option<&StepPorts>,
        options: GraphOptions,
    ) -> Result<Self, OnnxError> {
        let file = OnnxFile::read(source)?;
        let made = ports.map(|ports| static_step(&file, ports, options)).transpose()?;
        if let Some(Err(not)) = &made {
            tracing::debug!(graph = %source.path.display(), "no static step: {not}");
        }
        let sizes = Sizes::find(&file, &file.graph, probes, options)?;
        let folded_sizes = sizes.count();
        let (graph, elided_copies) = elide_copies(sizes.fold(&file.graph));
        let (hoisted, graph, static_step) = match made {
            Some(Ok(StaticStep { graph: once, caches })) => {
                let (hoisted, rest) = match hoist(&file, &once, invariant, options, encode)? {
                    Some((hoisted, rest)) => (Some(hoisted), rest),
                    None => (None, once.clone()),
                };
                let outputs: Vec<&str> =
                    hoisted.iter().flat_map(|hoisted| &hoisted.outputs).map(String::as_str).collect();
                let graph = with_keys_of(graph, &once, &outputs);
                let computed =
                    |name: &&&str| graph.node.iter().any(|node| node.output.iter().any(|output| output == **name));
                let shared = outputs.iter().filter(computed);
                let given = shared.filter_map(|name| rest.input.iter().find(|input| input.name() == *name).cloned());
                let graph = extract(&graph, graph.output.clone(), given.collect());
                (hoisted, graph, Some(Ok((rest, caches))))
            }
            not => {
                let not = not.map(|not| not.map(|step| (step.graph, step.caches)));
                match hoist(&file, &graph, invariant, options, OnnxFile::encode)? {
                    Some((hoisted, step)) => (Some(hoisted), step, not),
                    None => (None, graph, not),
                }
            }
        };
        let step = if hoisted.is_none() && folded_sizes + elided_copies == 0 {
            source.open(options)?
        } else {
            Session::open_edited(&source.path, &file.encode(sizes.merge(graph))?, options)?
        };
        let static_step = static_step.map(|made| made.map(|(graph, caches)| StaticGraph { graph, caches, file }));
        Ok(Self { hoisted, step, folded_sizes, elided_copies, static_step })
    }
}

/// `graph` that transposes keys from the layout `[batch, heads, length, width]`, which `once` computes in nodes of its own, where both
/// transpose the same value: so that the exported step takes the keys that the static step takes.
fn with_keys_of(mut graph: GraphProto, once: &GraphProto, outputs: &[&str]) -> GraphProto {
    for node in &once.node {
        let ([name], [from], [0, 2, 1, 3]) = (node.output.as_slice(), node.input.as_slice(), integers(node, "perm"))
        else {
            continue;
        };
        let place = graph.node.iter().position(|other| other.output.contains(from));
        let (Some(place), true) = (place, outputs.contains(&name.as_str())) else { continue };
        if graph.node.iter().any(|other| other.output.contains(name)) {
            continue;
        }
        for other in graph.node.iter_mut().filter(|other| other.op_type() == "Transpose" && other.input.contains(from))
        {
            for attribute in other.attribute.iter_mut().filter(|attribute| attribute.ints == [0, 2, 3, 1]) {
                attribute.ints = vec![0, 1, 3, 2];
                other.input.clone_from(&node.output);
            }
        }
        graph.node.insert(place + 1, node.clone());
    }
    graph
}
