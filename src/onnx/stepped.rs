//! A graph that is run again and again with inputs most of which stay the same: a decoder's. In: its file, which inputs stay
//! the same, and inputs of several sizes. Out: the graph as it is run, opened. No file is changed.

use super::copies::without_copies;
use super::error::OnnxError;
use super::fold::{Sizes, Trial};
use super::graph::{Graph, GraphOptions};
use super::hoist::{Once, hoist};
use super::source::{GraphSource, ModelFile};

/// A graph for many steps.
#[derive(Debug)]
pub struct Stepped {
    /// Computes what stays the same over the steps, if anything does.
    pub once: Option<Once>,
    /// The rest: the inputs of the whole, as far as they are still used, and the values of [`once`](Self::once).
    pub step: Graph,
    /// How many sizes are not computed any more.
    pub folded: usize,
    /// How many values are not copied.
    pub not_copied: usize,
}

impl Stepped {
    /// Opens the graph of `source`, whose inputs `invariant`, `[batch, ...]`, stay the same over all steps; `trials` are runs of
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
        let file = ModelFile::read(source)?;
        let sizes = Sizes::find(&file, &file.graph, trials, options)?;
        let folded = sizes.count();
        let (graph, not_copied) = without_copies(sizes.fold(&file.graph));
        let (once, graph) = match hoist(&file, &graph, invariant, options)? {
            Some((once, step)) => (Some(once), sizes.merge(step)),
            None => (None, sizes.merge(graph)),
        };
        let step = if once.is_none() && folded + not_copied == 0 {
            Graph::open(source, options)?
        } else {
            Graph::open_edited(&source.path, &file.encode(graph)?, options)?
        };
        Ok(Self { once, step, folded, not_copied })
    }
}
