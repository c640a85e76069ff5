//! Constant folding of sizes: constant ones are not computed, and equal ones are computed once. In: a graph, and probe inputs of
//! several sizes. Out: the graph without the nodes that compute them.
//!
//! Exported graphs compute sizes in every run: the width of an attention head and its square root from the shape of a tensor whose
//! other axes are dynamic, and the batch size again in every layer. ONNX Runtime does not fold what depends on a dynamic shape. So it
//! does not merge the scaling of attention into the preceding matrix product, and keys that are the same in all steps are scaled in
//! every step. Here the graph is run on the probe inputs. A value that depends on nothing but sizes is a constant if it is the same in
//! every probe run; two such values that are equal in every probe run are replaced by one.

use std::collections::{HashMap, HashSet};

use super::extract::{extract, replace_inputs, uses};
use super::file::OnnxFile;
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto};
use crate::onnx::runtime::session::{GraphOptions, Outputs, Session, SessionInput};
use crate::onnx::runtime::tensor::Tensor;

/// Inputs for one probe run of a graph, by name. In each of several probe runs, every dynamic axis has another size.
pub type ProbeInputs = Vec<(String, Tensor)>;

/// The most bytes of a constant: sizes are a few numbers.
const MOST_BYTES: usize = 512;

/// What a value is computed from; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ComputedFrom {
    Weights,
    /// Sizes of inputs.
    Sizes,
    /// Elements of inputs.
    Elements,
}

/// What probe runs show about the sizes in a graph.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    /// The sizes that are the same in every run.
    constants: HashMap<String, TensorProto>,
    /// Groups of values that equal each other in every run, in the order in which they are computed.
    equal: Vec<Vec<String>>,
}

impl Sizes {
    /// Runs `graph`, which was made from that of `file`, on each of `probes`. If a run fails, nothing is folded.
    ///
    /// # Errors
    /// When weights cannot be read, or memory ran out.
    pub(crate) fn find(
        file: &OnnxFile,
        graph: &GraphProto,
        probes: Vec<ProbeInputs>,
        options: GraphOptions,
    ) -> Result<Self, OnnxError> {
        let sizes = sizes(graph);
        if sizes.is_empty() || probes.len() < 2 {
            return Ok(Self::default());
        }
        let asked =
            file.encode(extract(graph, sizes.iter().map(|name| ValueInfoProto::named(name)).collect(), Vec::new()))?;
        let run_each =
            |mut opened| probes.into_iter().map(|probe| run(&mut opened, probe)).collect::<Result<Vec<_>, _>>();
        match Session::open_for_probes(file.path(), &asked, options).and_then(run_each) {
            Ok(ran) => Ok(Self::of(graph, &sizes, &ran)),
            // results must not depend on how much memory there is
            Err(error) if error.kind == OnnxErrorKind::OutOfMemory => Err(error),
            Err(error) => {
                tracing::debug!(graph = %file.path().display(), "sizes are not folded: {error}");
                Ok(Self::default())
            }
        }
    }

    /// How many values are no longer computed.
    pub(crate) fn count(&self) -> usize {
        self.constants.len() + self.equal.iter().map(|group| group.len() - 1).sum::<usize>()
    }

    /// Compares the values `sizes` of the runs `ran`.
    fn of(graph: &GraphProto, sizes: &[&str], ran: &[Outputs]) -> Self {
        let asked: HashSet<&str> = sizes.iter().copied().collect();
        let mut constants: HashMap<String, TensorProto> = HashMap::new();
        let mut groups: Vec<(Vec<TensorProto>, Vec<String>)> = Vec::new();
        // values whose elements are sizes of axes, gathered and concatenated but not calculated with
        let mut axes: HashSet<&str> = HashSet::new();
        for node in graph.node.iter().filter(|node| node.output.iter().any(|output| asked.contains(output.as_str()))) {
            let varies = |name: &&&str| asked.contains(**name) && !constants.contains_key(**name);
            let known = |name: &&str| only_gathers(node) && axes.contains(name);
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

    /// `graph` with initializers instead of the nodes that compute constants.
    pub(crate) fn fold(&self, graph: &GraphProto) -> GraphProto {
        let declared: HashSet<&str> = graph.output.iter().map(ValueInfoProto::name).collect();
        let given = self.constants.keys().filter(|name| !declared.contains(name.as_str()));
        let given = given.map(|name| ValueInfoProto::named(name));
        let mut folded = extract(graph, graph.output.clone(), given.collect());
        let (fed, inputs): (Vec<_>, Vec<_>) =
            folded.input.into_iter().partition(|input| self.constants.contains_key(input.name()));
        folded.input = inputs;
        // sorted, so that the result is the same every time
        let mut fed: Vec<_> = fed.iter().filter_map(|input| self.constants.get(input.name()).cloned()).collect();
        fed.sort_by(|a, b| a.name().cmp(b.name()));
        folded.initializer.extend(fed);
        folded
    }

    /// `graph` in which the first of each group of equal values replaces the others. To be called after `hoist`: the first may
    /// depend on inputs that change in every step even if the others do not.
    pub(crate) fn merge(&self, graph: GraphProto) -> GraphProto {
        let computed: HashSet<&str> = graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        let mut earlier = HashMap::new();
        for group in &self.equal {
            let mut here = group.iter().filter(|name| computed.contains(name.as_str()));
            if let Some(first) = here.next() {
                earlier.extend(here.map(|name| (name.clone(), first.clone())));
            }
        }
        replace_inputs(graph, &earlier)
    }
}

fn run(graph: &mut Session, probe: ProbeInputs) -> Result<Outputs, OnnxError> {
    let taken: HashSet<String> = graph.inputs().iter().map(|port| port.name.clone()).collect();
    let inputs: ProbeInputs = probe.into_iter().filter(|(name, _)| taken.contains(name)).collect();
    graph.run(&inputs.iter().map(|(name, value)| (name.as_str(), SessionInput::Shared(value))).collect::<Vec<_>>())
}

/// The values of `graph` that depend on the sizes of its inputs but not on their elements, in the order in which they are computed.
pub(super) fn sizes(graph: &GraphProto) -> Vec<&str> {
    let mut depends: HashMap<&str, ComputedFrom> =
        graph.input.iter().map(|input| (input.name(), ComputedFrom::Elements)).collect();
    depends.extend(graph.initializer.iter().map(|tensor| (tensor.name(), ComputedFrom::Weights)));
    let mut sizes = Vec::new();
    for node in &graph.node {
        let of_inputs = uses(node).into_iter().filter_map(|name| depends.get(name)).max().copied();
        let kind = match of_inputs.unwrap_or(ComputedFrom::Weights) {
            _ if node.attribute.iter().any(|attribute| attribute.g.is_some()) => ComputedFrom::Elements,
            ComputedFrom::Elements if matches!(node.op_type(), "Shape" | "Size") => ComputedFrom::Sizes,
            kind => kind,
        };
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            depends.insert(output, kind);
            if kind == ComputedFrom::Sizes {
                sizes.push(output.as_str());
            }
        }
    }
    sizes
}

/// Whether `node` only gathers, concatenates or reshapes elements of its inputs. If its output is the same in all probe runs, it is a
/// constant. The output of an operator that compares or calculates may differ at sizes that no probe run had.
fn only_gathers(node: &NodeProto) -> bool {
    const GATHERS: [&str; 10] =
        ["Shape", "Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape", "Concat", "Cast", "Identity"];
    GATHERS.contains(&node.op_type())
}
