//! Opens a graph, or the subgraph that computes some of its outputs. In: a [`GraphSource`]. Out: a [`Session`].
//!
//! The prefill graph computes the keys and values of cross-attention from the encoder's output, but the batch size in their shapes from
//! the tokens. Probe runs show that it equals the batch size of the encoder's output. That one is used instead, and the subgraph needs
//! no tokens.

use bytes::Bytes;

use super::elide_copies::elide_copies;
use super::extract::extract;
use super::file::OnnxFile;
use super::fold_shapes::{ProbeInputs, Sizes};
use crate::onnx::error::OnnxError;
use crate::onnx::port::{DataType, GraphSource};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};
use crate::onnx::runtime::session::{GraphOptions, Session};

impl GraphSource {
    /// Opens the graph, or the subgraph that computes its outputs. A subgraph is made in memory; its weights are taken from the
    /// file.
    ///
    /// # Errors
    /// As [`Session::open`], and [`OnnxErrorKind::Load`](crate::onnx::OnnxErrorKind::Load) if weights are missing or are not below the
    /// graph's folder.
    pub fn open(&self, options: GraphOptions) -> Result<Session, OnnxError> {
        let is_link = std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.is_symlink());
        if self.outputs.is_none() && !is_link {
            return Session::open(&self.path, options);
        }
        let file = OnnxFile::read(self)?;
        if self.outputs.is_some() {
            let (graph, _) = elide_copies(file.graph.clone());
            return Session::open_edited(&self.path, &file.encode(graph)?, options);
        }
        if file.locations().is_empty() {
            return Session::open(&self.path, options);
        }
        // ONNX Runtime does not follow the links of the Hugging Face cache for graphs inside nodes; `encode` resolves them
        Session::open_edited(&self.path, &file.encode(file.graph.clone())?, options)
    }
}

/// Opens the subgraph of `source` that computes `outputs` from its inputs `from`, `[batch, ...]`; `None` if they depend on other inputs,
/// too. `probes` are inputs for probe runs of the whole graph.
///
/// # Errors
/// When the file cannot be read, or ONNX Runtime refuses the subgraph.
pub fn open_subgraph(
    source: &GraphSource,
    outputs: &[String],
    from: &[&str],
    probes: Vec<ProbeInputs>,
    options: GraphOptions,
) -> Result<Option<Session>, OnnxError> {
    let Some(first) = from.first() else { return Ok(None) };
    let file = OnnxFile::read(source)?;
    let sizes = Sizes::find(&file, &with_batch_size(file.graph.clone(), first), probes, options)?;
    let graph = sizes.merge(with_batch_size(sizes.fold(&file.graph), first));
    let wanted = graph.output.iter().filter(|output| outputs.iter().any(|name| name == output.name()));
    let (subgraph, _) = elide_copies(extract(&graph, wanted.cloned().collect(), Vec::new()));
    let weight = |name: &str| subgraph.initializer.iter().any(|tensor| tensor.name() == name);
    if !subgraph.input.iter().all(|input| from.contains(&input.name()) || weight(input.name())) {
        return Ok(None);
    }
    Session::open_edited(&source.path, &file.encode(subgraph)?, options).map(Some)
}

/// `graph` with nodes at its beginning that compute the size of axis 0 of its input `of`, so that [`Sizes::merge`] replaces the values
/// that are equal to it.
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
