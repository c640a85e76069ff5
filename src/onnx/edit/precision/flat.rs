//! Makes a model easy to convert. In: a model. Out: an equal one without functions, in which float32 constants are initializers and
//! a name stands for one value in all of its graphs.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::types::FLOAT;
use crate::onnx::edit::static_step::opset_version;
use crate::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};

/// Functions inside each other.
const MOST_DEPTH: usize = 32;
/// Nodes after the functions are replaced.
const MOST_NODES: usize = 1 << 20;

/// `model` without functions, with constants as initializers, with unique names.
///
/// # Errors
/// What was expected, if a function cannot be replaced by its nodes.
pub(super) fn flat(mut model: ModelProto) -> Result<ModelProto, String> {
    let functions = std::mem::take(&mut model.functions);
    let opset = opset_version(&model.opset_import);
    if let Some(other) =
        functions.iter().find(|function| opset_version(&function.opset_import).is_some_and(|own| Some(own) != opset))
    {
        return Err(format!("its function {:?} is of another opset than the graph", other.name()));
    }
    for import in functions.iter().flat_map(|function| &function.opset_import) {
        if !model.opset_import.contains(import) {
            model.opset_import.push(import.clone());
        }
    }
    if let Some(graph) = &mut model.graph {
        if !functions.is_empty() {
            let mut calls = Calls { functions: &functions, replaced: 0, nodes: 0 };
            calls.replace(graph, 0)?;
        }
        lift_constants(graph);
        unique(graph, &mut HashSet::new(), &HashMap::new());
        skip_copies(graph, &mut HashMap::new());
    }
    Ok(model)
}

/// Replaces calls of functions by the functions' nodes.
struct Calls<'a> {
    functions: &'a [FunctionProto],
    replaced: usize,
    nodes: usize,
}

impl Calls<'_> {
    fn replace(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), String> {
        let nodes = std::mem::take(&mut graph.node);
        graph.node = self.nodes(nodes, depth)?;
        Ok(())
    }

    fn nodes(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Result<Vec<NodeProto>, String> {
        let mut replaced = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            for held in &mut node.attribute {
                held.g.iter_mut().chain(&mut held.graphs).try_for_each(|graph| self.replace(graph, depth))?;
            }
            let called = |function: &&FunctionProto| {
                (function.domain(), function.name(), function.overload())
                    == (node.domain(), node.op_type(), node.overload())
            };
            match self.functions.iter().find(called) {
                Some(function) if depth < MOST_DEPTH => {
                    let body = self.body(function, &node);
                    replaced.extend(self.nodes(body, depth + 1)?);
                }
                Some(function) => return Err(format!("its function {:?} calls itself", function.name())),
                None => replaced.push(node),
            }
            self.nodes += 1;
            if self.nodes > MOST_NODES {
                return Err(format!("its functions make more than {MOST_NODES} nodes"));
            }
        }
        Ok(replaced)
    }

    /// The nodes of `function` with the values and attributes of the node `call`.
    fn body(&mut self, function: &FunctionProto, call: &NodeProto) -> Vec<NodeProto> {
        self.replaced += 1;
        let mut names: HashMap<String, String> = HashMap::new();
        for name in function.node.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty()) {
            names.insert(name.clone(), format!("{name} (call {})", self.replaced));
        }
        let given = |names: &[String], number: usize| names.get(number).cloned().unwrap_or_default();
        for (number, name) in function.input.iter().enumerate() {
            names.insert(name.clone(), given(&call.input, number));
        }
        for (number, name) in function.output.iter().enumerate() {
            let output = given(&call.output, number);
            if !output.is_empty() {
                names.insert(name.clone(), output);
            }
        }
        let mut nodes = function.node.clone();
        for node in &mut nodes {
            fill_in(node, function, call);
            rename(node, &names);
        }
        nodes
    }
}

/// Gives `node`, of the body of `function`, the attributes of `call` that it refers to; those that have no value are left out.
fn fill_in(node: &mut NodeProto, function: &FunctionProto, call: &NodeProto) {
    for mut held in std::mem::take(&mut node.attribute) {
        let value = |name: &str| {
            let given = call.attribute.iter().find(|attribute| attribute.name() == name);
            given.or_else(|| function.attribute_proto.iter().find(|attribute| attribute.name() == name))
        };
        match held.ref_attr_name.as_deref().filter(|name| !name.is_empty()).map(value) {
            Some(None) => continue,
            Some(Some(value)) => held = AttributeProto { name: held.name, ..value.clone() },
            None => {
                let inner = held.g.iter_mut().chain(&mut held.graphs).flat_map(|graph| &mut graph.node);
                inner.for_each(|node| fill_in(node, function, call));
            }
        }
        node.attribute.push(held);
    }
}

/// Renames the values of `node`, and those that the graphs inside it use.
fn rename(node: &mut NodeProto, names: &HashMap<String, String>) {
    let change = |name: &mut String| {
        if let Some(other) = names.get(name.as_str()) {
            name.clone_from(other);
        }
    };
    node.input.iter_mut().chain(&mut node.output).for_each(change);
    for graph in node.attribute.iter_mut().flat_map(|held| held.g.iter_mut().chain(&mut held.graphs)) {
        graph.node.iter_mut().for_each(|node| rename(node, names));
        graph.output.iter_mut().for_each(|output| output.name.iter_mut().for_each(change));
    }
}

/// Makes initializers of the float32 constants of `graph` and of the graphs inside it.
fn lift_constants(graph: &mut GraphProto) {
    let mut lifted = Vec::new();
    graph.node.retain_mut(|node| {
        node.attribute.iter_mut().flat_map(|held| held.g.iter_mut().chain(&mut held.graphs)).for_each(lift_constants);
        let tensor = (node.op_type() == "Constant").then(|| float_constant(node)).flatten();
        let kept = tensor.is_none();
        lifted.extend(tensor);
        kept
    });
    graph.initializer.extend(lifted);
}

fn float_constant(node: &mut NodeProto) -> Option<TensorProto> {
    let name = node.output.first()?.clone();
    let held = node.attribute.first_mut()?;
    let of = |dims: Vec<i64>, numbers: &[f32]| TensorProto {
        dims,
        data_type: Some(FLOAT),
        raw_data: Some(Bytes::from(numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>())),
        ..TensorProto::default()
    };
    let tensor = match held.name.as_deref() {
        Some("value") => held.t.take_if(|tensor| tensor.data_type() == FLOAT)?,
        Some("value_float") => of(Vec::new(), &[held.f?]),
        Some("value_floats") => of(vec![i64::try_from(held.floats.len()).ok()?], &held.floats),
        _ => return None,
    };
    Some(TensorProto { name: Some(name), ..tensor })
}

/// Leaves out copies of float32 initializers, with which exporters give one weight several names. `names` are the initializers of the
/// graphs around `graph`, by their own names and those of their copies.
fn skip_copies(graph: &mut GraphProto, names: &mut HashMap<String, String>) {
    let weights = graph.initializer.iter().filter(|tensor| tensor.data_type() == FLOAT);
    names.extend(weights.map(|tensor| (tensor.name().to_owned(), tensor.name().to_owned())));
    let outputs: HashSet<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    graph.node.retain_mut(|node| {
        for input in &mut node.input {
            if let Some(weight) = names.get(input.as_str()) {
                input.clone_from(weight);
            }
        }
        let inner = node.attribute.iter_mut().flat_map(|held| held.g.iter_mut().chain(&mut held.graphs));
        inner.for_each(|graph| skip_copies(graph, names));
        let (input, output) = (node.input.first(), node.output.first().filter(|output| !outputs.contains(*output)));
        match (input.and_then(|input| names.get(input)).cloned(), output) {
            (Some(weight), Some(output)) if node.op_type() == "Identity" => {
                names.insert(output.clone(), weight);
                false
            }
            _ => true,
        }
    });
    // a branch may give a copy that was made around it
    for output in &mut graph.output {
        if let Some(weight) = names.get(output.name()) {
            output.name = Some(weight.clone());
        }
    }
}

/// Renames the values of `graph` and of the graphs inside it whose names are `taken`; `outer` are the new names of values around it.
fn unique(graph: &mut GraphProto, taken: &mut HashSet<String>, outer: &HashMap<String, String>) {
    let mut names = outer.clone();
    let values = graph.input.iter().map(ValueInfoProto::name);
    let weights =
        graph.initializer.iter().chain(graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref()));
    let values = values.chain(weights.map(TensorProto::name));
    let values = values.chain(graph.node.iter().flat_map(|node| &node.output).map(String::as_str));
    let mut own = HashSet::new();
    for name in values.filter(|name| !name.is_empty()) {
        if !own.insert(name.to_owned()) {
            continue;
        }
        names.remove(name);
        if taken.contains(name) {
            let other =
                (2..=taken.len() + 2).map(|number| format!("{name} ({number})")).find(|other| !taken.contains(other));
            names.extend(other.map(|other| (name.to_owned(), other)));
        }
        taken.insert(names.get(name).map_or(name, String::as_str).to_owned());
    }
    let change = |name: &mut String| {
        if let Some(other) = names.get(name.as_str()) {
            name.clone_from(other);
        }
    };
    for value in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        value.name.iter_mut().for_each(change);
    }
    let sparse = graph.sparse_initializer.iter_mut().filter_map(|tensor| tensor.values.as_mut());
    graph.initializer.iter_mut().chain(sparse).for_each(|tensor| tensor.name.iter_mut().for_each(change));
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(change);
        let inner = node.attribute.iter_mut().flat_map(|held| held.g.iter_mut().chain(&mut held.graphs));
        inner.for_each(|graph| unique(graph, taken, &names));
    }
}
