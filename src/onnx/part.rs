//! The part of a graph that follows from some of its inputs. In: a graph, the outputs that are wanted, those inputs, and trials.
//! Out: a graph that takes those inputs alone, opened.
//!
//! A decoder's graph for the first step computes the keys and values of cross-attention from the states that are attended to, but
//! shapes them by the size of a batch that it takes from the tokens. Trials tell that this is the size of the states' own.

use bytes::Bytes;

use super::copies::without_copies;
use super::cut::cut;
use super::error::OnnxError;
use super::fold::{Sizes, Trial};
use super::graph::{Graph, GraphOptions};
use super::messages::{GraphProto, NodeProto, TensorProto};
use super::port::DataType;
use super::source::{GraphSource, ModelFile};

/// Opens the part of the graph of `source` that gives `outputs` from its inputs `from`, `[batch, ...]`; `None` if they follow from
/// other inputs too.
///
/// # Errors
/// When the file cannot be read, or ONNX Runtime refuses the part.
pub fn open_part(
    source: &GraphSource,
    outputs: &[String],
    from: &[&str],
    trials: Vec<Trial>,
    options: GraphOptions,
) -> Result<Option<Graph>, OnnxError> {
    let Some(first) = from.first() else { return Ok(None) };
    let file = ModelFile::read(source)?;
    let sizes = Sizes::find(&file, &with_batch_size(file.graph.clone(), first), trials, options)?;
    let graph = sizes.merge(with_batch_size(sizes.fold(&file.graph), first));
    let wanted = graph.output.iter().filter(|output| outputs.iter().any(|name| name == output.name()));
    let (part, _) = without_copies(cut(&graph, wanted.cloned().collect(), Vec::new()));
    let weight = |name: &str| part.initializer.iter().any(|tensor| tensor.name() == name);
    if !part.input.iter().all(|input| from.contains(&input.name()) || weight(input.name())) {
        return Ok(None);
    }
    Graph::open_edited(&source.path, &file.encode(part)?, options).map(Some)
}

/// `graph` with the size of axis 0 of its input `of` computed before everything else, so that it takes the place of what equals it.
fn with_batch_size(mut graph: GraphProto, of: &str) -> GraphProto {
    let [shape, zero, size] = ["shape", "first axis", "batch size"].map(|what| format!("{what} of {of} (nightcap)"));
    let nodes = [
        NodeProto::of("Shape", vec![of.to_owned()], &shape),
        NodeProto::of("Gather", vec![shape.clone(), zero.clone()], &size),
    ];
    graph.node.splice(0..0, nodes);
    graph.initializer.push(TensorProto {
        name: Some(zero),
        data_type: DataType::I64.to_onnx(),
        raw_data: Some(Bytes::from_static(&[0; 8])),
        ..TensorProto::default()
    });
    graph
}
