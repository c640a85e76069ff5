//! Sizes are computed once, and those that are always the same not at all. In: a graph, and inputs of several sizes for it. Out:
//! the graph without the nodes that compute them.
//!
//! Exported graphs compute the width of a head, or the square root that scales attention, from the shape of a tensor whose
//! other axes vary, in every run, and the size of a batch anew in every layer. ONNX Runtime does not fold what depends on such a
//! shape, and so neither merges the scaling into the matrix product beside it nor sees that it stays the same over all steps.
//! Here the graph itself is asked: what depends on nothing but sizes, and is the same for inputs of different sizes, is taken for
//! constant; and two of which each is always what the other is are taken for one.

use std::collections::{HashMap, HashSet};

use super::cut::{cut, rewire, uses};
use super::error::{OnnxError, OnnxErrorKind};
use super::graph::{Graph, GraphOptions, Input, Outputs};
use super::messages::{GraphProto, NodeProto, TensorProto, ValueInfoProto};
use super::source::ModelFile;
use super::value::Value;

/// Inputs of a graph by name, for one run that is made to see how sizes depend on each other. Whoever gives several gives
/// every axis that varies a different size in each.
pub type Trial = Vec<(String, Value)>;

/// The most bytes of a constant: sizes are few numbers.
const MOST_BYTES: usize = 512;

/// What a value depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Depends {
    Weights,
    /// Sizes of inputs, and weights.
    Sizes,
    Contents,
}

/// What trials tell of the sizes in a graph.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// Those that are always the same.
    constants: HashMap<String, TensorProto>,
    /// Groups of values that are always equal to each other, in the order in which they are computed.
    equal: Vec<Vec<String>>,
}

impl Sizes {
    /// Runs `graph`, a part of `file`, on each of `trials`. Nothing is known where these do not fit it.
    ///
    /// # Errors
    /// When weights lie where they cannot be read, or memory ran out.
    pub(super) fn find(
        file: &ModelFile,
        graph: &GraphProto,
        trials: Vec<Trial>,
        options: GraphOptions,
    ) -> Result<Self, OnnxError> {
        let sizes = sizes(graph);
        if sizes.is_empty() || trials.len() < 2 {
            return Ok(Self::default());
        }
        let asked =
            file.encode(cut(graph, sizes.iter().map(|name| ValueInfoProto::named(name)).collect(), Vec::new()))?;
        let run_each =
            |mut opened| trials.into_iter().map(|trial| run(&mut opened, trial)).collect::<Result<Vec<_>, _>>();
        match Graph::open_for_trials(file.path(), &asked, options).and_then(run_each) {
            Ok(ran) => Ok(Self::of(graph, &sizes, &ran)),
            // may pass another time, and the same graph has to be run every time
            Err(error) if error.kind == OnnxErrorKind::OutOfMemory => Err(error),
            Err(error) => {
                tracing::debug!(graph = %file.path().display(), "sizes are not folded: {error}");
                Ok(Self::default())
            }
        }
    }

    /// How many values need not be computed.
    pub(super) fn count(&self) -> usize {
        self.constants.len() + self.equal.iter().map(|group| group.len() - 1).sum::<usize>()
    }

    /// Looks at `sizes` as they were in each of `ran`.
    fn of(graph: &GraphProto, sizes: &[&str], ran: &[Outputs]) -> Self {
        let asked: HashSet<&str> = sizes.iter().copied().collect();
        let mut constants: HashMap<String, TensorProto> = HashMap::new();
        let mut groups: Vec<(Vec<TensorProto>, Vec<String>)> = Vec::new();
        // sizes that are nothing but axes of tensors, put together in some way
        let mut axes: HashSet<&str> = HashSet::new();
        for node in graph.node.iter().filter(|node| node.output.iter().any(|output| asked.contains(output.as_str()))) {
            let varies = |name: &&&str| asked.contains(**name) && !constants.contains_key(**name);
            let known = |name: &&str| picks(node) && axes.contains(name);
            if !uses(node).iter().filter(varies).all(known) {
                continue;
            }
            axes.extend(node.output.iter().map(String::as_str));
            for output in node.output.iter().filter(|output| !output.is_empty()) {
                let seen = ran.iter().map(|outputs| outputs.any(output).ok()?.to_tensor());
                let Some(seen) = seen.collect::<Option<Vec<_>>>() else { continue };
                let small =
                    |tensor: &TensorProto| tensor.raw_data.as_ref().is_some_and(|data| data.len() <= MOST_BYTES);
                if !seen.iter().all(small) {
                    continue;
                }
                if seen.windows(2).all(|two| two[0] == two[1]) {
                    constants.insert(output.clone(), TensorProto { name: Some(output.clone()), ..seen[0].clone() });
                } else if let Some((_, group)) = groups.iter_mut().find(|(other, _)| *other == seen) {
                    group.push(output.clone());
                } else {
                    groups.push((seen, vec![output.clone()]));
                }
            }
        }
        let equal = groups.into_iter().map(|(_, group)| group).filter(|group| group.len() > 1);
        Self { constants, equal: equal.collect() }
    }

    /// `graph` with the constants instead of the nodes that compute them.
    pub(super) fn fold(&self, graph: &GraphProto) -> GraphProto {
        let declared: HashSet<&str> = graph.output.iter().map(ValueInfoProto::name).collect();
        let given = self.constants.keys().filter(|name| !declared.contains(name.as_str()));
        let given = given.map(|name| ValueInfoProto::named(name));
        let mut part = cut(graph, graph.output.clone(), given.collect());
        let (fed, inputs): (Vec<_>, Vec<_>) =
            part.input.into_iter().partition(|input| self.constants.contains_key(input.name()));
        part.input = inputs;
        // in the order of their names, so that the same graph comes out every time
        let mut fed: Vec<_> = fed.iter().filter_map(|input| self.constants.get(input.name()).cloned()).collect();
        fed.sort_by(|a, b| a.name().cmp(b.name()));
        part.initializer.extend(fed);
        part
    }

    /// `graph` with only the first of equal values computed. To be done last: what depends on the inputs of a step is among
    /// them, and would take the place of what does not.
    pub(super) fn merge(&self, graph: GraphProto) -> GraphProto {
        let computed: HashSet<&str> = graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        let mut earlier = HashMap::new();
        for group in &self.equal {
            let mut here = group.iter().filter(|name| computed.contains(name.as_str()));
            if let Some(first) = here.next() {
                earlier.extend(here.map(|name| (name.clone(), first.clone())));
            }
        }
        rewire(graph, &earlier)
    }
}

fn run(graph: &mut Graph, trial: Trial) -> Result<Outputs, OnnxError> {
    let taken: HashSet<String> = graph.inputs().iter().map(|port| port.name.clone()).collect();
    let inputs: Trial = trial.into_iter().filter(|(name, _)| taken.contains(name)).collect();
    graph.run(&inputs.iter().map(|(name, value)| (name.as_str(), Input::Shared(value))).collect::<Vec<_>>())
}

/// The values of `graph` that depend on sizes of its inputs, but not on what is in them; in the order in which they are
/// computed.
fn sizes(graph: &GraphProto) -> Vec<&str> {
    let mut depends: HashMap<&str, Depends> =
        graph.input.iter().map(|input| (input.name(), Depends::Contents)).collect();
    depends.extend(graph.initializer.iter().map(|tensor| (tensor.name(), Depends::Weights)));
    let mut sizes = Vec::new();
    for node in &graph.node {
        let of_inputs = uses(node).into_iter().filter_map(|name| depends.get(name)).max().copied();
        let kind = match of_inputs.unwrap_or(Depends::Weights) {
            _ if node.attribute.iter().any(|attribute| attribute.g.is_some()) => Depends::Contents,
            Depends::Contents if matches!(node.op_type(), "Shape" | "Size") => Depends::Sizes,
            kind => kind,
        };
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            depends.insert(output, kind);
            if kind == Depends::Sizes {
                sizes.push(output.as_str());
            }
        }
    }
    sizes
}

/// Whether `node` only picks and places elements of its inputs. What it gives of sizes that vary is constant if it is the same
/// for different ones; of an operator that compares or computes it need not be, since larger sizes may pass a threshold.
fn picks(node: &NodeProto) -> bool {
    const PICKS: [&str; 10] =
        ["Shape", "Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape", "Concat", "Cast", "Identity"];
    PICKS.contains(&node.op_type())
}
