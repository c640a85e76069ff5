//! What an exported step computes from the number of tokens so far: positions, and masks over the tokens. In: a graph, and probe runs with
//! caches of several lengths. Out: the graph with positions that follow from the rows' lengths; whether a mask hides anything.

use std::collections::{HashMap, HashSet};

use super::outcome::NotStatic;
use super::ports::{ProbeRows, StepPort, StepPorts, declared};
use super::step::LENGTHS;
use super::values::integers;
use crate::onnx::edit::attention::site::{Mask, MaskKind};
use crate::onnx::edit::extract::{extract, uses};
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::edit::fold_shapes::ProbeInputs;
use crate::onnx::edit::graph_index::integer;
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::port::{DataType, Port};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto};
use crate::onnx::runtime::session::{GraphOptions, Outputs, Session, SessionInput};
use crate::onnx::runtime::tensor::Tensor;

/// The positions of the rows' tokens, int64 `[batch, 1]`.
const POSITIONS: &str = "static.positions";

/// Rows, tokens in the cache, and encoder states of the probe runs for positions and sizes.
const PROBES: [(usize, usize, usize); 5] = [(2, 3, 5), (3, 4, 8), (4, 6, 11), (1, 5, 13), (5, 9, 7)];

/// Cache lengths at which masks are looked at: among them some behind the windows that models have.
const LENGTHS_OF_MASKS: [usize; 12] = [1, 2, 3, 7, 33, 130, 258, 514, 1026, 2050, 4098, 8194];
/// The most elements of a cache in a probe run.
const MOST_ELEMENTS: usize = 16 << 20;

/// The outcomes of one value in every probe run.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) rows: usize,
    pub(super) past: usize,
    pub(super) shape: Vec<usize>,
    pub(super) elements: Vec<i64>,
}

/// Inputs of `graph` for probe runs that show its sizes.
pub(super) fn probes(graph: &GraphProto, ports: &StepPorts) -> Result<Vec<ProbeInputs>, OnnxError> {
    let mut probes = Vec::new();
    for (rows, past, attended) in PROBES {
        let probe = ProbeRows { lengths: vec![past; rows], first: 0, attended, cache: None };
        let mut inputs = ProbeInputs::new();
        for (name, kind) in &ports.inputs {
            if let Ok(port) = declared(graph, name) {
                inputs.push((name.clone(), value(&probe, &port, kind)?));
            }
        }
        probes.push(inputs);
    }
    Ok(probes)
}

/// The values of `graph` that follow from sizes, and from inputs that count tokens, without regard to what the tokens are.
pub(super) fn counted<'a>(graph: &'a GraphProto, ports: &StepPorts) -> Vec<&'a str> {
    let counts = |name: &str| {
        let kind = ports.inputs.iter().find(|(input, _)| input == name).map(|(_, kind)| kind);
        matches!(kind, Some(StepPort::Position | StepPort::Mask | StepPort::Ones | StepPort::HasPast))
    };
    // whether a value follows from elements of other inputs
    let mut other: HashSet<&str> = graph.input.iter().map(ValueInfoProto::name).filter(|name| !counts(name)).collect();
    let weights: HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    other.retain(|name| !weights.contains(name));
    let mut constant = weights;
    let mut found = Vec::new();
    for node in &graph.node {
        let used = uses(node);
        let sized = matches!(node.op_type(), "Shape" | "Size");
        let inner = node.attribute.iter().any(|attribute| attribute.g.is_some());
        let outputs = node.output.iter().map(String::as_str).filter(|name| !name.is_empty());
        if inner || (!sized && used.iter().any(|name| other.contains(name))) {
            other.extend(outputs);
        } else if !sized && used.iter().all(|name| constant.contains(name)) {
            constant.extend(outputs);
        } else {
            found.extend(outputs);
        }
    }
    found
}

/// What the int64 values among `wanted` of `graph`, made from that of `file`, are in the probe runs. Values of more than 64 elements are
/// left out.
pub(super) fn probe(
    file: &OnnxFile,
    graph: &GraphProto,
    ports: &StepPorts,
    wanted: &[&str],
    options: GraphOptions,
) -> Result<Result<HashMap<String, Vec<Seen>>, NotStatic>, OnnxError> {
    const MOST: usize = 64;
    let mut found: HashMap<String, Vec<Seen>> = HashMap::new();
    if wanted.is_empty() {
        return Ok(Ok(found));
    }
    let mut session = match open(file, graph, wanted, options)? {
        Ok(session) => session,
        Err(not) => return Ok(Err(not)),
    };
    for (rows, past, attended) in PROBES {
        let probe = ProbeRows { lengths: vec![past; rows], first: 0, attended, cache: None };
        let outputs = match run(&mut session, graph, ports, &probe)? {
            Ok(outputs) => outputs,
            Err(not) => return Ok(Err(not)),
        };
        for name in wanted {
            let Ok(value) = outputs.any(name) else { continue };
            if value.dtype() != DataType::I64 || value.shape().iter().product::<usize>() > MOST {
                continue;
            }
            let (shape, elements) =
                (value.shape(), if value.shape().contains(&0) { Vec::new() } else { value.to_i64()?.to_vec() });
            found.entry((*name).to_owned()).or_default().push(Seen { rows, past, shape, elements });
        }
    }
    found.retain(|_, seen| seen.len() == PROBES.len());
    Ok(Ok(found))
}

/// `graph` with positions that follow from the rows' lengths, where `seen` shows that a value is the number of tokens so far, and an
/// embedding or an angle is computed from it.
pub(super) fn with_positions(
    mut graph: GraphProto,
    ports: &StepPorts,
    seen: &HashMap<String, Vec<Seen>>,
) -> GraphProto {
    let mut front = Positions { nodes: Vec::new(), constants: Vec::new(), names: HashMap::new() };
    let given: HashSet<String> = ports.of(&StepPort::Position).map(str::to_owned).collect();
    let shapes: HashMap<&str, (usize, i64)> =
        seen.iter().filter_map(|(name, seen)| Some((name.as_str(), position(seen)?))).collect();
    for node in &mut graph.node {
        let taken: Option<usize> = match node.op_type() {
            "Gather" | "GatherBlockQuantized" => Some(1),
            "Cast" if matches!(integer(node, "to"), Some(1 | 10 | 11 | 16)) => Some(0),
            _ => None,
        };
        for (place, name) in node.input.iter_mut().enumerate() {
            if given.contains(name.as_str()) {
                *name = front.of(2, 0);
            } else if taken == Some(place)
                && let Some(&(rank, offset)) = shapes.get(name.as_str())
            {
                *name = front.of(rank, offset);
            }
        }
    }
    graph.node.splice(0..0, front.nodes);
    graph.initializer.extend(front.constants);
    graph
}

/// The rank and the offset of a value that is always the number of tokens so far plus the offset.
fn position(seen: &[Seen]) -> Option<(usize, i64)> {
    let first = seen.first()?;
    let offset = first.elements.first()? - i64::try_from(first.past).ok()?;
    let fits = |seen: &Seen| {
        let here = i64::try_from(seen.past).ok().and_then(|past| past.checked_add(offset));
        let single = seen.shape.iter().skip(1).all(|&size| size == 1);
        let rows = seen.shape.first().is_some_and(|&size| size == 1 || size == seen.rows);
        single && rows && seen.elements.iter().all(|&element| Some(element) == here)
    };
    seen.iter().all(fits).then_some((first.shape.len(), offset))
}

/// The nodes that compute positions.
struct Positions {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    names: HashMap<(usize, i64), String>,
}

impl Positions {
    /// The positions plus `offset`, `[batch, 1, ...]` with `rank` axes, two at least.
    fn of(&mut self, rank: usize, offset: i64) -> String {
        let rank = rank.max(2);
        if let Some(name) = self.names.get(&(rank, offset)) {
            return name.clone();
        }
        let name = match (rank, offset) {
            (2, 0) => POSITIONS.to_owned(),
            _ => format!("{POSITIONS}.{rank}.{offset}"),
        };
        if offset != 0 {
            let (from, added) = (self.of(rank, 0), format!("{name}.offset"));
            self.constants.push(integers(&added, &[1], &[offset]));
            self.nodes.push(NodeProto::of("Add", vec![from, added], &name));
        } else {
            let shape = format!("{name}.shape");
            let sizes: Vec<i64> = std::iter::once(-1).chain(std::iter::repeat_n(1, rank - 1)).collect();
            self.constants.push(integers(&shape, &[rank], &sizes));
            self.nodes.push(NodeProto::of("Reshape", vec![LENGTHS.to_owned(), shape], &name));
        }
        self.names.insert((rank, offset), name.clone());
        name
    }
}

/// Whether no mask of `masks` hides a token or a state, at any length of the caches.
pub(super) fn hide_nothing(
    file: &OnnxFile,
    graph: &GraphProto,
    ports: &StepPorts,
    masks: &[Mask],
    options: GraphOptions,
) -> Result<Result<(), NotStatic>, OnnxError> {
    let names: Vec<&str> = masks.iter().map(|mask| mask.value.as_str()).collect();
    let counted: HashSet<&str> = counted(graph, ports).into_iter().collect();
    let constants: HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    let unknown = names.iter().find(|name| !counted.contains(**name) && !constants.contains(**name));
    if let Some(name) = unknown {
        return Ok(Err(NotStatic::because(format!(
            "the mask or bias {name:?} of an attention follows from more than lengths"
        ))));
    }
    let computed: Vec<&str> = names.into_iter().filter(|name| counted.contains(name)).collect();
    if computed.is_empty() {
        return Ok(Ok(()));
    }
    let mut session = match open(file, graph, &computed, options)? {
        Ok(session) => session,
        Err(not) => return Ok(Err(not)),
    };
    let cache = session.inputs().iter().map(|port| (1..4).filter_map(|axis| port.fixed(axis)).product::<usize>()).max();
    let positions = ports.positions.unwrap_or(usize::MAX);
    let lengths = LENGTHS_OF_MASKS.into_iter().filter(|length| *length < positions);
    for past in lengths.filter(|length| length.saturating_mul(cache.unwrap_or(1)) <= MOST_ELEMENTS) {
        let probe = ProbeRows { lengths: vec![past], first: 0, attended: 9, cache: None };
        let outputs = match run(&mut session, graph, ports, &probe)? {
            Ok(outputs) => outputs,
            Err(not) => return Ok(Err(not)),
        };
        for mask in masks.iter().filter(|mask| computed.contains(&mask.value.as_str())) {
            let value = outputs.any(&mask.value)?;
            let hides = match mask.applied {
                MaskKind::Added => value.to_f32()?.iter().any(|added| *added != 0.0),
                MaskKind::Hides(_) | MaskKind::Keeps(_) => {
                    let kept = u8::from(matches!(mask.applied, MaskKind::Keeps(_)));
                    let found = value.to_tensor().and_then(|tensor| tensor.raw_data).unwrap_or_default();
                    found.iter().any(|element| *element != kept)
                }
            };
            if hides {
                let what = format!(
                    "an attention does not take all tokens alike: see its mask or bias {:?} after {past} tokens",
                    mask.value
                );
                return Ok(Err(NotStatic::because(what)));
            }
        }
    }
    Ok(Ok(()))
}

/// Opens the part of `graph` that computes `wanted`.
fn open(
    file: &OnnxFile,
    graph: &GraphProto,
    wanted: &[&str],
    options: GraphOptions,
) -> Result<Result<Session, NotStatic>, OnnxError> {
    let outputs = wanted.iter().map(|name| ValueInfoProto::named(name)).collect();
    let asked = file.encode(extract(graph, outputs, Vec::new()))?;
    refused(Session::open_for_probes(file.path(), &asked, options))
}

/// Runs `session`, a part of `graph`, on `probe`.
fn run(
    session: &mut Session,
    graph: &GraphProto,
    ports: &StepPorts,
    probe: &ProbeRows,
) -> Result<Result<Outputs, NotStatic>, OnnxError> {
    let mut feeds = Vec::new();
    for (name, kind) in &ports.inputs {
        if !session.inputs().iter().any(|port| port.name == *name) {
            continue;
        }
        let port = match declared(graph, name) {
            Ok(port) => port,
            Err(not) => return Ok(Err(not)),
        };
        feeds.push((name.as_str(), SessionInput::Owned(value(probe, &port, kind)?)));
    }
    refused(session.run(&feeds))
}

/// The value of an input whose elements do not matter if it is an embedding.
fn value(probe: &ProbeRows, port: &Port, kind: &StepPort) -> Result<Tensor, OnnxError> {
    match probe.value(port, kind)? {
        Some(value) => Ok(value),
        None => Tensor::zeros(port.dtype, &[probe.lengths.len(), 1, port.fixed(2).unwrap_or(1)]),
    }
}

/// What a probe gave; a graph that it does not run on has no static step. Results must not depend on how much memory there is.
pub(super) fn refused<T>(outcome: Result<T, OnnxError>) -> Result<Result<T, NotStatic>, OnnxError> {
    match outcome {
        Ok(found) => Ok(Ok(found)),
        Err(error) if error.kind == OnnxErrorKind::OutOfMemory => Err(error),
        Err(error) => {
            let what: String = error.what.chars().take(300).collect();
            Ok(Err(NotStatic::because(format!("a probe run failed: {what}"))))
        }
    }
}
