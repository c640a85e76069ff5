//! Opens the graph of a decoder, optimised for being run in many steps. In: its file, the inputs that are the same in all steps, and
//! probe inputs of several sizes. Out: the opened graphs. No file is changed.

use super::elide_copies::elide_copies;
use super::file::OnnxFile;
use super::fold_shapes::{ProbeInputs, Sizes};
use super::hoist::{HoistedGraph, hoist};
use crate::onnx::error::OnnxError;
use crate::onnx::port::GraphSource;
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
        let file = OnnxFile::read(source)?;
        let sizes = Sizes::find(&file, &file.graph, probes, options)?;
        let folded_sizes = sizes.count();
        let (graph, elided_copies) = elide_copies(sizes.fold(&file.graph));
        let (hoisted, graph) = match hoist(&file, &graph, invariant, options)? {
            Some((hoisted, step)) => (Some(hoisted), sizes.merge(step)),
            None => (None, sizes.merge(graph)),
        };
        let step = if hoisted.is_none() && folded_sizes + elided_copies == 0 {
            source.open(options)?
        } else {
            Session::open_edited(&source.path, &file.encode(graph)?, options)?
        };
        Ok(Self { hoisted, step, folded_sizes, elided_copies })
    }
}
