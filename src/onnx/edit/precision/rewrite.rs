//! Writes the graph with some nodes in the other type. In: a flat model, and which nodes stay in float32. Out: the graph, and the names
//! of the weights that are to be rounded. Where a value is needed in both types, a cast follows the node that computes it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::decide::{Constants, Decision, decide, key};
use super::half::HalfPrecision;
use super::operators;
use super::types::{FLOAT, Types};
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// A graph in the other type.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) graph: GraphProto,
    /// The initializers whose elements, still float32, are to be rounded.
    pub(super) rounded: HashSet<String>,
    /// Nodes that calculate with float32 or the other type, and those of them in float32.
    pub(super) nodes: (usize, usize),
}

/// The type of a float32 value after the conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Single,
    Half,
}

impl Form {
    const fn other(self) -> Self {
        match self {
            Self::Single => Self::Half,
            Self::Half => Self::Single,
        }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Needs {
    single: bool,
    half: bool,
}

struct Rewriter {
    half: HalfPrecision,
    types: Types,
    decision: Decision,
    constants: Constants,
    needs: HashMap<String, Needs>,
    /// How a value is computed or stored.
    stored: HashMap<String, Form>,
    /// The outputs of the model's graph.
    outputs: HashSet<String>,
    rounded: HashSet<String>,
    nodes: (usize, usize),
    /// Whether a value has to be clamped before a cast.
    clamps: bool,
}

/// The names of the bounds of the other type.
const BOUNDS: [&str; 2] = ["lowest (nightcap)", "highest (nightcap)"];

/// Rewrites `graph`, whose operators are of version `opset`.
pub(super) fn rewrite(graph: GraphProto, half: HalfPrecision, opset: i64) -> Rewritten {
    let types = Types::of(&graph);
    let constants = small_constants(&graph);
    let decision = decide(&graph, &types, &constants, half, opset);
    let outputs = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let (needs, stored, rounded) = (HashMap::new(), HashMap::new(), HashSet::new());
    let mut rewriter =
        Rewriter { half, types, decision, constants, needs, stored, outputs, rounded, nodes: (0, 0), clamps: false };
    rewriter.read(&graph, true);
    let mut graph = rewriter.graph(graph, true);
    if rewriter.clamps {
        for (name, bound) in BOUNDS.iter().zip([-half.largest(), half.largest()]) {
            graph.initializer.push(TensorProto {
                name: Some((*name).to_owned()),
                data_type: Some(FLOAT),
                raw_data: Some(Bytes::copy_from_slice(&bound.to_le_bytes())),
                ..TensorProto::default()
            });
        }
    }
    Rewritten { graph, rounded: rewriter.rounded, nodes: rewriter.nodes }
}

fn small_constants(graph: &GraphProto) -> Constants {
    let is_small = |tensor: &&TensorProto| {
        tensor.data_type() == FLOAT
            && super::decide::elements(tensor).is_some_and(|all| all.len() <= super::decide::SMALL)
    };
    let own = graph.initializer.iter().filter(is_small).map(|tensor| (tensor.name().to_owned(), tensor.clone()));
    let inner = graph.node.iter().flat_map(|node| &node.attribute).flat_map(|held| held.g.iter().chain(&held.graphs));
    own.chain(inner.flat_map(small_constants)).collect()
}

impl Rewriter {
    /// The type in which the model's graph takes and gives float32: as converters of float16 do, everything that they can; the engine
    /// has no bfloat16.
    const fn ports(&self) -> Form {
        match self.half {
            HalfPrecision::F16 => Form::Half,
            HalfPrecision::Bf16 => Form::Single,
        }
    }

    /// The form in which the node computes.
    fn form(&self, node: &NodeProto) -> Form {
        let single = key(node).is_some_and(|key| self.decision.single.contains(key));
        if single { Form::Single } else { Form::Half }
    }

    /// The form in which `node` reads its input `number`; `None` if any will do.
    fn wanted(&self, node: &NodeProto, number: usize) -> Option<Form> {
        match (node.op_type(), number) {
            ("Cast" | "Shape" | "Size", _) | ("CastLike", 0) => None,
            _ if operators::is_float32_input(node, number) => Some(Form::Single),
            _ => Some(self.form(node)),
        }
    }

    /// Notes in which forms the values of `graph` are there and needed.
    fn read(&mut self, graph: &GraphProto, top: bool) {
        let given = if top { self.ports() } else { Form::Half };
        for input in &graph.input {
            self.stored.insert(input.name().to_owned(), given);
        }
        for node in &graph.node {
            for (number, input) in node.input.iter().enumerate() {
                if let Some(form) = self.wanted(node, number) {
                    self.need(input, form);
                }
            }
            for graph in node.attribute.iter().flat_map(|held| held.g.iter().chain(&held.graphs)) {
                self.read(graph, false);
            }
            let form = self.form(node);
            for (number, output) in node.output.iter().enumerate() {
                let form = if operators::is_statistic_output(node, number) { Form::Single } else { form };
                self.stored.insert(output.clone(), form);
            }
        }
        for output in &graph.output {
            self.need(output.name(), given);
        }
        for tensor in graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref()) {
            self.stored.insert(tensor.name().to_owned(), Form::Single);
        }
        // all that use them are inside the graph
        for tensor in &graph.initializer {
            let form = if self.needs_of(tensor.name()).half { Form::Half } else { Form::Single };
            self.stored.insert(tensor.name().to_owned(), form);
        }
    }

    fn need(&mut self, value: &str, form: Form) {
        if self.types.is_float(value) {
            let needs = self.needs.entry(value.to_owned()).or_default();
            match form {
                Form::Single => needs.single = true,
                Form::Half => needs.half = true,
            }
        }
    }

    fn needs_of(&self, value: &str) -> Needs {
        self.needs.get(value).copied().unwrap_or_default()
    }

    fn stored_of(&self, value: &str) -> Form {
        self.stored.get(value).copied().unwrap_or(Form::Single)
    }

    /// The name of `value` in `form`. An output of the model keeps its name in the form in which the model gives it.
    fn name(&self, value: &str, form: Form) -> String {
        let own = if self.outputs.contains(value) { self.ports() } else { self.stored_of(value) };
        match form {
            _ if !self.types.is_float(value) || form == own => value.to_owned(),
            Form::Single => format!("{value} (float32)"),
            Form::Half => format!("{value} ({})", self.half.onnx_name()),
        }
    }

    const fn data_type(&self, form: Form) -> i32 {
        match form {
            Form::Single => FLOAT,
            Form::Half => self.half.data_type(),
        }
    }

    fn graph(&mut self, mut graph: GraphProto, top: bool) -> GraphProto {
        let mut nodes = Vec::with_capacity(graph.node.len());
        let weights: HashSet<String> = graph.initializer.iter().map(|tensor| tensor.name().to_owned()).collect();
        for input in &mut graph.input {
            let name = input.name().to_owned();
            if self.types.is_float(&name) {
                let form = self.stored_of(&name);
                input.name = Some(self.name(&name, form));
                set_type(input, self.data_type(form));
            }
            if !weights.contains(&name) {
                self.cast(&name, &mut nodes);
            }
        }
        for tensor in graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref()) {
            self.cast(tensor.name(), &mut nodes);
        }
        for tensor in std::mem::take(&mut graph.initializer) {
            self.weight(tensor, &mut graph.initializer, &mut nodes);
        }
        for node in std::mem::take(&mut graph.node) {
            let outputs = node.output.clone();
            let node = self.node(node);
            nodes.push(node);
            for output in &outputs {
                self.cast(output, &mut nodes);
            }
        }
        graph.node = nodes;
        graph.value_info.retain(|value| self.types.get(value.name()) > FLOAT);
        let given = if top { self.ports() } else { Form::Half };
        for output in &mut graph.output {
            if self.types.is_float(output.name()) {
                output.name = Some(self.name(output.name(), given));
                set_type(output, self.data_type(given));
            }
        }
        graph
    }

    /// Adds a weight in the forms in which it is needed.
    fn weight(&mut self, mut tensor: TensorProto, weights: &mut Vec<TensorProto>, nodes: &mut Vec<NodeProto>) {
        let name = tensor.name().to_owned();
        if self.types.is_float(&name) {
            let (form, needs) = (self.stored_of(&name), self.needs_of(&name));
            if form == Form::Half && needs.single {
                if let Some(small) = self.constants.get(&name) {
                    weights.push(TensorProto { name: Some(self.name(&name, Form::Single)), ..small.clone() });
                } else {
                    self.cast(&name, nodes);
                }
            }
            tensor.name = Some(self.name(&name, form));
            if form == Form::Half {
                self.rounded.insert(tensor.name().to_owned());
            } else if needs.half {
                self.cast(&name, nodes);
            }
        }
        weights.push(tensor);
    }

    fn node(&mut self, mut node: NodeProto) -> NodeProto {
        let form = self.form(&node);
        let floats = node.input.iter().chain(&node.output).any(|name| self.types.is_float(name));
        if floats && !operators::is_control(&node) {
            self.nodes.0 += 1;
            self.nodes.1 += usize::from(form == Form::Single);
        }
        let to = node.output.first().filter(|output| node.op_type() == "Cast" && self.types.is_float(output));
        let to = to.map(|output| i64::from(self.data_type(self.stored_of(output))));
        let wanted: Vec<_> = (0..node.input.len()).map(|number| self.wanted(&node, number)).collect();
        for (input, form) in node.input.iter_mut().zip(wanted) {
            *input = self.name(input, form.unwrap_or_else(|| self.stored_of(input)));
        }
        for output in &mut node.output {
            *output = self.name(output, self.stored_of(output));
        }
        for held in &mut node.attribute {
            if let Some(to) = to.filter(|_| held.name() == "to") {
                held.i = Some(to);
            }
            held.g = held.g.take().map(|graph| self.graph(graph, false));
            held.graphs = std::mem::take(&mut held.graphs).into_iter().map(|graph| self.graph(graph, false)).collect();
        }
        node
    }

    /// Adds a cast of `value` to the other form, if it is needed.
    fn cast(&mut self, value: &str, nodes: &mut Vec<NodeProto>) {
        let (form, needs) = (self.stored_of(value).other(), self.needs_of(value));
        if !self.types.is_float(value) || !(if form == Form::Half { needs.half } else { needs.single }) {
            return;
        }
        let (mut from, to) = (self.name(value, form.other()), self.name(value, form));
        if form == Form::Half && self.decision.wide.contains(value) {
            let finite = format!("{value} (finite)");
            nodes.push(named(NodeProto::of("Clip", [&[from], BOUNDS.map(str::to_owned).as_slice()].concat(), &finite)));
            (from, self.clamps) = (finite, true);
        }
        let cast = NodeProto::of("Cast", vec![from], &to);
        let to = AttributeProto::int("to", i64::from(self.data_type(form)));
        nodes.push(named(NodeProto { attribute: vec![to], ..cast }));
    }
}

/// `node` with the name of its output.
fn named(node: NodeProto) -> NodeProto {
    NodeProto { name: node.output.first().cloned(), ..node }
}

fn set_type(value: &mut ValueInfoProto, data_type: i32) {
    if let Some(tensor) = value.r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut()) {
        tensor.elem_type = Some(data_type);
    }
}
