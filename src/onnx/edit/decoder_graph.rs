//! The graph of a decoder, which is run for every token with inputs most of which stay the same. In: its file, the inputs that stay
//! the same, and probe inputs of several sizes. Out: the graph optimised for that, opened. No file is changed.

use super::elide_copies::elide_copies;
use super::file::OnnxFile;
use super::fold_shapes::{Sizes, Trial};
use super::hoist::{Once, hoist};
use crate::onnx::error::OnnxError;
use crate::onnx::port::GraphSource;
use crate::onnx::runtime::session::{GraphOptions, Session};

/// A decoder's graph, opened.
#[derive(Debug)]
pub struct DecoderGraph {
    /// Computes what stays the same over the steps, if anything does.
    pub once: Option<Once>,
    /// Runs one step. Its inputs are those of the whole graph, as far as they are still used, and the values of
    /// [`once`](Self::once).
    pub step: Session,
    /// How many sizes are folded: no longer computed in each step.
    pub folded: usize,
    /// How many copies are elided: values that are no longer copied in each step.
    pub elided_copies: usize,
}

impl DecoderGraph {
    /// Opens the graph of `source`, whose inputs `invariant`, `[batch, ...]`, stay the same over all steps; `trials` are inputs of
    /// different sizes.
    ///
    /// # Errors
    /// When the file cannot be read, or ONNX Runtime refuses one of the two graphs.
    pub fn open(
        source: &GraphSource,
        invariant: &[&str],
        trials: Vec<Trial>,
        options: GraphOptions,
    ) -> Result<Self, OnnxError> {
        let file = OnnxFile::read(source)?;
        let sizes = Sizes::find(&file, &file.graph, trials, options)?;
        let folded = sizes.count();
        let (graph, elided_copies) = elide_copies(sizes.fold(&file.graph));
        let (once, graph) = match hoist(&file, &graph, invariant, options)? {
            Some((once, step)) => (Some(once), sizes.merge(step)),
            None => (None, sizes.merge(graph)),
        };
        let step = if once.is_none() && folded + elided_copies == 0 {
            source.open(options)?
        } else {
            Session::open_edited(&source.path, &file.encode(graph)?, options)?
        };
        Ok(Self { once, step, folded, elided_copies })
    }
}
