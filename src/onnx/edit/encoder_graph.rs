//! Opens the graph of an encoder. In: its file. Out: a session; on a GPU of a graph in which attention, and what comes before and after it,
//! is one operator each. Encoders are graphs without a cache: of images, of texts, and of both. No file is changed.
//!
//! Every replacement follows from what the graph says and holds for all inputs; the tests compare each kind of graph with its original.
//! Nothing is run to find that out when a model is opened, which would take longer than opening it. If ONNX Runtime refuses the edited
//! graph, as a version without these operators does, the graph is opened as it is.

use serde::Serialize;

use super::attention::fuse::{Fused, fuse};
use super::attention::gelu::fast_gelus;
use super::attention::layer_norm::skip_layer_norms;
use super::attention::matching::find;
use super::attention::projection::Projections;
use super::elide_copies::elide_copies;
use super::extract::extract;
use super::file::OnnxFile;
use super::graph_index::GraphIndex;
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::port::GraphSource;
use crate::onnx::proto::GraphProto;
use crate::onnx::runtime::device::Device;
use crate::onnx::runtime::session::{GraphOptions, Session};

/// What becomes one operator in an encoder's graph on a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FusedOperators {
    /// How many attentions the graph has, those included that are one operator in the file.
    pub attentions: usize,
    /// How many of them are one operator.
    pub fused_attentions: usize,
    /// Why the others are not: what was expected and what was found, each reason once.
    pub reasons: Vec<String>,
    /// How many layer normalizations are one operator with the sum before them.
    pub layer_norms: usize,
    /// How many activation functions become one operator.
    pub activations: usize,
}

impl GraphSource {
    /// Opens the graph as [`open`](Self::open) does, on a GPU with attention as one operator.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_encoder(&self, options: GraphOptions) -> Result<Session, OnnxError> {
        if !matches!(options.device, Device::Cuda(_) | Device::StandIn) {
            return self.open(options);
        }
        let file = OnnxFile::read(self)?;
        let (graph, fused) = fuse_operators(&file)?;
        if fused.fused_attentions + fused.layer_norms + fused.activations == 0 {
            return self.open(options);
        }
        match Session::open_edited(&self.path, &file.encode(graph)?, options) {
            Err(error) if error.kind == OnnxErrorKind::Load => {
                tracing::warn!(graph = %self.path.display(), "attention is not one operator: {error}");
                self.open(options)
            }
            opened => opened,
        }
    }

    /// What becomes one operator when the graph is opened on a GPU by [`open_encoder`](Self::open_encoder).
    ///
    /// # Errors
    /// [`OnnxErrorKind::Load`] if the file cannot be read.
    pub fn fused_operators(&self) -> Result<FusedOperators, OnnxError> {
        Ok(fuse_operators(&OnnxFile::read(self)?)?.1)
    }
}

/// The graph of `file` with attention, sums before layer normalizations, and GELU as one operator each.
pub(super) fn fuse_operators(file: &OnnxFile) -> Result<(GraphProto, FusedOperators), OnnxError> {
    let (graph, _) = elide_copies(file.graph.clone());
    let index = GraphIndex::new(&graph, None);
    let (found, known) = find(&index, None);
    let attentions = found.sites.len() + found.fused.len();
    let Fused { graph: with_attention, count, mut reasons } =
        fuse(&index, &known, &found, &mut Projections::new(file))?;
    let (with_norms, layer_norms) = skip_layer_norms(&GraphIndex::new(&with_attention, None), &known);
    let (edited, activations) = fast_gelus(&GraphIndex::new(&with_norms, None), &known);
    reasons.sort();
    reasons.dedup();
    let outputs = edited.output.clone();
    let fused_attentions = count + found.fused.len();
    let fused = FusedOperators { attentions, fused_attentions, reasons, layer_norms, activations };
    Ok((extract(&edited, outputs, Vec::new()), fused))
}
