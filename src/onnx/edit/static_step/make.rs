//! Makes the static step of a decoder's graph, one edit after the other. In: the graph's file, and what feeds its inputs. Out: the step,
//! not yet compared with the exported graph.

use super::attention::{attended, masks, with_operators};
use super::branch;
use super::caches::{growing, written_in_place};
use super::counted::{counted, hide_nothing, probe, probes, with_positions};
use super::embed::{has_branches, in_front};
use super::opset::{raise, version};
use super::outcome::NotStatic;
use super::ports::{StepPort, StepPorts};
use super::shapes::{empty_slices, without_empty, without_rows, without_transposes};
use super::step::{LENGTHS, StaticCache, StaticStep, TOKENS};
use super::tables::{positions, with_tables};
use crate::onnx::edit::attention::matching::find;
use crate::onnx::edit::elide_copies::elide_copies;
use crate::onnx::edit::extract::extract;
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::edit::fold_shapes::Sizes;
use crate::onnx::edit::graph_index::GraphIndex;
use crate::onnx::error::OnnxError;
use crate::onnx::port::DataType;
use crate::onnx::proto::{
    DimensionProto, GraphProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::onnx::runtime::session::GraphOptions;

/// The output for the choice of a token.
pub(super) const LOGITS: &str = "logits";

/// The name of the size of the batch.
const BATCH: &str = "batch";

/// Passes a reason on.
macro_rules! or_not {
    ($outcome:expr) => {
        match $outcome {
            Ok(found) => found,
            Err(not) => return Ok(Err(not)),
        }
    };
}

/// The static step of the graph of `file`.
///
/// # Errors
/// When a file cannot be read, or memory ran out.
pub(super) fn make(
    file: &OnnxFile,
    ports: &StepPorts,
    options: GraphOptions,
) -> Result<Result<StaticStep, NotStatic>, OnnxError> {
    let caches = or_not!(growing(&file.graph, ports));
    if file.has_functions() {
        return Ok(Err(NotStatic::because("it has functions of its own")));
    }
    let graph = one_token(or_not!(one_graph(&file.graph, ports)), ports);
    let graph = or_not!(wanted(&graph, &caches));
    let (graph, _) = elide_copies(graph);
    let graph = Sizes::find(file, &graph, probes(&graph, ports)?, options)?.fold(&graph);
    let exported = without_empty(graph.clone(), &empty_slices(&graph));

    let values = counted(&exported, ports);
    let seen = or_not!(probe(file, &exported, ports, &values, options)?);
    let invariant = ports.invariant();
    let mut graph = with_positions(exported.clone(), ports, &seen);
    graph.input.push(declared(LENGTHS, DataType::I64, &[None]));
    let graph = without_rows(graph, &seen, &invariant);
    let found = { find(&GraphIndex::new(&graph, None), None).0 };
    if let Some(other) = found.others.first() {
        return Ok(Err(NotStatic::because(format!("{:?}: {}", other.output, other.reason))));
    }
    if let Some(fused) = found.fused.first() {
        return Ok(Err(NotStatic::because(format!("its attention is already one operator, {}", fused.operator))));
    }
    let attentions = or_not!(attended(&graph, &found.sites, &caches, &invariant));
    if attentions.is_empty() {
        return Ok(Err(NotStatic::because("it has no attention")));
    }
    or_not!(hide_nothing(file, &exported, ports, &masks(&attentions), options)?);

    let graph = or_not!(with_operators(graph, &attentions));
    let graph = without_transposes(or_not!(written_in_place(graph, &caches)));
    let graph = or_not!(wanted(&graph, &caches));
    let graph = or_not!(with_tables(file, graph, positions(ports.positions), options)?);
    if let Some(node) = graph.node.iter().find(|node| has_branches(node)) {
        return Ok(Err(NotStatic::because(format!("it has branches or loops: {}", node.op_type()))));
    }
    let mut graph = or_not!(raise(graph, version(file.imports()).unwrap_or_default()));
    if let (Some(embed), Some(taken)) = (&ports.embed, ports.of(&StepPort::Embedded).next()) {
        let embeds = OnnxFile::read(&embed.source)?;
        graph = or_not!(in_front(graph, file, taken, embed, &embeds));
    }
    let graph = or_not!(with_inputs(graph, ports, &caches));
    Ok(Ok(StaticStep { graph, caches }))
}

/// `graph` as one graph: the branch with a cache, if there are two.
fn one_graph(graph: &GraphProto, ports: &StepPorts) -> Result<GraphProto, NotStatic> {
    let Some(condition) = ports.of(&StepPort::HasPast).next() else { return Ok(graph.clone()) };
    if let Some(taken) = branch::with_cache(graph, condition)? {
        return Ok(taken);
    }
    let mut graph = graph.clone();
    graph.input.retain(|input| input.name() != condition);
    graph.initializer.push(TensorProto {
        name: Some(condition.to_owned()),
        dims: vec![1],
        data_type: DataType::Bool.to_onnx(),
        raw_data: Some(bytes::Bytes::from_static(&[1])),
        ..TensorProto::default()
    });
    Ok(graph)
}

/// `graph` whose inputs declare one token, and the same batch.
fn one_token(mut graph: GraphProto, ports: &StepPorts) -> GraphProto {
    for input in &mut graph.input {
        let kind = ports.inputs.iter().find(|(name, _)| name == input.name()).map(|(_, kind)| kind);
        let tensor = input.r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut());
        let (Some(kind), Some(shape)) = (kind, tensor.and_then(|tensor| tensor.shape.as_mut())) else { continue };
        if let (Some(batch), false) = (shape.dim.first_mut(), *kind == StepPort::HasPast) {
            *batch = DimensionProto { dim_param: Some(BATCH.to_owned()), ..DimensionProto::default() };
        }
        if let (Some(tokens), StepPort::Tokens | StepPort::Embedded | StepPort::Position) = (shape.dim.get_mut(1), kind)
        {
            *tokens = DimensionProto { dim_value: Some(1), ..DimensionProto::default() };
        }
    }
    graph
}

/// The part of `graph` that computes logits and `caches`.
fn wanted(graph: &GraphProto, caches: &[StaticCache]) -> Result<GraphProto, NotStatic> {
    let names = std::iter::once(LOGITS).chain(caches.iter().map(|cache| cache.output.as_str()));
    let output = |name: &str| {
        let found = graph.output.iter().find(|output| output.name() == name).cloned();
        found.ok_or_else(|| NotStatic::because(format!("it gives no {name:?}")))
    };
    let outputs = names.map(output).collect::<Result<_, _>>()?;
    Ok(extract(graph, outputs, Vec::new()))
}

/// `graph` with the declared inputs and outputs of a static step.
fn with_inputs(mut graph: GraphProto, ports: &StepPorts, caches: &[StaticCache]) -> Result<GraphProto, NotStatic> {
    let mut inputs = vec![declared(TOKENS, DataType::I64, &[None, Some(1)]), declared(LENGTHS, DataType::I64, &[None])];
    for (name, kind) in &ports.inputs {
        let Some(input) = graph.input.iter().find(|input| input.name() == name) else { continue };
        match kind {
            StepPort::Tokens => {
                for used in graph.node.iter_mut().flat_map(|node| &mut node.input).filter(|used| *used == name) {
                    TOKENS.clone_into(used);
                }
            }
            StepPort::Growing(_) => {
                let Some(cache) = caches.iter().find(|cache| cache.input == *name) else { continue };
                inputs.push(declared(name, cache.dtype, &[None, Some(cache.heads), None, Some(cache.width)]));
            }
            StepPort::Invariant | StepPort::Ones => inputs.push(input.clone()),
            StepPort::Embedded | StepPort::Position | StepPort::Mask | StepPort::HasPast | StepPort::Replaced => {
                return Err(NotStatic::because(format!("{name:?} is used for more than positions and attention")));
            }
        }
    }
    graph.input = inputs;
    // the exported sizes are those of one more token than the caches had
    graph.output.iter_mut().for_each(|output| {
        if let Some(tensor) = output.r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut()) {
            tensor.shape = tensor.shape.as_ref().map(|shape| open_shape(shape.dim.len()));
        }
    });
    Ok(graph)
}

fn open_shape(rank: usize) -> TensorShapeProto {
    TensorShapeProto { dim: vec![DimensionProto::default(); rank] }
}

/// A tensor `name` of these sizes, `None` for any.
fn declared(name: &str, dtype: DataType, sizes: &[Option<usize>]) -> ValueInfoProto {
    let dim =
        |size: &Option<usize>| DimensionProto { dim_value: size.map(|size| size as i64), ..DimensionProto::default() };
    let shape = Some(TensorShapeProto { dim: sizes.iter().map(dim).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: dtype.to_onnx(), shape });
    ValueInfoProto { r#type: Some(TypeProto { tensor_type, ..TypeProto::default() }), ..ValueInfoProto::named(name) }
}
